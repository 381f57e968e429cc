"""The database: connecting, transactions, migrations, and the lock that makes one process the orchestrator."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import alembic.command
import alembic.config
import alembic.runtime.migration
import alembic.script
import psycopg
import sqlalchemy as sa
import structlog
from sqlmodel import Session

from orchestrator.settings import Settings
from orchestrator.storage import owners

MIGRATIONS_DIR = Path(__file__).resolve().parent / "migrations"
POOL_SIZE = 5
"""Connections kept per process; a few processes share one PostgreSQL with 100 connections by default."""
POOL_OVERFLOW = 5
LOCK_POLL_S = 0.5
NUL_IN_JSON = "\\u0000"
"""JSON without these six characters has no NUL; with them it may have one."""
MIGRATION_LOCK_S = 1
MIGRATION_PAUSE_S = 1.0
MIGRATION_TRIES = 300
"""Ten minutes of giving way to readers: a backup holds its transaction as long."""

log = structlog.get_logger()


def connect(settings: Settings, *, pool_size: int = POOL_SIZE, overflow: int = POOL_OVERFLOW) -> sa.Engine:
    """An engine with a bounded pool. Nothing is connected until the first statement.

    Raises `ValueError` where `DATABASE_URL` is no PostgreSQL URL.
    """
    return engine_for(settings.sqlalchemy_url, pool_size=pool_size, overflow=overflow)


def engine_for(url: str, *, pool_size: int = POOL_SIZE, overflow: int = POOL_OVERFLOW) -> sa.Engine:
    """An engine for a SQLAlchemy URL (`postgresql+psycopg://…`)."""
    return sa.create_engine(
        url,
        pool_size=pool_size,
        max_overflow=overflow,
        pool_timeout=30,
        pool_pre_ping=True,
        connect_args={"connect_timeout": 10, "application_name": "muster", "keepalives_idle": 30},
        json_serializer=dump_json,
    )


def dump_json(value: Any) -> str:
    """Compact JSON that PostgreSQL accepts: without the NUL character."""
    text = _compact(value)
    return _compact(without_nul(value)) if NUL_IN_JSON in text else text


def without_nul(value: Any) -> Any:
    """The JSON value without the NUL character, which PostgreSQL takes neither in JSONB nor in text.

    It is taken out of the strings, never out of their JSON: there a text about `\\u0000` looks the same.
    """
    if isinstance(value, str):
        return value.replace("\0", "")
    if isinstance(value, dict):
        return {without_nul(key): without_nul(each) for key, each in value.items()}
    return [without_nul(each) for each in value] if isinstance(value, list | tuple) else value


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


@contextmanager
def session(engine: sa.Engine, *, owner: str | None = None) -> Iterator[Session]:
    """One transaction: committed at the end, rolled back if anything is raised. `owner`: as in `storage.owners`."""
    with Session(engine, expire_on_commit=False, info={owners.KEY: owner}) as opened, opened.begin():
        yield opened


def migrate(target: sa.Engine | str) -> None:
    """Bring the schema to the newest version. Safe to call from several processes at once, and beside readers.

    A change of a table waits for those who read it, and all who come later wait behind the change: so it waits
    for `MIGRATION_LOCK_S` at most, gives way, and tries again. Raises `sqlalchemy.exc.OperationalError` in the end.
    """
    engine = engine_for(target, pool_size=1) if isinstance(target, str) else target
    try:
        for tries_left in reversed(range(MIGRATION_TRIES)):
            try:
                return _upgrade(engine)
            except sa.exc.OperationalError as error:
                if not tries_left or not isinstance(error.orig, psycopg.errors.LockNotAvailable):
                    raise
                log.info("a migration waits for somebody who reads the table; it tries again")
                time.sleep(MIGRATION_PAUSE_S)
    finally:
        if isinstance(target, str):
            engine.dispose()


def _upgrade(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _lock_key("migrate")})
        connection.execute(sa.text(f"SET LOCAL lock_timeout = '{MIGRATION_LOCK_S}s'"))
        config = alembic_config(connection)
        if _is_newer(connection, alembic.script.ScriptDirectory.from_config(config)):
            log.info("a newer Muster has brought the database forward; this one goes on with it")
        else:
            alembic.command.upgrade(config, "head")


def _is_newer(connection: sa.Connection, known: alembic.script.ScriptDirectory) -> bool:
    """Whether the schema is of a version that this code does not know: an old process beside an upgrade."""
    present = alembic.runtime.migration.MigrationContext.configure(connection).get_current_heads()
    return not set(present) <= {revision.revision for revision in known.walk_revisions()}


def alembic_config(connection: sa.Connection) -> alembic.config.Config:
    """Alembic's configuration for this connection; there is no alembic.ini."""
    config = alembic.config.Config()
    config.set_main_option("script_location", str(MIGRATIONS_DIR))
    config.attributes["connection"] = connection
    return config


