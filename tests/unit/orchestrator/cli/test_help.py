"""What `--help` prints is what was written: brackets are markup to it, and vanish."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from orchestrator.cli.app import app


def commands(group: Any, *path: str) -> Iterator[tuple[str, ...]]:
    for name, command in getattr(group, "commands", {}).items():
        yield (*path, name)
        yield from commands(command, *path, name)


GROUP = typer.main.get_command(app)


@pytest.mark.parametrize("path", list(commands(GROUP)), ids=" ".join)
def test_every_option_is_explained_in_the_words_that_were_written(path: tuple[str, ...]) -> None:
    command: Any = GROUP
    for name in path:
        command = command.commands[name]
    printed = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "1000", "TERMINAL_WIDTH": "1000"}).stdout
    printed = re.sub(r"\s+", " ", printed)
    for option in command.params:
        written = getattr(option, "help", None) or ""
        assert re.sub(r"\s+", " ", written) in printed
