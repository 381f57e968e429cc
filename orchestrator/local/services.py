"""What a local Muster is made of: which processes, with which arguments and environment."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from orchestrator.local import child
from orchestrator.settings import PROJECT_DIR, Settings

WORKER_DRAIN_S = 2
"""What runs at Ctrl-C is sent again by the next start: nobody need wait for it."""
LOG_MAX_BYTES = 20 << 20
"""A longer log is set aside (one generation) at the next start."""


class UnknownGpu(ValueError):
    """CUDA_VISIBLE_DEVICES names a GPU that nvidia-smi does not list. One line, for people."""


class Service(Protocol):
    """Something that runs as a child process. The embedded servers are some, too."""

    log: Path
    process: subprocess.Popen[bytes] | None

    def start(self) -> object: ...

    def stop(self) -> None: ...


class PythonService:
    """One of Muster's own processes: `python -m MODULE ARGUMENTS`."""

    def __init__(self, *, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None
        self.arguments = tuple(arguments)
        self._environment = environment
        self._asked = False

    def start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.exists() and self.log.stat().st_size > LOG_MAX_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        with self.log.open("ab") as log:
            # -P: a folder named `api` where the user stands is not ours.
            self._asked = False
            self.process = child.spawn([sys.executable, "-P", "-m", *self.arguments], env=self._environment, output=log)

    def ask_to_stop(self) -> None:
        """Send SIGTERM and come back at once; `stop` waits."""
        if self.process is not None and not self._asked:
            self._asked = True
            self.process.terminate()

    def stop(self) -> None:
        self.ask_to_stop()
        if self.process is not None:
            child.wait_or_kill(self.process, timeout_s=WORKER_DRAIN_S + 3)
            self.process = None


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Which processes to run beside the servers."""

    devices: tuple[str, ...]
    """One model worker for each; may be empty."""
    worker_args: tuple[str, ...] = ()
    """Further arguments of each of them: `workers.settings`' options, but for the name and the device."""


def environment(settings: Settings) -> dict[str, str]:
    """What every process of a local Muster finds in its environment."""
    return {
        **os.environ,
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": settings.redis_url,
        "MUSTER_DATA_DIR": str(settings.data_dir),
        "MUSTER_EXPERTS_FILE": str(settings.experts_file),
        "MUSTER_HOST": settings.host,
        "MUSTER_PORT": str(settings.port),
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # cuda:1 is the GPU that nvidia-smi calls 1
        "PYTHONPATH": _python_path(),
        "PYTHONUNBUFFERED": "1",
    }


def own_services(settings: Settings, layout: Layout) -> dict[str, PythonService]:
    """Muster's own processes by name, in the order of their start."""
    commands: dict[str, list[str]] = {"orchestrator": ["orchestrator"]}
    for number, device in enumerate(layout.devices):
        commands[f"worker w{number}"] = ["workers", *worker_arguments(f"w{number}", device, layout.worker_args)]
    commands["worker remote0"] = ["workers", *worker_arguments("remote0", "none")]
    commands["api"] = ["api"]
    shared = environment(settings)
    logs = settings.data_dir / "logs"
    return {
        name: PythonService(arguments=arguments, environment=shared, log=logs / f"{name.split()[-1]}.log")
        for name, arguments in commands.items()
    }


def worker_arguments(name: str, device: str, further: Sequence[str] = ()) -> list[str]:
    """A worker's command line, without the module."""
    return ["--name", name, "--device", device, "--drain-s", str(WORKER_DRAIN_S), *further]


def wrong_worker_args(further: Sequence[str]) -> str | None:
    """What the worker's own parser has against `further`, in one line; None if nothing."""
    taken = [word for word in further if word.partition("=")[0] in ("--name", "--device")]
    if taken:
        return f"{taken[0]} is given by Muster itself; `muster up --device` says where workers run"
    # In a process of its own: of `workers`, the orchestrator imports the messages alone.
    check = [sys.executable, "-P", "-m", "workers.settings", *worker_arguments("w0", "cpu", further)]
    environment = {**os.environ, "REDIS_URL": "redis://", "PYTHONPATH": _python_path()}
    checked = subprocess.run(check, env=environment, capture_output=True, text=True, check=False)
    return None if checked.returncode == 0 else checked.stderr.strip().rpartition("error: ")[2]


def devices() -> tuple[str, ...]:
    """The devices that the installed build of vLLM can use here: every visible NVIDIA GPU, else the CPU.

    Raises `UnknownGpu`.
    """
    if not has_cuda_build() or shutil.which("nvidia-smi") is None:
        return ("cpu",)
    query = ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"]
    listed = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    uuids = {int(number): uuid for number, uuid in re.findall(r"^(\d+), (GPU-\S+)$", listed.stdout, re.MULTILINE)}
    chosen = visible_gpus(os.environ.get("CUDA_VISIBLE_DEVICES"), uuids)
    return tuple(f"cuda:{number}" for number in chosen) or ("cpu",)


def visible_gpus(wanted: str | None, uuids: Mapping[int, str]) -> tuple[int, ...]:
    """Numbers of the GPUs that CUDA_VISIBLE_DEVICES (`wanted`) leaves, in its order; None: of all.

    `uuids`: number, as nvidia-smi counts, -> uuid. As with CUDA, entries are numbers or beginnings of uuids, and an
    empty one or -1 ends the list. Raises `UnknownGpu`.
    """
    if wanted is None:
        return tuple(uuids)
    chosen: dict[int, None] = {}
    for entry in map(str.strip, wanted.split(",")):
        if entry in ("", "-1"):
            break
        is_uuid = entry.startswith("GPU-")
        matching = [
            number for number, uuid in uuids.items() if (uuid.startswith(entry) if is_uuid else entry == f"{number}")
        ]
        if len(matching) != 1:
            known = ", ".join(f"{number} ({uuid})" for number, uuid in uuids.items()) or "none"
            raise UnknownGpu(
                f"CUDA_VISIBLE_DEVICES names {entry!r}, and nvidia-smi lists {known}: correct it, or unset it"
            )
        chosen[matching[0]] = None
    return tuple(chosen)


def has_cuda_build() -> bool:
    try:
        return not importlib.metadata.version("torch").endswith("+cpu")
    except importlib.metadata.PackageNotFoundError:
        return False


def _python_path() -> str:
    return os.pathsep.join(filter(None, [str(PROJECT_DIR), os.environ.get("PYTHONPATH")]))
