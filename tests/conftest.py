"""What tests share: a real PostgreSQL and a real Valkey, started once a session when a test first asks for them.

Each test gets a fresh database, and an emptied Valkey database, of its own.
"""

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis
import sqlalchemy as sa

from orchestrator.local.embedded import EmbeddedPostgres, EmbeddedValkey
from orchestrator.settings import Settings
from orchestrator.storage import database
from tests import stack as stack_module
from tests.fake_worker import FakeWorker

TEMPLATE = "muster_template"
VALKEY_DATABASES = 16
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def server_folder() -> Iterator[Path]:
    """Short-named, so that sockets fit; on the same disk as other temporary files."""
    with tempfile.TemporaryDirectory(prefix="muster-test-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def postgres(server_folder: Path) -> Iterator[EmbeddedPostgres]:
    """The session's PostgreSQL, without fsync; its database `muster_template` is migrated to head."""
    server = EmbeddedPostgres(server_folder / "postgres", durable=False).start()
    try:
        _execute(server, f"CREATE DATABASE {TEMPLATE}")
        database.migrate(Settings(database_url=server.url_of(TEMPLATE)).sqlalchemy_url)
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def valkey(server_folder: Path) -> Iterator[EmbeddedValkey]:
    """The session's Valkey."""
    server = EmbeddedValkey(server_folder / "valkey", durable=False).start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def postgres_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """The URL of a fresh database with Muster's tables."""
    yield from _fresh_database(postgres, template=TEMPLATE)


@pytest.fixture
def empty_postgres_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """The URL of a fresh database with nothing in it."""
    yield from _fresh_database(postgres, template="template0")


@pytest.fixture
def redis_url(valkey: EmbeddedValkey) -> str:
    """The URL of an empty Valkey database."""
    url = valkey.url_of(next(_numbers) % VALKEY_DATABASES)
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


@pytest.fixture
def settings(postgres_url: str, redis_url: str, tmp_path: Path) -> Settings:
    """Settings for a fresh database, an empty Valkey database and an empty data directory."""
    return Settings(database_url=postgres_url, redis_url=redis_url, data_dir=tmp_path / "data")


@pytest.fixture
def engine(settings: Settings) -> Iterator[sa.Engine]:
    """An engine on the fresh database of `settings`."""
    made = database.connect(settings)
    yield made
    made.dispose()


@pytest.fixture
def fake(redis_url: str) -> Iterator[FakeWorker]:
    """A worker that does as the test says."""
    with FakeWorker(redis_url) as worker:
        yield worker


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as opened:
        yield opened


@pytest.fixture(scope="session")
def stack(server_folder: Path) -> Iterator[stack_module.Stack]:
    """A whole Muster on stub engines, its pool profiled; shared, so leave it as it was."""
    with stack_module.running(server_folder / "stack") as running:
        running.wait_until_live()
        yield running


def _fresh_database(server: EmbeddedPostgres, *, template: str) -> Iterator[str]:
    name = f"test_{next(_numbers)}"
    _execute(server, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield server.url_of(name)
    _execute(server, f"DROP DATABASE {name} WITH (FORCE)")


def _execute(server: EmbeddedPostgres, statement: str) -> None:
    with psycopg.connect(server.url_of("postgres"), autocommit=True) as connection:
        connection.execute(statement.encode())
