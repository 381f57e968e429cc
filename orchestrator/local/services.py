"""What a local Muster is made of: which processes, with which arguments and environment."""

import importlib.metadata
import os
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
        self._arguments = tuple(arguments)
        self._environment = environment
        self._asked = False

    def start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.exists() and self.log.stat().st_size > LOG_MAX_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        with self.log.open("ab") as log:
            # -P: a folder named `api` where the user stands is not ours.
            self._asked = False
            self.process = child.spawn(
                [sys.executable, "-P", "-m", *self._arguments], env=self._environment, output=log
            )

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
        "PYTHONPATH": os.pathsep.join(filter(None, [str(PROJECT_DIR), os.environ.get("PYTHONPATH")])),
        "PYTHONUNBUFFERED": "1",
    }


def own_services(settings: Settings, layout: Layout) -> dict[str, PythonService]:
    """Muster's own processes by name, in the order of their start."""
    workers = {f"w{number}": device for number, device in enumerate(layout.devices)} | {"remote0": "none"}
    commands: dict[str, list[str]] = {"orchestrator": ["orchestrator"]}
    for name, device in workers.items():
        drain = ["--drain-s", str(WORKER_DRAIN_S)]
        commands[f"worker {name}"] = ["workers", "--name", name, "--device", device, *drain]
    commands["api"] = ["api"]
    shared = environment(settings)
    logs = settings.data_dir / "logs"
    return {
        name: PythonService(arguments=arguments, environment=shared, log=logs / f"{name.split()[-1]}.log")
        for name, arguments in commands.items()
    }


def devices() -> tuple[str, ...]:
    """The devices that the installed build of vLLM can use here: every visible NVIDIA GPU, else the CPU."""
    return tuple(f"cuda:{number}" for number in range(gpu_count())) or ("cpu",)


def gpu_count() -> int:
    """NVIDIA GPUs that a model worker could use; 0 with the CPU build of PyTorch."""
    if not has_cuda_build() or shutil.which("nvidia-smi") is None:
        return 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([part for part in visible.split(",") if part.strip() not in ("", "-1")])
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False)
    return sum(1 for line in listed.stdout.splitlines() if line.startswith("GPU "))


def has_cuda_build() -> bool:
    try:
        return not importlib.metadata.version("torch").endswith("+cpu")
    except importlib.metadata.PackageNotFoundError:
        return False
