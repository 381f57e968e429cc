"""What changes under a run: experts, profiles, the code itself. And what must not: the same seed, the same answers."""

import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import alembic.script
import pytest
import sqlalchemy as sa
from sqlmodel import col, select

from orchestrator.settings import PROJECT_DIR
from orchestrator.storage import database
from orchestrator.storage.tables import ExpertRow, ProfileRow
from tests.faults import batch
from tests.faults.batch import Batch
from tests.faults.checker import check, check_undisturbed
from tests.faults.house import LONG_LEASE, House, Run, lines
from tests.faults.ledger import Fault
from tests.waiting import until

PATIENCE = "3s"
"""What a reader waits for a row at most, while the schema changes."""
SAID = """
    SELECT custom_id, expert, request->'sampling'->'seed' AS seed, completion->>'text' AS text
    FROM unit JOIN instance ON instance.id = instance_id WHERE unit.run_id = :run ORDER BY custom_id, expert, unit.round
"""
NEXT_MIGRATION = """
revision, down_revision = "9999", "{head}"

def upgrade():
    from alembic import op
    op.execute("ALTER TABLE unit ADD COLUMN remark text")
    op.execute("ALTER TABLE run ADD COLUMN remark text NOT NULL DEFAULT ''")
"""


@pytest.mark.fault("20", "experts changed, removed and profiled anew in mid-run")
def test_a_run_keeps_the_versions_it_was_submitted_with(house: House, fault: Fault) -> None:
    sources = {"ada": house.stub("one", latency_s=0.1), "bob": house.stub("two", latency_s=0.1)}
    experts = house.pool({**sources, "cyd": house.stub("three", latency_s=0.1)})

    def submit() -> tuple[Run, Batch]:
        asked = batch.requests(40, muster={"k": 2, "fusion": "vote", "seed": 5, "experts": experts})
        return house.submit(experts, lines(40), seed=5), batch.submit(house, asked)

    with fault.attempt():
        undisturbed = submit()
        for run in undisturbed:
            run.wait_end()
        disturbed = submit()
        disturbed[0].wait_done(10)
        _profile_anew(house, experts[2])
        later = house.submit(experts, lines(40), seed=5)
        changed = {"system_prompt": "You are another.", "model": house.stub("four")}
        house.http.patch(f"/v1/experts/{experts[0]}", json=changed).raise_for_status()
        house.http.delete(f"/v1/experts/{experts[1]}").raise_for_status()
        assert not any(run.has_ended() for run in disturbed)
        house.orchestrator.kill()  # the next one knows only what was pinned
        house.orchestrator.start()
        for run, as_before in zip(disturbed, undisturbed, strict=True):
            run.wait_end()
            check(fault, run)
            assert _decided(run) == _decided(as_before)
            assert run.units("request::text LIKE '%another%'") == 0
        assert disturbed[0].shown()["experts"] == dict.fromkeys(experts, 1)
        later.wait_end()
        check(fault, later)
        assert _decided(later) != _decided(undisturbed[0])  # it knows the newer profile


def _profile_anew(house: House, expert: str) -> None:
    """Leave a newer profile, as profiling does: right where it was wrong before, and wrong where it was right."""
    with database.session(house.engine) as session:
        found = select(ProfileRow).join(ExpertRow, col(ExpertRow.id) == col(ProfileRow.expert_id))
        old = session.exec(found.where(ExpertRow.name == expert)).one()
        outcomes = {name: {**each, "correct": not each["correct"]} for name, each in old.outcomes.items()}
        session.add(
            ProfileRow(
                expert_id=old.expert_id,
                question_set_id=old.question_set_id,
                version=old.version + 1,
                outcomes=outcomes,
            )
        )


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
    house.orchestrator.stop()
    house.orchestrator.start(**LONG_LEASE)
    try:
        with fault.attempt(), _readers(house) as troubles:
            experts = house.pool({"ada": model, "bob": model})
            under_way = house.submit(experts, lines(60)), batch.submit(house, batch.requests(90))

            def wait_done(units: int) -> None:
                """Until both together have so many; the batch is the later one."""
                until(lambda: sum(run.units("state = 'done'") for run in under_way) >= units, timeout_s=30)
                assert not under_way[1].has_ended()

            wait_done(20)
            assert house.workers[0].stop() == 0
            house.workers[0].start(cwd=newer)  # new worker, old orchestrator
            wait_done(100)
            house.orchestrator.stop()
            house.orchestrator.start(cwd=newer, **LONG_LEASE)  # brings the schema forward; old worker, old API
            until(lambda: house.value("SELECT version_num FROM alembic_version") == "9999", timeout_s=30)
            wait_done(200)
            assert house.workers[1].stop() == 0
            house.workers[1].start(cwd=newer)
            house.api.stop()
            house.api.start(cwd=newer)
            until(house.is_ready, timeout_s=30)
            for run in under_way:
                run.wait_end()
                check_undisturbed(fault, run)
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
@pytest.mark.parametrize("strategy", ["posterior", "random"])
def test_the_same_seed_gives_the_same_recruits_and_votes(house: House, fault: Fault, strategy: str) -> None:
    one, two = house.stub("one", latency_s=0.1), house.stub("two", latency_s=0.1)
    experts = house.pool({"ada": one, "bob": one, "cyd": two, "dee": two})

    def submit(seed: int) -> tuple[Run, Batch]:
        wanted: dict[str, Any] = {"k": 2, "fusion": "vote", "strategy": strategy, "seed": seed}
        asked = batch.requests(40, muster={**wanted, "experts": experts})
        return house.submit(experts, lines(40), **wanted), batch.submit(house, asked)

    with fault.attempt():
        first = submit(11)
        for run in first:
            run.wait_end()
            check(fault, run)
        second = submit(11)
        second[0].wait_done(20)
        second[0].kill_holder()
        other = submit(12)
        for again, before, differs in zip(second, first, other, strict=True):
            house.keep_running(again, timeout_s=40)
            check(fault, again)
            assert _decided(before) == _decided(again)
            differs.wait_end()
            assert _decided(before) != _decided(differs)
        assert sum(run.losses() for run in second) > 0


def _decided(run: Run) -> dict[str, Any]:
    """Line -> all that was decided on it and answered to it."""
    said = defaultdict(list)
    for row in run.house.rows(SAID, run=run.id):
        said[row.custom_id].append((row.expert, row.seed, row.text))
    return {
        row.custom_id: (
            [(recruit["expert"], round(recruit["weight"], 6)) for recruit in row.decision["recruits"]],
            {answer: round(weight, 6) for answer, weight in row.fused["votes"].items()},
            row.fused["text"],
            said[row.custom_id],
        )
        for row in run.house.rows("SELECT custom_id, decision, fused FROM instance WHERE run_id = :run", run=run.id)
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
