"""Remembers engine processes on disk, so that a restarted worker can end those of its former life.

The parent-death signal already ends them; this is for the ones it misses, before they cost a device its memory.
"""

import contextlib
import json
import logging
import os
import signal
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ProcessStat:
    """A line of /proc/PID/stat."""

    pid: int
    group: int
    start_ticks: int
    """Clock ticks from boot to its start: with the pid, unique while the machine is up."""


def remember(data_dir: Path, worker: str, pid: int) -> Path:
    """Write down an engine process that leads a process group; returns the file to delete when it is gone."""
    path = _folder(data_dir, worker) / f"{pid}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    found = stat(pid)
    path.write_text(json.dumps({"pid": pid, "start_ticks": found.start_ticks if found else 0, "boot": _boot_id()}))
    return path


def reap(data_dir: Path, worker: str) -> list[int]:
    """Kill every remembered process group that is still there; returns their leaders' pids."""
    killed = []
    for path in _folder(data_dir, worker).glob("*.json"):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            noted = json.loads(path.read_text())
            leader = stat(noted["pid"])
            recycled = leader is not None and leader.start_ticks != noted["start_ticks"]
            if noted["boot"] == _boot_id() and not recycled and members(noted["pid"]):
                log.warning("ending engine process %d, left over from a former life", noted["pid"])
                kill_group(noted["pid"])
                killed.append(noted["pid"])
        path.unlink(missing_ok=True)
    return killed


def kill_group(group: int) -> None:
    """SIGKILL a process group, if it is there."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def members(group: int) -> list[ProcessStat]:
    """The living processes of a process group."""
    found = (stat(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [each for each in found if each is not None and each.group == group]


def stat(pid: int) -> ProcessStat | None:
    """A process's stat; None if it is gone or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may hold anything
    if fields[0] in "ZX":
        return None
    return ProcessStat(pid=pid, group=int(fields[2]), start_ticks=int(fields[19]))


def memory_bytes(group: int) -> int:
    """Memory of a process group in bytes; pages that processes share are counted once."""
    total = 0
    for each in members(group):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{each.pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


def _folder(data_dir: Path, worker: str) -> Path:
    return data_dir / "workers" / worker


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
