"""The embedded servers, with what may have happened to them before."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from orchestrator.local import embedded
from orchestrator.local.embedded import EmbeddedError, EmbeddedPostgres, EmbeddedValkey
from tests.waiting import until


@pytest.fixture
def postgres_server(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(tmp_path / "postgres")
    yield server
    server.stop()


@pytest.fixture
def valkey_server(tmp_path: Path) -> Iterator[EmbeddedValkey]:
    server = EmbeddedValkey(tmp_path / "valkey")
    yield server
    server.stop()


def pid_of(server: EmbeddedPostgres | EmbeddedValkey) -> int:
    assert server.process is not None
    return server.process.pid


def is_running(pid: int) -> bool:
    """A zombie has ended too: whoever adopted it has only not looked yet."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def test_postgres_keeps_what_was_committed(postgres_server: EmbeddedPostgres) -> None:
    postgres_server.start()
    with psycopg.connect(postgres_server.url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS n")
    postgres_server.stop()
    postgres_server.start()
    with psycopg.connect(postgres_server.url) as connection:
        assert connection.execute("SELECT n FROM kept").fetchone() == (42,)


def test_postgres_starts_over_an_interrupted_first_run(postgres_server: EmbeddedPostgres) -> None:
    partial = postgres_server.folder / "data.partial"
    partial.mkdir(parents=True)
    (partial / "PG_VERSION").write_text("18\n")
    postgres_server.start()
    assert not partial.exists()


def test_postgres_recovers_after_kill_9(postgres_server: EmbeddedPostgres) -> None:
    postgres_server.start()
    with psycopg.connect(postgres_server.url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS n")
    os.kill(pid_of(postgres_server), signal.SIGKILL)
    assert postgres_server.process is not None
    postgres_server.process.wait()
    postgres_server.start()
    with psycopg.connect(postgres_server.url) as connection:
        assert connection.execute("SELECT n FROM kept").fetchone() == (42,)


def test_postgres_ignores_a_pid_file_whose_number_belongs_to_another_process(
    postgres_server: EmbeddedPostgres,
) -> None:
    postgres_server.start()
    postgres_server.stop()
    (postgres_server.folder / "data" / "postmaster.pid").write_text(f"{os.getpid()}\n")
    postgres_server.start()
    assert pid_of(postgres_server) != os.getpid()


def test_postgres_names_the_version_that_wrote_its_files(postgres_server: EmbeddedPostgres) -> None:
    data = postgres_server.folder / "data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("9\n")
    with pytest.raises(EmbeddedError, match="written by PostgreSQL 9"):
        postgres_server.start()


def test_postgres_finds_a_place_for_its_socket_however_long_the_folder(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / ("long" * 30) / "postgres", durable=False)
    try:
        server.start()
        with psycopg.connect(server.url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    finally:
        server.stop()


def test_valkey_comes_back_on_its_port_with_its_data_after_kill_9(valkey_server: EmbeddedValkey) -> None:
    url = valkey_server.start().url
    with redis.Redis.from_url(url) as client:
        client.set("kept", "42")
        client.execute_command("WAITAOF", 1, 0, 5000)
    os.kill(pid_of(valkey_server), signal.SIGKILL)
    assert valkey_server.process is not None
    valkey_server.process.wait()
    assert valkey_server.start().url == url
    with redis.Redis.from_url(url) as client:
        assert client.get("kept") == b"42"


def test_valkey_wants_its_password(valkey_server: EmbeddedValkey) -> None:
    host = valkey_server.start().url.partition("@")[2]
    with redis.Redis.from_url(f"redis://{host}") as client, pytest.raises(redis.exceptions.AuthenticationError):
        client.ping()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root hands its server to another user")
def test_root_may_have_it_all_in_a_folder_closed_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = tmp_path / "closed"
    package = embedded.postgres_binaries(tmp_path / "nothing").parents[1]
    for folder in (package, package.with_name(package.name + ".libs")):
        shutil.copytree(folder, closed / folder.name)
    closed.chmod(0o700)
    binaries = closed / package.name / "pginstall18" / "bin"
    monkeypatch.setattr(embedded, "postgres_binaries", lambda _: binaries)
    server = EmbeddedPostgres(closed / "postgres", durable=False)
    try:
        server.start()
    finally:
        server.stop()


def test_both_die_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import sys, time
        from pathlib import Path
        from orchestrator.local.embedded import EmbeddedPostgres, EmbeddedValkey
        folder = Path(sys.argv[1])
        servers = EmbeddedPostgres(folder / "postgres"), EmbeddedValkey(folder / "valkey")
        [server.start() for server in servers]
        print(*[server.process.pid for server in servers], flush=True)
        time.sleep(60)
    """)
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert [is_running(pid) for pid in pids] == [True, True]
        parent.kill()
    until(lambda: not any(is_running(pid) for pid in pids), timeout_s=10)
