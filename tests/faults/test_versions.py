"""What changes under a run: experts, profiles, the code itself. And what must not: the same seed, the same answers."""

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import alembic.script
import pytest
import sqlalchemy as sa

from orchestrator.settings import PROJECT_DIR
from orchestrator.storage import database
from tests.faults.checker import check
from tests.faults.house import House, Run, lines
from tests.faults.ledger import Fault
from tests.waiting import until

PATIENCE = "3s"
"""What a reader waits for a row at most, while the schema changes."""
NEXT_MIGRATION = """
revision, down_revision = "9999", "{head}"

def upgrade():
    from alembic import op
    op.execute("ALTER TABLE unit ADD COLUMN remark text")
    op.execute("ALTER TABLE run ADD COLUMN remark text NOT NULL DEFAULT ''")
"""


@pytest.mark.fault("20", "experts changed and removed in mid-run")
def test_a_run_keeps_the_versions_it_was_submitted_with(house: House, fault: Fault) -> None:
    sources = {"ada": house.stub("one", latency_s=0.1), "bob": house.stub("two", latency_s=0.1)}
    experts = house.pool(sources)
    with fault.attempt():
        undisturbed = house.submit(experts, lines(60), seed=5)
        undisturbed.wait_end()
        run = house.submit(experts, lines(60), seed=5)
        run.wait_done(10)
        changed = {"system_prompt": "You are another.", "model": house.stub("three")}
        house.http.patch(f"/v1/experts/{experts[0]}", json=changed).raise_for_status()
        house.http.delete(f"/v1/experts/{experts[1]}").raise_for_status()
        house.orchestrator.kill()  # the next one knows only what was pinned
        house.orchestrator.start()
        run.wait_end()
        check(fault, run)
        assert _decided(run) == _decided(undisturbed)
        assert run.units("request::text LIKE '%another%'") == 0
        assert run.shown()["experts"] == dict.fromkeys(experts, 1)


@pytest.mark.fault("21", "broken models registered")
def test_what_does_not_work_never_goes_live(house: House, fault: Fault) -> None:
    broken = {
        "bad-weights": house.stub("weights", fail_load="the file is cut short"),
        "bad-template": house.stub("template", says="{{ bos_token }} assistant"),
        "mute": house.stub("mute", says=""),
    }
    seen: set[tuple[str, str]] = set()

    def are_settled() -> bool:
        shown = house.http.get("/v1/experts").json()["data"]
        states = {expert["name"]: expert["state"] for expert in shown if expert["name"] in broken}
        seen.update(states.items())
        return set(states.values()) == {"quarantined"}

    with fault.attempt():
        for name, source in broken.items():
            made = house.http.post("/v1/experts", json={"name": name, "model": source})
            assert made.status_code == 202, made.text
        until(are_settled, timeout_s=30)
        assert not [name for name, state in seen if state == "live"]
        remote_code = {"name": "own-code", "model": {"source": "hub:a/b", "trust_remote_code": True}}
        assert house.http.post("/v1/experts", json=remote_code).status_code == 400


@pytest.mark.fault("28", "rolling upgrade under a run")
@pytest.mark.timeout(180)
def test_old_and_new_processes_serve_one_run(house: House, fault: Fault, tmp_path: Path) -> None:
    newer = _next_version(tmp_path / "next")
    model = house.stub("one", latency_s=0.3)
    try:
        with fault.attempt(), _readers(house) as troubles:
            run = house.submit(house.pool({"ada": model, "bob": model}), lines(150))
            run.wait_done(10)
            assert house.workers[0].stop() == 0
            house.workers[0].start(cwd=newer)  # new worker, old orchestrator
            run.wait_done(60)
            house.orchestrator.stop()
            house.orchestrator.start(cwd=newer)  # brings the schema forward; old worker, old API
            until(lambda: house.value("SELECT version_num FROM alembic_version") == "9999", timeout_s=30)
            run.wait_done(120)
            assert house.workers[1].stop() == 0
            house.workers[1].start(cwd=newer)
            house.api.stop()
            house.api.start(cwd=newer)
            until(house.is_ready, timeout_s=30)
            run.wait_end()
            check(fault, run)
            assert run.units("attempts > 0") == run.unexplained_losses() == 0
            assert troubles == []
            house.orchestrator.kill()
            house.orchestrator.forget()
            house.orchestrator.start()  # an old one that comes up once more
            until(lambda: house.orchestrator.says("running"), timeout_s=30)
    finally:
        house.orchestrator.kill()
        for table in ("unit", "run"):
            house.execute(f"ALTER TABLE {table} DROP COLUMN IF EXISTS remark")
        house.execute("UPDATE alembic_version SET version_num = :head", head=_head())


