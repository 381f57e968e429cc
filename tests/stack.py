"""A whole Muster for tests: `muster up` as a user starts it, on stub engines."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from orchestrator.settings import PROJECT_DIR
from tests.waiting import until

STUB_EXPERTS = Path(__file__).parent / "stub_experts.toml"
WEIGHTS = Path(os.environ.get("MUSTER_DATA_DIR", PROJECT_DIR / ".muster")) / "pkgs"
"""The embedder's weights, as `make test` installs them."""
READY_S = 60.0
STOP_S = 20.0
ON_THE_WAY = ("registered", "testing", "profiling")


@dataclass(kw_only=True)
class Stack:
    """A running Muster."""

    url: str
    data_dir: Path
    process: subprocess.Popen[bytes]

    @property
    def output(self) -> str:
        """What it printed, and the ends of its logs."""
        logs = sorted((self.data_dir / "logs").glob("*.log"))
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in [*logs, self.printed]
        )

    @property
    def printed(self) -> Path:
        return self.data_dir / "printed.txt"

    @property
    def database_url(self) -> str:
        return f"postgresql://muster@/muster?host={self.data_dir / 'postgres' / 'socket'}"

    def get(self, path: str, **parameters: Any) -> Any:
        return httpx.get(self.url + path, params=parameters, timeout=30).raise_for_status().json()

    def post(self, path: str, body: Any) -> httpx.Response:
        """The response as it is: many tests are about errors."""
        return httpx.post(self.url + path, json=body, timeout=60)

    def ask(self, question: str, **options: Any) -> Any:
        body = {"model": "muster", "messages": [{"role": "user", "content": question}], "muster": options}
        return self.post("/v1/chat/completions", body).raise_for_status().json()

    def is_ready(self) -> bool:
        assert self.process.poll() is None, f"muster up ended: {self.output}"
        try:
            return httpx.get(f"{self.url}/readyz", timeout=2).is_success
        except httpx.HTTPError:
            return False

    def wait_until_live(self, *names: str, timeout_s: float = 60.0) -> None:
        """Until these experts (none named: all that are on their way) are in the pool."""

        def has_arrived() -> bool:
            states = {expert["name"]: expert["state"] for expert in self.get("/v1/experts")["data"]}
            wanted = names or tuple(states)
            return bool(wanted) and all(states.get(name) not in (None, *ON_THE_WAY) for name in wanted)

        until(has_arrived, timeout_s=timeout_s)

    def children(self) -> dict[int, str]:
        """Process id -> command line of everything below it."""
        return _descendants(self.process.pid)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send the signal and wait for the end; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(STOP_S)


@contextmanager
def running(
    data_dir: Path,
    *arguments: str,
    experts: Path = STUB_EXPERTS,
    devices: Sequence[str] = ("none",),
    ready_s: float = READY_S,
) -> Iterator[Stack]:
    """`muster up` on a free port, ready to serve; stopped at the end whatever happened."""
    give_weights(data_dir)
    port = free_port()
    stack = Stack(
        url=f"http://127.0.0.1:{port}",
        data_dir=data_dir,
        process=start(
            "--port",
            str(port),
            "--data-dir",
            str(data_dir),
            "--experts",
            str(experts),
            *(part for device in devices for part in ("--device", device)),
            *arguments,
            output=data_dir / "printed.txt",
        ),
    )
    try:
        until(stack.is_ready, timeout_s=ready_s)
        yield stack
    finally:
        if stack.process.poll() is None:
            stack.stop()


def give_weights(data_dir: Path) -> None:
    """The embedder's weights, where this Muster looks for them."""
    data_dir.mkdir(parents=True, exist_ok=True)
    if WEIGHTS.exists() and not (data_dir / "pkgs").exists():
        (data_dir / "pkgs").symlink_to(WEIGHTS)


def command(*arguments: str) -> list[str]:
    """`muster ARGUMENTS`, from this environment."""
    return [sys.executable, "-m", "orchestrator.cli", *arguments]


def start(*arguments: str, output: Path) -> subprocess.Popen[bytes]:
    """`muster up ARGUMENTS`, its output into a file, with no server of the outside world."""
    outside = ("DATABASE_URL", "REDIS_URL")
    environment = {name: value for name, value in os.environ.items() if name not in outside}
    with output.open("wb") as file:
        return subprocess.Popen(
            command("up", *arguments),
            cwd=PROJECT_DIR,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_running(pid: int) -> bool:
    """A zombie has ended too: whoever adopted it has only not looked yet."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def _descendants(root: int) -> dict[int, str]:
    parents: dict[int, int] = {}
    commands: dict[int, str] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_text().rpartition(") ")[2].split()
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if stat[0] != "Z":
                parents[int(folder.name)], commands[int(folder.name)] = int(stat[1]), command
    found: dict[int, str] = {}
    wave = [root]
    while wave:
        wave = [pid for pid, parent in parents.items() if parent in wave]
        found |= {pid: commands[pid] for pid in wave}
    return found
