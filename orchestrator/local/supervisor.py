"""The local supervisor: starts every process of a Muster, keeps them alive, stops them together.

Every process is its direct child and dies with it (`orchestrator.local.child`), so a killed supervisor leaves
nothing behind. All of it happens in one thread, because a child also dies with the thread that started it.
"""

import fcntl
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

import httpx

from orchestrator.local import services
from orchestrator.local.child import kill_group
from orchestrator.local.embedded import EmbeddedError, EmbeddedPostgres, EmbeddedValkey
from orchestrator.local.services import Layout, Service
from orchestrator.settings import Settings
from orchestrator.storage import database

WATCH_S = 0.2
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
STEADY_S = 60.0
"""After this long without an end, a service's crashes are forgotten."""
HOPELESS_STARTS = 4
"""A service that ended so often before Muster ever answered will not come up."""
ANSWER_TIMEOUT_S = 1.0

Say = Callable[[str], None]


class CannotStart(RuntimeError):
    """Muster cannot start or stay up. The message is one line for the terminal."""


class Kept:
    """A service that is started again when it ends, ever later if it keeps ending."""

    def __init__(self, name: str, service: Service) -> None:
        self.name = name
        self.service = service
        self.crashes = 0
        self._started_at = 0.0
        self._next_start_at: float | None = None

    def start(self) -> None:
        self._started_at, self._next_start_at = time.monotonic(), None
        self.service.start()

    def look(self, say: Say) -> None:
        """Notice an end, or start again when the pause after one is over."""
        now = time.monotonic()
        process = self.service.process
        if self._next_start_at is not None:
            if now >= self._next_start_at:
                self._start_again(say)
        elif process is None or process.poll() is not None:
            self._note_end(say, "could not be started" if process is None else how_it_ended(process.returncode))
        elif now - self._started_at > STEADY_S:
            self.crashes = 0

    def _note_end(self, say: Say, how: str) -> None:
        if self.service.process is not None:
            kill_group(self.service.process.pid)
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**self.crashes)
        self.crashes += 1
        self._next_start_at = time.monotonic() + pause_s
        say(f"{self.name} {how}; it starts again in {pause_s:g} s. {last_words(self.service.log)}")

    def _start_again(self, say: Say) -> None:
        try:
            self.start()
        except EmbeddedError as error:
            self._note_end(say, f"did not start ({error})")


class Supervisor:
    """Use as `with Supervisor(...) as running:`; leaving the block stops everything."""

    def __init__(self, settings: Settings, layout: Layout, say: Say) -> None:
        self.settings = settings.model_copy(update={"data_dir": settings.data_dir.resolve()})
        self._layout = layout
        self._say = say
        self._kept: list[Kept] = []
        self._lock: IO[str] | None = None
        self._was_up = False

    @property
    def url(self) -> str:
        host = "127.0.0.1" if self.settings.host in ("0.0.0.0", "::", "") else self.settings.host  # noqa: S104
        return f"http://{host}:{self.settings.port}"

    @property
    def processes(self) -> Mapping[str, int]:
        """Name -> process id of what runs now."""
        return {kept.name: kept.service.process.pid for kept in self._kept if kept.service.process is not None}

    def __enter__(self) -> "Supervisor":
        try:
            self._lock = lock_data_dir(self.settings.data_dir)
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def watch(self, until: Callable[[], bool]) -> None:
        """Keep everything running until `until()`. Raises `CannotStart` where it never comes up."""
        while not until():
            for kept in self._kept:
                kept.look(self._say)
                if not self._was_up and kept.crashes >= HOPELESS_STARTS:
                    raise CannotStart(f"{kept.name} does not stay up. {last_words(kept.service.log)}")
            time.sleep(WATCH_S)

    def is_up(self) -> bool:
        """Whether the API answers (it may still be waiting for an expert or a worker)."""
        try:
            self._was_up = self._was_up or httpx.get(f"{self.url}/healthz", timeout=ANSWER_TIMEOUT_S).is_success
        except httpx.HTTPError:
            return False
        return self._was_up

    def stop(self) -> None:
        """Stop Muster's own processes together, then the servers they use."""
        for kept in self._kept:
            if isinstance(kept.service, services.PythonService):
                kept.service.ask_to_stop()
        for kept in reversed(self._kept):
            kept.service.stop()
        self._kept.clear()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def kill(self) -> None:
        """Stop everything at once, losing what was not yet written."""
        for pid in self.processes.values():
            kill_group(pid)

    def _start(self) -> None:
        update = {}
        if not self.settings.database_url:
            server = EmbeddedPostgres(self.settings.data_dir / "postgres")
            self._keep("PostgreSQL", server)
            update["database_url"] = server.url
        if not self.settings.redis_url:
            broker = EmbeddedValkey(self.settings.data_dir / "valkey")
            self._keep("Valkey", broker)
            update["redis_url"] = broker.url
        self.settings = self.settings.model_copy(update=update)
        database.migrate(self.settings.sqlalchemy_url)
        for name, service in services.own_services(self.settings, self._layout).items():
            self._keep(name, service)

    def _keep(self, name: str, service: Service) -> None:
        kept = Kept(name, service)
        self._kept.append(kept)
        try:
            kept.start()
        except EmbeddedError as error:
            raise CannotStart(str(error)) from error
        self._say(f"{name} started")


def lock_data_dir(data_dir: Path) -> IO[str]:
    """An open file, locked until it is closed or this process ends. Raises `CannotStart` if another has it."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        file = (data_dir / "lock").open("a+")
    except OSError as error:
        raise CannotStart(f"{data_dir} cannot be written ({error.strerror}): choose another --data-dir.") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        holder = file.read().strip()
        file.close()
        raise CannotStart(
            f"another `muster up` (process {holder}) uses {data_dir}: stop it, or choose another --data-dir."
        ) from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def how_it_ended(code: int) -> str:
    return f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"


def last_words(log: Path) -> str:
    """The last line of a log, for people, and where the rest is."""
    try:
        lines = [line.strip() for line in log.read_bytes()[-4096:].decode(errors="replace").splitlines()]
    except OSError:
        lines = []
    said = next((line for line in reversed(lines) if line), "")
    return f"Last line of {log}: {said[:300]}" if said else f"Its log: {log}"
