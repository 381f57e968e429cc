"""`python -m orchestrator` as a process: one at a time, ended cleanly, taken over when killed."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from orchestrator.runs import runs
from orchestrator.settings import Settings
from orchestrator.storage import database
from skills.embed import Embedder
from tests import seeds
from tests.stack import WEIGHTS
from tests.waiting import until
from tests.worker_process import WorkerProcess

SLOW = {"ada": "stub:slow?latency_s=0.05", "bob": "stub:slow?latency_s=0.05"}


class Orchestrator:
    """The process, with its log."""

    def __init__(self, settings: Settings, folder: Path, name: str) -> None:
        self._log = folder / f"{name}.log"
        environment = {
            **os.environ,
            "DATABASE_URL": settings.database_url,
            "REDIS_URL": settings.redis_url,
            "MUSTER_DATA_DIR": str(settings.data_dir),
            "MUSTER_EXPERTS_FILE": str(folder / "none.toml"),
            "MUSTER_QUESTION_SET": seeds.SET_NAME,
            "MUSTER_LEASE_S": "3",
        }
        with self._log.open("w") as log:
            self.process = subprocess.Popen([sys.executable, "-m", "orchestrator"], env=environment, stderr=log)

    def says(self, words: str) -> bool:
        return words in self._log.read_text()

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=15)


@pytest.fixture
def pair(settings: Settings, tmp_path: Path) -> Iterator[tuple[Orchestrator, Orchestrator]]:
    """One that holds the lock, and one that waits for it."""
    first = Orchestrator(settings, tmp_path, "first")
    until(lambda: first.says("running"), timeout_s=30)
    second = Orchestrator(settings, tmp_path, "second")
    until(lambda: second.says("another process holds the lock"), timeout_s=30)
    yield first, second
    for each in (first, second):
        each.process.kill()
        each.process.wait()


def test_the_second_takes_over_when_the_first_is_killed(
    pair: tuple[Orchestrator, Orchestrator], engine: sa.Engine
) -> None:
    first, second = pair
    assert not second.says("running")
    assert database.is_locked(engine, "orchestrator")
    first.end(signal.SIGKILL)
    until(lambda: second.says("running"), timeout_s=10)


def test_sigterm_ends_it_cleanly_whether_it_runs_or_waits(pair: tuple[Orchestrator, Orchestrator]) -> None:
    first, second = pair
    assert second.end(signal.SIGTERM) == 0
    assert first.end(signal.SIGTERM) == 0
    assert first.says("ended")


@pytest.mark.skipif(not WEIGHTS.exists(), reason=f"no embedder in {WEIGHTS}: run `make run` once")
def test_a_run_goes_on_under_the_next_orchestrator(
    settings: Settings, engine: sa.Engine, redis_url: str, tmp_path: Path
) -> None:
    with database.session(engine) as session:
        pool = seeds.live_pool(session, SLOW, embedder=Embedder.load(WEIGHTS))
        asked = seeds.questions(60)
        run = runs.submit_benchmark(session, settings=settings, pool=pool, name="t", questions=asked, k=2)
    settings.data_dir.mkdir()
    settings.packages_dir.symlink_to(WEIGHTS)
    with WorkerProcess(redis_url, tmp_path, "--bulk-sequences", "4"):
        first = Orchestrator(settings, tmp_path, "first")
        until(lambda: count(engine, "unit", "state = 'done'") > 10, timeout_s=30)
        first.end(signal.SIGKILL)
        second = Orchestrator(settings, tmp_path, "second")
        until(lambda: count(engine, "run", "status = 'completed'") == 1, timeout_s=40)
        assert second.end(signal.SIGTERM) == 0
    assert count(engine, "unit", "state = 'done' AND attempts + losses = 0") == 120
    with database.session(engine) as session:
        assert runs.counts(session, run.id) == runs.Counts(total=60, done=60, failed=0)


def count(engine: sa.Engine, table: str, condition: str) -> int:
    with engine.connect() as connection:
        return int(connection.execute(sa.text(f"SELECT count(*) FROM {table} WHERE {condition}")).scalar_one())