@pytest.mark.fault("29", "the same seed and versions once more")
def test_the_same_seed_gives_the_same_recruits_and_votes(house: House, fault: Fault) -> None:
    one, two = house.stub("one", latency_s=0.03), house.stub("two", latency_s=0.03)
    experts = house.pool({"ada": one, "bob": one, "cyd": two, "dee": two})
    wanted: dict[str, Any] = {"k": 2, "strategy": "random", "seed": 11}
    with fault.attempt():
        first = house.submit(experts, lines(60), **wanted)
        first.wait_end()
        check(fault, first)
        second = house.submit(experts, lines(60), **wanted)
        second.wait_done(20)
        house.workers[0].kill()
        house.keep_running(second, timeout_s=40)
        check(fault, second)
        assert _decided(first) == _decided(second)
        other = house.submit(experts, lines(60), **{**wanted, "seed": 12})
        other.wait_end()
        assert _decided(first) != _decided(other)


def _decided(run: Run) -> dict[str, Any]:
    """Line -> all that was decided on it and answered to it."""
    return {
        line["id"]: (
            [recruit["expert"] for recruit in line["decision"]["recruits"]],
            line["fused"]["votes"],
            line["answer"],
            sorted((each["expert"], each["seed"], each["text"]) for each in line["completions"]),
        )
        for line in run.results()
    }


def _head() -> str:
    head = alembic.script.ScriptDirectory(str(database.MIGRATIONS_DIR)).get_current_head()
    assert head is not None
    return head


def _next_version(folder: Path) -> Path:
    """The code as some later release: messages have a field more, tables a column more."""
    for package in ("api", "orchestrator", "skills", "workers"):
        shutil.copytree(PROJECT_DIR / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    messages = folder / "workers" / "messages.py"
    text = messages.read_text()
    for name in ("Completion", "Chunk", "Progress", "WorkerState"):
        assert f"class {name}(Value):" in text
        text = text.replace(f"class {name}(Value):", f'class {name}(Value):\n    release: str = "next"')
    messages.write_text(text)
    versions = folder / "orchestrator" / "storage" / "migrations" / "versions"
    (versions / "9999_the_next.py").write_text(NEXT_MIGRATION.format(head=_head()))
    return folder


@contextmanager
def _readers(house: House) -> Iterator[list[str]]:
    """Readers of the tables that change: one in no hurry, who keeps its transaction open, and many quick ones."""
    ends = threading.Event()
    troubles: list[str] = []

    def linger() -> None:
        while not ends.is_set():
            with house.engine.begin() as connection:
                connection.execute(sa.text("SELECT count(*) FROM unit"))
                ends.wait(2.5)
            time.sleep(0.2)

    def glance() -> None:
        while not ends.is_set():
            try:
                with house.engine.begin() as connection:
                    connection.execute(sa.text(f"SET LOCAL statement_timeout = '{PATIENCE}'"))
                    connection.execute(sa.text("SELECT count(*) FROM unit, run WHERE unit.run_id = run.id"))
            except sa.exc.DBAPIError as error:
                troubles.append(str(error))
            ends.wait(0.1)

    threads = [threading.Thread(target=each) for each in (linger, glance)]
    for thread in threads:
        thread.start()
    try:
        yield troubles
    finally:
        ends.set()
        for thread in threads:
            thread.join()
