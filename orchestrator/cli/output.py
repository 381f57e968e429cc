"""What the command line prints: tables and lines for people, JSON with --json. Data to stdout, trouble to stderr."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Url = Annotated[
    str | None, typer.Option("--url", envvar="MUSTER_URL", help="The Muster to talk to.", show_default="port 8000 here")
]

console = Console(highlight=False)
trouble = Console(stderr=True, highlight=False)


def fail(message: str) -> None:
    trouble.print("[red]muster:[/red]", end=" ")
    trouble.print(message, markup=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """Plain, so that it can be piped: no colours, no wrapping."""
    json.dump(value, sys.stdout, ensure_ascii=False, indent=2)
    sys.stdout.write("\n")


def table(columns: Sequence[str | Column], rows: Iterable[Sequence[object]]) -> Table:
    made = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        made.add_row(*("" if cell is None else str(cell) for cell in row))
    return made
