"""Runs that are called off: large ones, beside others, and while everything else goes on."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
import sqlalchemy as sa

from orchestrator.dispatch import chunks
from orchestrator.dispatch.backlog import BacklogReader
from orchestrator.pool import pool
from orchestrator.runs import cancelling, lines, runs
from orchestrator.runs.batches import batches, stages
from orchestrator.runs.staging import work
from orchestrator.settings import Settings
from orchestrator.storage import database, files
from orchestrator.storage.partial import Partial
from tests import seeds
from tests.driving import Driver
from tests.fake_worker import FakeWorker
from tests.waiting import until
from workers.messages import CANCELLED_KEY

LINES = 2 * cancelling.SLICE_LINES + 1


@pytest.fixture
def driver(engine: sa.Engine, settings: Settings, tmp_path: Path) -> Iterator[Driver]:
    quick = settings.model_copy(
        update={"experts_file": tmp_path / "none.toml", "question_set": seeds.SET_NAME, "lease_s": 0.4, "late_s": 60.0}
    )
    with database.session(engine) as session:
        seeds.live_pool(session, {"ada": "stub:one"})
    driving = Driver(engine, quick)
    yield driving
    driving.close()


def benchmark(driver: Driver, lines: int, *, prefix: str = "line") -> str:
    with driver.session() as session:
        run = runs.submit_benchmark(
            session,
            settings=driver.settings,
            pool=pool.load(session, question_set=seeds.SET_NAME),
            name="t",
            questions=seeds.questions(lines, prefix=prefix),
            k=1,
            fusion="vote",
        )
    return run.id


def batch(driver: Driver, lines: int, *, window: str = "24h") -> str:
    body = {"model": "ada", "messages": [{"role": "user", "content": "Why?"}]}
    line = {"method": "POST", "url": "/v1/chat/completions", "body": body}
    content = b"".join(json.dumps({"custom_id": str(n), **line}).encode() + b"\n" for n in range(lines))
    file_id = files.new_id()
    part = Partial(driver.settings, file_id)
    part.write(content)
    part.keep()
    with driver.session() as session:
        files.add(session, file_id=file_id, filename="t.jsonl", purpose="batch", size=part.size)
        state = batches.submit(
            session,
            settings=driver.settings,
            pool=pool.load(session, question_set=seeds.SET_NAME),
            input_file_id=file_id,
            endpoint="/v1/chat/completions",
            completion_window=window,
        )
    return state.run.id


def hold(driver: Driver, fake: FakeWorker, *, chunks: int) -> None:
    """Go on until the worker holds so many chunks, and has said so."""

    def take() -> None:
        fake.take()
        fake.say()

    driver.until(lambda: len(fake.held) == chunks, also=take)


def cancel(driver: Driver, run: str) -> None:
    with driver.session() as session:
        runs.cancel(session, run)


def open_lines(driver: Driver, run: str) -> object:
    return driver.scalar("SELECT count(*) FROM instance WHERE run_id = :run AND stage <> 'done'", run=run)


@contextmanager
def over_and_over(*calls: Callable[[], object]) -> Iterator[None]:
    """Each in a thread of its own, until one raises or the block ends. Raises what they raise."""
    ending = threading.Event()
    raised: list[BaseException] = []

    def repeat(call: Callable[[], object]) -> None:
        try:
            while not ending.is_set():
                call()
        except BaseException as error:
            raised.append(error)
            ending.set()

    threads = [threading.Thread(target=repeat, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ending.set()
        for thread in threads:
            thread.join()
        if raised:
            raise raised[0]


def test_workers_hear_of_a_cancel_before_a_large_run_has_ended(driver: Driver, redis_client: redis.Redis) -> None:
    run = benchmark(driver, LINES)
    cancel(driver, run)
    driver.dispatcher.step(block_s=0.01)
    assert redis_client.smembers(CANCELLED_KEY) == {f"run:{run}"}
    assert (open_lines(driver, run), driver.status(run)) == (LINES - cancelling.SLICE_LINES, "cancelling")
    driver.until(lambda: driver.is_done(run))
    assert driver.status(run) == "cancelled"
    assert driver.scalar("SELECT count(*) FROM instance WHERE error = 'cancelled' AND ended_at IS NOT NULL") == LINES


def test_units_of_a_run_that_is_called_off_are_sent_to_nobody(driver: Driver) -> None:
    """Workers hand them back before their lines have ended."""
    run = benchmark(driver, 3)
    driver.until(lambda: driver.scalar("SELECT count(*) FROM unit WHERE state = 'pending'") == 3)
    key = str(driver.scalar("SELECT min(model_key) FROM unit"))
    cancel(driver, run)
    with driver.session() as session:
        backlog = BacklogReader().read(session)
        assert (backlog.queues, backlog.runs) == ({}, {})
        assert chunks.create(session, run_id=run, model_key=key, worker="w", size=9, lease_s=1.0) is None


def test_while_a_run_ends_slowly_no_other_run_loses_a_chunk(driver: Driver, fake: FakeWorker) -> None:
    kept, ended = benchmark(driver, 2), benchmark(driver, 2, prefix="other")
    hold(driver, fake, chunks=2)
    cancel(driver, ended)
    holder = driver.engine.connect()
    holder.execute(sa.text("SELECT id FROM instance WHERE run_id = :run FOR UPDATE"), {"run": ended})
    threading.Timer(3 * driver.settings.lease_s, holder.close).start()

    def say() -> None:
        fake.say()
        time.sleep(0.1)

    with over_and_over(say, lambda: driver.dispatcher.step(block_s=0.01)):
        until(lambda: driver.status(ended) == "cancelled")
        until(lambda: driver.scalar("SELECT max(lease_until) > now() FROM chunk WHERE run_id = :run", run=kept))
    assert driver.scalar("SELECT count(*) FROM chunk WHERE state = 'lost'") == 0
    assert driver.scalar("SELECT count(*) FROM chunk WHERE state = 'sent' AND run_id = :run", run=kept) == 1


def test_a_backlog_of_progress_holds_up_neither_cancels_nor_leases(
    driver: Driver, fake: FakeWorker, redis_url: str
) -> None:
    lost, cancelled = benchmark(driver, 2), benchmark(driver, 2, prefix="other")
    hold(driver, fake, chunks=2)
    cancel(driver, cancelled)
    with FakeWorker(redis_url, "talker", engines=()) as talker:

        def talk() -> None:
            for _ in range(70):  # more than is read in a turn: something always waits
                talker.say()

        talk()
        driver.until(lambda: driver.status(cancelled) == "cancelled", also=talk)
        is_lost = "SELECT count(*) FROM chunk WHERE state = 'lost' AND run_id = :run"
        driver.until(lambda: driver.scalar(is_lost, run=lost), also=talk)


def test_cancelling_and_staging_do_not_wait_for_each_other(driver: Driver) -> None:
    run = benchmark(driver, 2)
    cancel(driver, run)
    waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    with driver.session() as session:
        (instance, *_) = work.take(session, run, "annotate", 2)
        with over_and_over(lambda: driver.dispatcher.step(block_s=0.01)):
            until(lambda: driver.scalar(waits))
            unit = {"run_id": run, "instance_id": instance.id, "stage": "generate", "round": 0, "expert": "ada"}
            rest = {"sample": 0, "model_key": "m", "request": {}, "state": "pending", "attempts": 0, "losses": 0}
            database.insert_rows(session, "unit", [{**unit, **rest, "tokens": 1}])
            session.commit()
            until(lambda: driver.status(run) == "cancelled")
    assert driver.scalar("SELECT state FROM unit") == "failed"


@pytest.mark.parametrize("lines_read", [1, 2000, 3000])
def test_a_batch_is_cancelled_while_it_is_read_and_staged(driver: Driver, fake: FakeWorker, lines_read: int) -> None:
    run = batch(driver, 3000)
    begun = "SELECT read_lines >= :lines FROM batch WHERE run_id = :run"
    if lines_read == 3000:
        begun = "SELECT count(*) > 0 AND :lines > 0 FROM unit WHERE run_id = :run"
    with over_and_over(driver.stager.step, lambda: driver.dispatcher.step(block_s=0.01), fake.work):
        until(lambda: driver.scalar(begun, run=run, lines=lines_read))
        cancel(driver, run)
        until(lambda: driver.status(run) == "cancelled")
    assert open_lines(driver, run) == 0


def test_a_batch_whose_last_line_ended_in_time_has_not_expired(driver: Driver, fake: FakeWorker) -> None:
    run = batch(driver, 1)
    driver.until(lambda: driver.scalar("SELECT count(*) FROM instance WHERE stage = 'done'"), also=fake.work)
    assert driver.status(run) == "in_progress"
    with driver.session() as session:
        session.execute(sa.text("UPDATE batch SET expires_at = now()"))
    successor = Driver(driver.engine, driver.settings)  # looks at the windows first of all
    successor.dispatcher.step(block_s=0.01)
    successor.until(lambda: successor.is_done(run))
    successor.close()
    assert driver.status(run) == "completed"


def test_a_batch_expires_with_the_first_line_that_is_ended_for_it(driver: Driver) -> None:
    run = batch(driver, 2, window="1s")
    driver.until(lambda: driver.status(run) == "expired")
    assert driver.scalar("SELECT count(*) FROM instance WHERE error = 'expired'") == 2


def test_a_batch_whose_files_cannot_be_written_fails_and_its_lines_can_be_read(
    driver: Driver, fake: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "WRITE_RETRY_S", 0.0)
    run = batch(driver, 201)
    driver.until(lambda: driver.status(run) == "finalizing", also=fake.work)
    with driver.session() as session:  # the first slice can be written
        session.execute(sa.text("UPDATE instance SET query = '{}' WHERE position = 200"))
    driver.until(lambda: driver.status(run) == "failed")
    with driver.session() as session:
        state = batches.state(session, run)
        assert len(list(lines.results(driver.session, run))) == 201
    (error,) = state.run.errors
    assert error["code"] == "internal_error"
    assert f"/v1/benchmarks/{run}/results" in error["message"]
    assert (state.batch.output_file_id, state.batch.error_file_id, state.counts.done) == (None, None, 201)
    assert not list(files.folder(driver.settings).glob(".*"))
