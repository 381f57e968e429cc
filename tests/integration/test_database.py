"""The database, on a real PostgreSQL."""

import alembic.autogenerate
import alembic.migration
import pytest
import sqlalchemy as sa
from sqlmodel import SQLModel, select

from orchestrator.settings import Settings
from orchestrator.storage import database
from orchestrator.storage.tables import RunRow
from tests.waiting import until


def test_metadata_and_migrations_agree(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        context = alembic.migration.MigrationContext.configure(connection)
        assert alembic.autogenerate.compare_metadata(context, SQLModel.metadata) == []


def test_migrating_twice_changes_nothing(empty_postgres_url: str) -> None:
    url = Settings(database_url=empty_postgres_url).sqlalchemy_url
    database.migrate(url)
    database.migrate(url)
    engine = database.engine_for(url)
    assert "unit" in sa.inspect(engine).get_table_names()
    engine.dispose()


def test_a_transaction_that_raises_leaves_nothing(engine: sa.Engine) -> None:
    def write_and_stop() -> None:
        with database.session(engine) as session:
            session.add(RunRow(id="bench-1", kind="benchmark"))
            session.flush()
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_and_stop()
    with database.session(engine) as session:
        assert session.exec(select(RunRow)).all() == []


def test_only_one_process_holds_the_lock(engine: sa.Engine) -> None:
    first, second = database.AdvisoryLock(engine, "orchestrator"), database.AdvisoryLock(engine, "orchestrator")
    assert first.try_acquire()
    assert not second.try_acquire()
    assert database.is_locked(engine, "orchestrator")
    first.release()
    until(lambda: not database.is_locked(engine, "orchestrator"))  # the server notices a closed connection by and by
    assert second.try_acquire()
    second.release()


def test_a_lock_whose_connection_was_cut_is_known_to_be_lost(engine: sa.Engine) -> None:
    with database.advisory_lock(engine, "orchestrator") as lock:
        assert lock is not None
        assert lock.is_held()
        with engine.connect() as connection:
            connection.execute(
                sa.text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
                    " AND datname = current_database()"
                )
            )
        assert not lock.is_held()


def test_rows_are_copied_with_json_and_awkward_text(engine: sa.Engine) -> None:
    awkward = "tab\there, line\nbreak, back\\slash, \x00 nul, \\u0000 written out, ünïcode"
    rows = [
        {"id": f"bench-{i}", "kind": "benchmark", "name": awkward, "status": "in_progress", "pinned": {"text": awkward},
         "totals": {}, "errors": []}
        for i in range(3)
    ]  # fmt: skip
    with database.session(engine) as session:
        assert database.insert_rows(session, "run", rows) == 3
    with database.session(engine) as session:
        row = session.get_one(RunRow, "bench-1")
        assert row.name == awkward.replace("\x00", "")
        assert row.pinned == {"text": awkward.replace("\x00", "")}
