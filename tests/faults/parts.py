"""One process of the service, to be killed, stopped, frozen and started again."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from orchestrator.local import child
from tests.stack import is_running

STOP_S = 20.0
_OWN = re.compile(r"^Pss_Anon:\s+(\d+) kB", re.MULTILINE)


class Part:
    """`python -m MODULE ARGUMENTS`, and all that happens to it."""

    def __init__(self, name: str, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        self._arguments = tuple(arguments)
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self.is_as_usual = False
        """It runs with its own arguments and environment, and was not frozen since."""

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} was never started"
        return self._process.pid

    @property
    def is_up(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def exit_status(self) -> int | None:
        """How it ended; None while it runs."""
        return None if self._process is None else self._process.poll()

    def start(self, *more: str, cwd: Path | None = None, **changes: str) -> None:
        """Start it; this once with `more` arguments, code from another folder, and `changes` to its environment."""
        self.is_as_usual = not (more or changes or cwd)
        environment = {**self._environment, **changes}
        if cwd is not None:
            environment["PYTHONPATH"] = str(cwd)
        with self.log.open("ab") as log:
            self._process = child.spawn(
                [sys.executable, "-P", "-m", *self._arguments, *more], env=environment, cwd=cwd, output=log
            )

    def kill(self) -> None:
        """kill -9, and nobody asked."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """SIGTERM, and wait; returns its exit status."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(STOP_S)

    def freeze(self) -> None:
        self.is_as_usual = False
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def forget(self) -> None:
        """Empty its log: what it `says` is what it says from now on."""
        os.truncate(self.log, 0)

    def says(self, words: str) -> bool:
        return words in self.log.read_text(errors="replace")


def title(pid: int) -> str:
    """What the process says it is; "" once it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def own_bytes(pid: int) -> int:
    """Memory that a process has for itself, and its share of what forks have in common; 0 once it has ended.

    Not the files it has mapped, nor what servers share: PostgreSQL's buffers fill up to their size, and stay so.
    """
    try:
        found = _OWN.search(Path(f"/proc/{pid}/smaps_rollup").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(found.group(1)) * 1024 if found else 0


def children(pid: int) -> list[int]:
    """The process's own children, as they are now."""
    running = [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit()]
    return [each for each in running if parent(each) == pid]


def parent(pid: int) -> int:
    """A process's parent; 0 once it has ended."""
    try:
        state, found = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if state == "Z" else int(found)


def of_house(mark: str) -> dict[int, str]:
    """Processes that have `mark` in their environment, whoever their parent is: process id -> command."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and is_running(int(folder.name)):
            try:
                environment = (folder / "environ").read_bytes()
                if mark.encode() in environment.split(b"\0"):
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
    return found
