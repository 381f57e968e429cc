"""Four workers, each on a machine of its own (a network namespace, where that is permitted); one is killed mid-run."""

import contextlib
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import sqlalchemy as sa

from orchestrator.dispatch import dispatcher
from orchestrator.runs import runs
from orchestrator.settings import Settings
from tests import network_namespaces, seeds
from tests.driving import Driver
from tests.worker_process import WorkerProcess
from workers.messages import PROGRESS_STREAM, Progress

LINES = 600
SOURCES = {"ada": "stub:one?latency_s=0.05", "bob": "stub:one?latency_s=0.05"}


class Tap:
    """Reads the progress stream beside the orchestrator: every completion that any worker ever reported."""

    def __init__(self, url: str) -> None:
        self._redis = redis.Redis.from_url(url, decode_responses=True)
        self._position = "0"
        self.reported: Counter[str] = Counter()
        self.by_worker: Counter[str] = Counter()

    def read(self) -> None:
        entries: Any = self._redis.xrange(PROGRESS_STREAM, min=f"({self._position}" if self._position != "0" else "-")
        for position, fields in entries:
            self._position = position
            progress = Progress.model_validate_json(fields["progress"])
            for each in progress.finished:
                self.reported[each.completion.id] += 1
                self.by_worker[progress.state.worker] += 1


@pytest.fixture
def driver(engine: sa.Engine, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    monkeypatch.setattr(dispatcher, "TRIM_S", 3600.0)  # nothing leaves the stream before the tap has read it
    changes = {
        "experts_file": tmp_path / "none.toml",
        "question_set": seeds.SET_NAME,
        "lease_s": 2.0,
        "chunk_units": 16,
    }
    driving = Driver(engine, settings.model_copy(update=changes))
    yield driving
    driving.close()


def test_a_run_over_four_workers_outlives_one_of_them(driver: Driver, redis_url: str, tmp_path: Path) -> None:
    tap = Tap(redis_url)
    with contextlib.ExitStack() as stack:
        machines = stack.enter_context(network_namespaces.where(4, redis_url))
        workers = [
            stack.enter_context(
                WorkerProcess(
                    redis_url,
                    tmp_path / f"w{number}",
                    "--bulk-sequences",
                    "2",
                    name=f"w{number}",
                    prefix=machine.prefix,
                    own_redis_url=machine.broker_url,
                )
            )
            for number, machine in enumerate(machines)
        ]
        run = submit(driver)
        driver.until(lambda: tap.by_worker["w1"] > 20, also=tap.read, timeout_s=40)
        workers[1].terminate(signal.SIGKILL)
        driver.until(lambda: driver.is_done(run), also=tap.read, timeout_s=60)
        tap.read()
    assert [line["id"] for line in driver.lines(run)] == [f"line{n}" for n in range(LINES)]
    with driver.session() as session:
        assert runs.counts(session, run) == runs.Counts(total=LINES, done=LINES, failed=0)
    done_by = "SELECT count(DISTINCT worker) FROM chunk JOIN unit ON unit.chunk_id = chunk.id WHERE unit.state = 'done'"
    assert driver.scalar(done_by) == 4
    # What was committed ran once: no unit was reported again, and only what the dead worker held was sent again.
    assert set(tap.reported.values()) == {1}
    assert len(tap.reported) == 2 * LINES
    sent = int(str(driver.scalar("SELECT sum(units) FROM chunk")))
    lost = int(str(driver.scalar("SELECT sum(units) FROM chunk WHERE state = 'lost' AND worker = 'w1'")))
    assert 2 * LINES < sent <= 2 * LINES + lost
    assert driver.scalar("SELECT count(*) FROM unit WHERE state = 'done' AND losses <= 1 AND attempts = 0") == 2 * LINES


def submit(driver: Driver) -> str:
    with driver.session() as session:
        pool = seeds.live_pool(session, SOURCES)
        run = runs.submit_benchmark(
            session,
            settings=driver.settings,
            pool=pool,
            name="t",
            questions=seeds.questions(LINES),
            k=2,
            fusion="vote",
            annotation="embedding",
            baselines=False,
        )
    return run.id