class AdvisoryLock:
    """A lock held by a database session of its own: it goes when the process, or its connection, does."""

    def __init__(self, engine: sa.Engine, name: str) -> None:
        self._engine = engine
        self._key = _lock_key(name)
        self._connection: sa.Connection | None = None
        self.name = name

    def try_acquire(self) -> bool:
        """Take the lock if nobody holds it."""
        connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        got = bool(connection.scalar(sa.text("SELECT pg_try_advisory_lock(:key)"), {"key": self._key}))
        if got:
            connection.detach()
            self._connection = connection
        else:
            connection.close()
        return got

    def is_held(self) -> bool:
        """Whether the session that holds it still lives: one round trip."""
        if self._connection is None:
            return False
        try:
            self._connection.scalar(sa.text("SELECT 1"))
        except sa.exc.DBAPIError:
            self.release()
            return False
        return True

    def release(self) -> None:
        """Close the session, and with it the lock."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            try:
                connection.close()
            except sa.exc.DBAPIError:
                log.debug("the lock's connection was gone already", lock=self.name)


def is_locked(engine: sa.Engine, name: str) -> bool:
    """Whether any session holds this lock. For looking on: whoever wants to act on it has to take it."""
    held = """SELECT EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND ((classid::bigint << 32) | objid::bigint) = :key AND objsubid = 1)"""
    with engine.connect() as connection:
        return bool(connection.scalar(sa.text(held), {"key": _lock_key(name)}))


@contextmanager
def advisory_lock(
    engine: sa.Engine, name: str, *, keep_waiting: Callable[[], bool] = lambda: True
) -> Iterator[AdvisoryLock | None]:
    """Wait for the lock, saying so once, and hold it. Yields None if `keep_waiting` ended the wait."""
    lock = AdvisoryLock(engine, name)
    is_said = False
    while keep_waiting():
        if lock.try_acquire():
            break
        if not is_said:
            log.info("another process holds the lock; waiting for it to end", lock=name)
            is_said = True
        time.sleep(LOCK_POLL_S)
    else:
        yield None
        return
    try:
        yield lock
    finally:
        lock.release()


def insert_rows(session: Session, table: str, rows: Iterable[Mapping[str, Any]]) -> int:
    """Insert many rows in one COPY, within the session's transaction; returns how many.

    Rows are mappings with the same keys; dicts and lists become JSONB. Far cheaper than the ORM for thousands of rows.
    """
    iterator = iter(rows)
    first = next(iterator, None)
    if first is None:
        return 0
    columns = list(first)
    driver = cast("psycopg.Connection[Any]", session.connection().connection.driver_connection)
    names = ", ".join(f'"{column}"' for column in columns)
    statement = f'COPY "{table}" ({names}) FROM STDIN'.encode()
    count = 0
    with driver.cursor() as cursor, cursor.copy(statement) as copy:
        row: Mapping[str, Any] | None = first
        while row is not None:
            copy.write_row([_plain(row[column]) for column in columns])
            count += 1
            row = next(iterator, None)
    return count


def _plain(value: Any) -> Any:
    if isinstance(value, dict | list | tuple):
        return dump_json(value)
    return without_nul(value)


def _lock_key(name: str) -> int:
    """A stable 63-bit number for a name."""
    key = 0
    for byte in name.encode():
        key = (key * 257 + byte + 1) % (2**63 - 25)
    return key
