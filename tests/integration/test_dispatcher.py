"""The dispatcher against a worker that says what each test needs."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import redis
import sqlalchemy as sa
from structlog.testing import capture_logs

from orchestrator import residency
from orchestrator.dispatch import chunks, dispatcher
from orchestrator.dispatch.backlog import BacklogReader
from orchestrator.dispatch.costs_reader import CostsReader
from orchestrator.dispatch.demands import Demands
from orchestrator.pool import experts, pool
from orchestrator.runs import runs
from orchestrator.runs.staging.context import Contexts
from orchestrator.settings import Settings
from tests import seeds
from tests.driving import Driver
from tests.fake_worker import FakeWorker, right_answer
from tests.waiting import until
from workers.messages import (
    CANCELLED_KEY,
    DEMAND_KEY,
    LOST_CLAIM,
    Chunk,
    Completion,
    Demand,
    Finished,
    LoadEvent,
    Model,
    Request,
    claim_key,
    load_error_key,
)

ONE = {"ada": "stub:one"}


@pytest.fixture
def driver(engine: sa.Engine, settings: Settings, tmp_path: Path) -> Iterator[Driver]:
    quick = settings.model_copy(
        update={"experts_file": tmp_path / "none.toml", "question_set": seeds.SET_NAME, "lease_s": 0.4, "late_s": 60.0}
    )
    driving = Driver(engine, quick)
    yield driving
    driving.close()


def submit(driver: Driver, lines: int = 2, *, prefix: str = "line", **wanted: Any) -> str:
    with driver.session() as session:
        is_first = not runs.listed(session)
        members = seeds.live_pool(session, ONE) if is_first else pool.load(session, question_set=seeds.SET_NAME)
        asked = seeds.questions(lines, prefix=prefix)
        options = {"k": 1, "fusion": "vote", **wanted}
        run = runs.submit_benchmark(
            session, settings=driver.settings, pool=members, name="t", questions=asked, **options
        )
    return run.id


def chunk_for(driver: Driver, fake: FakeWorker) -> Chunk:
    """The next chunk that comes."""
    fake.held = []

    def look() -> None:
        fake.say()
        fake.take()

    driver.until(lambda: fake.held, also=look)
    return fake.held[0]


def failing(fault: str, error: str = "broken") -> Any:
    def answer(request: Request) -> Completion:
        return Completion.model_validate({"id": request.id, "finish_reason": "error", "fault": fault, "error": error})

    return answer


def test_a_message_that_never_arrived_is_no_loss_of_a_worker(driver: Driver, fake: FakeWorker) -> None:
    submit(driver)
    for _ in range(3):
        chunk_for(driver, fake)
        fake.held = []
        fake.say()  # as if it had never got the chunk
    driver.until(lambda: driver.scalar("SELECT count(*) FROM chunk WHERE state = 'lost'") == 3, also=fake.say)
    assert driver.scalar("SELECT max(losses) FROM unit") == 0


def test_a_unit_lost_thrice_runs_alone_and_a_poisonous_one_is_set_aside(driver: Driver, fake: FakeWorker) -> None:
    run = submit(driver, 3)
    sizes = []

    def die_with_the_poison() -> None:
        fake.say()
        fake.held = []
        for chunk in fake.take():
            sizes.append(len(chunk.requests))
            fake.say()
            if not any("number 1?" in request.messages[-1].content for request in chunk.requests):
                fake.finish(chunk)
            fake.held = []

    driver.until(lambda: driver.is_done(run), also=die_with_the_poison, timeout_s=40)
    # Twice all together, once as suspects, then each alone; the poison dies alone as often as a unit may fail.
    assert sizes[:3] == [3, 3, 3]
    assert sorted(sizes[3:]) == [1] * (2 + driver.settings.max_attempts)
    lines = {line["id"]: line for line in driver.lines(run)}
    assert "died each time it ran this alone" in lines["line1"]["error"]
    assert lines["line0"]["error"] is lines["line2"]["error"] is None


def test_a_fault_of_the_engine_is_tried_again_until_it_has_failed_too_often(driver: Driver, fake: FakeWorker) -> None:
    run = submit(driver, 1)
    for _ in range(driver.settings.max_attempts):
        fake.finish(chunk_for(driver, fake), failing("engine"))
    driver.until(lambda: driver.is_done(run), also=fake.say)
    assert driver.scalar("SELECT attempts FROM unit") == driver.settings.max_attempts
    assert driver.scalar("SELECT error FROM instance") == "no expert answered: ada: broken"


def test_a_fault_of_the_request_is_not_tried_again(driver: Driver, fake: FakeWorker) -> None:
    run = submit(driver, 1)
    fake.finish(chunk_for(driver, fake), failing("request", "too long"))
    driver.until(lambda: driver.is_done(run), also=fake.say)
    assert driver.scalar("SELECT count(*) FROM chunk") == 1


def test_what_a_draining_worker_hands_back_costs_nothing(driver: Driver, fake: FakeWorker) -> None:
    run = submit(driver, 1)
    chunk = chunk_for(driver, fake)
    fake.held = []
    fake.say(ended=[chunk.id], draining=True)
    fake.say()
    again = chunk_for(driver, fake)
    assert again.id > chunk.id
    driver.until(lambda: driver.is_done(run), also=fake.work)
    assert driver.scalar("SELECT attempts + losses FROM unit") == 0


def test_what_a_worker_gives_back_again_and_again_is_set_aside(driver: Driver, fake: FakeWorker) -> None:
    run = submit(driver, 1)

    def give_back() -> None:
        ended = [chunk.id for chunk in fake.take()]
        fake.held = []
        fake.say(ended=ended)

    driver.until(lambda: driver.is_done(run), also=give_back)
    assert "gave it back" in str(driver.scalar("SELECT error FROM instance"))
    assert driver.scalar("SELECT losses FROM unit") == 2 + driver.settings.max_attempts


def test_an_engine_that_dies_costs_an_attempt_only_what_ran_alone(driver: Driver, fake: FakeWorker) -> None:
    run = submit(driver, 3)

    def answer(request: Request) -> Completion:
        died = {"finish_reason": "error", "fault": "engine", "error": "signal 9", "engine_died": True}
        return Completion.model_validate({"id": request.id, **died})

    def work() -> None:
        fake.say()
        for chunk in fake.take():
            is_poisoned = any("number 1?" in request.messages[-1].content for request in chunk.requests)
            fake.finish(chunk, answer if is_poisoned else None)

    driver.until(lambda: driver.is_done(run), also=work)
    errors = {line["id"]: line["error"] for line in driver.lines(run)}
    assert errors == {"line0": None, "line1": "no expert answered: ada: signal 9", "line2": None}


def test_a_worker_that_dies_before_it_mentions_its_chunk_is_a_loss_all_the_same(
    driver: Driver, fake: FakeWorker, redis_client: redis.Redis
) -> None:
    submit(driver)
    chunk = chunk_for(driver, fake)
    redis_client.set(claim_key(chunk.id), "fake/1")
    fake.held = []
    driver.until(lambda: driver.scalar("SELECT count(*) FROM chunk WHERE state = 'lost'"), also=fake.say)
    assert driver.scalar("SELECT min(losses) FROM unit") == 1


def test_a_healthy_unit_whose_worker_dies_while_it_waits_for_its_model_is_no_poison(
    driver: Driver, fake: FakeWorker
) -> None:
    run = submit(driver, 1)
    for _ in range(2 + 2 * driver.settings.max_attempts):
        driver.until(fake.take, also=lambda: fake.say(begun=[]))
        fake.say(begun=[])
        fake.held = []
    driver.until(lambda: driver.is_done(run), also=fake.work)
    assert driver.scalar("SELECT attempts FROM unit") == 0
    assert driver.scalar("SELECT losses FROM unit") == 2 + 2 * driver.settings.max_attempts
    assert driver.scalar("SELECT error FROM instance") is None


def test_a_unit_whose_worker_dies_without_end_before_it_begins_is_set_aside(driver: Driver, fake: FakeWorker) -> None:
    run = submit(driver, 1)

    def die_waiting() -> None:
        fake.say(begun=[])
        fake.take()
        fake.say(begun=[])
        fake.held = []

    driver.until(lambda: driver.is_done(run), also=die_waiting, timeout_s=60)
    assert "before it could begin this" in str(driver.scalar("SELECT error FROM instance"))
    most = chunks.SUSPECT_LOSSES + driver.settings.max_attempts + chunks.IDLE_LOSSES_MAX
    assert driver.scalar("SELECT losses FROM unit") == most


def test_what_a_killed_worker_held_is_not_waited_for_once_it_is_started_again(
    engine: sa.Engine, settings: Settings, fake: FakeWorker
) -> None:
    driver = Driver(engine, settings.model_copy(update={"question_set": seeds.SET_NAME, "lease_s": 600.0}))
    run = submit(driver, 2)
    old = chunk_for(driver, fake)
    fake.say()
    fake.started_at = 2.0
    again = chunk_for(driver, fake)
    assert again.id > old.id
    fake.say()
    # A last word of the former life, if it was not dead after all, takes nothing from the present one.
    fake.started_at = 1.0
    fake.say()
    fake.started_at = 2.0
    fake.say()
    time.sleep(dispatcher.REAP_S)
    driver.step()
    assert driver.scalar("SELECT state FROM chunk WHERE id = :id", id=again.id) == "sent"
    driver.until(lambda: driver.is_done(run), also=fake.work)
    assert driver.scalar("SELECT count(*) FROM chunk WHERE state = 'lost'") == 1
    driver.close()


def test_a_lost_chunk_can_be_claimed_no_more(driver: Driver, fake: FakeWorker, redis_client: redis.Redis) -> None:
    submit(driver)
    chunk = chunk_for(driver, fake)
    fake.held = []
    driver.until(lambda: driver.scalar("SELECT count(*) FROM chunk WHERE state = 'lost'"), also=fake.say)
    assert redis_client.get(claim_key(chunk.id)) == LOST_CLAIM


def test_a_model_that_fails_to_load_three_times_in_a_row_is_set_aside(driver: Driver, fake: FakeWorker) -> None:
    submit(driver, 1)
    key = chunk_for(driver, fake).model.key
    for _ in range(3):
        fake.say(loads=[LoadEvent(model_key=key, seconds=1.0, error="out of memory")])
    driver.until(lambda: driver.scalar("SELECT state FROM expert") == "quarantined")
    assert "3 times in a row: out of memory" in str(driver.scalar("SELECT reason FROM expert"))


def test_a_unit_that_takes_too_long_is_late_and_its_line_goes_on(
    driver: Driver, fake: FakeWorker, redis_client: redis.Redis
) -> None:
    run = submit(driver, 1)
    chunk = chunk_for(driver, fake)
    fake.say()
    driver.step()
    driver.scalar("UPDATE chunk SET moved_at = now() - interval '2 minutes' RETURNING 1")
    driver.until(lambda: driver.is_done(run), also=fake.say)
    assert "no answer within 60 s" in str(driver.scalar("SELECT error FROM instance"))
    driver.until(lambda: redis_client.sismember(CANCELLED_KEY, chunk.requests[0].id), also=fake.say)


def test_a_chunk_that_its_worker_has_not_begun_is_not_late(driver: Driver, fake: FakeWorker) -> None:
    submit(driver, 1)
    chunk = chunk_for(driver, fake)
    fake.say(begun=[])
    driver.step()
    driver.scalar("UPDATE chunk SET sent_at = now() - interval '2 hours' RETURNING 1")
    assert late(driver) == 0
    fake.say(begun=[chunk.id])
    driver.step()
    assert late(driver) == 0  # its time counts from now
    driver.scalar("UPDATE chunk SET moved_at = now() - interval '2 minutes' RETURNING 1")
    assert late(driver) == 1


def test_a_chunk_of_which_units_are_finished_is_not_late(driver: Driver, fake: FakeWorker) -> None:
    submit(driver, 2)
    chunk = chunk_for(driver, fake)
    fake.say()
    driver.step()
    driver.scalar("UPDATE chunk SET moved_at = now() - interval '2 minutes' RETURNING 1")
    fake.say(finished=[Finished(chunk_id=chunk.id, completion=right_answer(chunk.requests[0]))])
    driver.until(lambda: driver.scalar("SELECT count(*) FROM unit WHERE state = 'done'"))
    assert late(driver) == 0
    driver.scalar("UPDATE chunk SET moved_at = now() - interval '2 minutes' RETURNING 1")
    assert late(driver) == 1


def late(driver: Driver) -> int:
    """How many units the dispatcher fails as late now."""
    with driver.session() as session:
        return len(chunks.fail_late(session, late_s=driver.settings.late_s, unread_s=0.0))


@pytest.mark.parametrize("ends", ["cancelled", "late"])
def test_what_units_took_that_were_called_off_is_charged(driver: Driver, fake: FakeWorker, ends: str) -> None:
    """They have failed already when their worker tells; charges change, and nothing else does."""
    run = submit(driver, 2)
    chunk = chunk_for(driver, fake)
    fake.say()
    driver.step()
    if ends == "late":
        driver.scalar("UPDATE chunk SET moved_at = now() - interval '2 minutes' RETURNING 1")
        assert late(driver) == 2
    else:
        with driver.session() as session:
            runs.cancel(session, run)
    driver.until(lambda: driver.scalar("SELECT count(*) FROM unit WHERE state = 'failed'") == 2, also=fake.say)
    before = driver.scalar("SELECT min(completion::text) FROM unit")

    def abort(request: Request) -> Completion:
        return Completion(id=request.id, finish_reason="abort", error="cancelled", device_s=1.5, load_s=0.5)

    fake.finish(chunk, abort)
    driver.until(lambda: driver.scalar("SELECT sum(device_s) FROM unit") == 3.0)
    assert driver.scalar("SELECT sum(load_s) FROM unit") == 1.0
    assert driver.scalar("SELECT count(*) FROM unit WHERE state = 'failed'") == 2
    assert driver.scalar("SELECT max(completion::text) FROM unit") == before


def test_runs_take_turns_at_a_model(driver: Driver, redis_url: str) -> None:
    first, second = submit(driver, 200, prefix="a"), submit(driver, 200, prefix="b")
    driver.until(lambda: driver.scalar("SELECT count(*) FROM unit") == 400)
    with FakeWorker(redis_url, slots=2) as worker:
        order: list[str] = []

        def work() -> None:
            order.extend(chunk.run_id for chunk in worker.take())
            worker.work()

        driver.until(lambda: driver.is_done(first) and driver.is_done(second), also=work)
    assert {first, second} == set(order[:2])
    assert {first, second} == set(order[2:4])


def test_a_cancelled_run_is_announced_to_workers_again_after_redis_was_flushed(
    driver: Driver, fake: FakeWorker, redis_client: redis.Redis
) -> None:
    run = submit(driver)
    with driver.session() as session:
        runs.cancel(session, run)
    driver.until(lambda: redis_client.sismember(CANCELLED_KEY, f"run:{run}"))
    redis_client.flushdb()
    driver.until(lambda: redis_client.sismember(CANCELLED_KEY, f"run:{run}"))
    assert driver.status(run) == "cancelled"


def test_a_flushed_redis_loses_no_unit(driver: Driver, fake: FakeWorker, redis_client: redis.Redis) -> None:
    run = submit(driver, 4)
    driver.until(lambda: driver.scalar("SELECT count(*) FROM chunk"))
    redis_client.flushdb()
    driver.until(lambda: driver.is_done(run), also=fake.work)
    assert driver.scalar("SELECT count(*) FROM unit WHERE state = 'done'") == 4


def test_a_model_that_queries_wait_for_is_loaded_and_the_demand_met(
    driver: Driver, fake: FakeWorker, redis_client: redis.Redis
) -> None:
    wanted = Model(source="stub:wanted")
    demand = Demand(model=wanted, since_s=time.time())
    redis_client.hset(DEMAND_KEY, wanted.key, demand.model_dump_json())
    told: list[Any] = []

    def look() -> None:
        fake.say()
        told.extend(fake.loads())

    driver.until(lambda: told, also=look)
    assert [load.model for load in told] == [wanted]
    fake.load(wanted)
    driver.until(lambda: not redis_client.hexists(DEMAND_KEY, wanted.key), also=fake.say)


def test_a_demanded_model_that_no_run_needs_goes_only_where_there_are_devices_for_it(
    driver: Driver, fake: FakeWorker, redis_client: redis.Redis, redis_url: str
) -> None:
    large = Model(source="stub:large", tensor_parallel=2)
    redis_client.hset(DEMAND_KEY, large.key, Demand(model=large, since_s=time.time()).model_dump_json())
    told: list[Any] = []
    with FakeWorker(redis_url, "wide", device="cuda:0,1") as wide:

        def look() -> None:
            fake.say()
            wide.say()
            told.extend(wide.loads())

        driver.until(lambda: told, also=look)
    assert [load.model for load in told] == [large]
    assert fake.loads() == []


def test_a_demanded_model_that_no_run_needs_is_woken_where_it_sleeps(
    driver: Driver, redis_client: redis.Redis, redis_url: str
) -> None:
    wanted = Model(source="stub:wanted")
    with FakeWorker(redis_url, "a") as awake, FakeWorker(redis_url, "b") as dozing:
        dozing.asleep = (wanted.key,)
        dozing.say(loads=[LoadEvent(model_key=wanted.key, seconds=0.1, woken=True)])
        driver.until(lambda: driver.scalar("SELECT count(*) FROM load"), also=awake.say)
        redis_client.hset(DEMAND_KEY, wanted.key, Demand(model=wanted, since_s=time.time()).model_dump_json())
        told: list[Any] = []

        def look() -> None:
            awake.say()
            dozing.say()
            told.extend(dozing.loads())

        driver.until(lambda: told, also=look)
        assert awake.loads() == []


def test_only_a_load_for_queries_keeps_a_worker_for_them_and_only_once(
    driver: Driver, fake: FakeWorker, redis_client: redis.Redis
) -> None:
    wanted = Model(source="stub:wanted")
    redis_client.hset(DEMAND_KEY, wanted.key, Demand(model=wanted, since_s=time.time()).model_dump_json())
    driver.until(fake.loads, also=fake.say)

    def idle_s() -> float | None:
        (worker,) = driver.dispatcher.workers({})
        return worker.online_idle_s

    assert idle_s() is None
    fake.load(wanted)
    driver.until(lambda: idle_s() is not None)
    before_s = idle_s()
    fake.load(wanted)  # as if for a chunk
    fake.say()
    driver.until(lambda: not redis_client.exists(DEMAND_KEY))
    driver.step()
    assert (idle_s() or 0) > (before_s or 0)

    demands = Demands(redis_client)
    demands.sent("a", "w", for_queries=False)
    assert demands.loading_at("w") == ["a"]
    assert not demands.loaded("a", "w")
    assert demands.loading_at("w") == []


def test_a_worker_is_known_to_load_whatever_it_says_and_whatever_it_was_told(
    driver: Driver, fake: FakeWorker, redis_client: redis.Redis
) -> None:
    wanted = Model(source="stub:wanted")
    redis_client.hset(DEMAND_KEY, wanted.key, Demand(model=wanted, since_s=time.time()).model_dump_json())
    driver.until(fake.loads, also=fake.say)
    fake.loading = ("a", "b")
    fake.say()

    def loading() -> tuple[str, ...]:
        (worker,) = driver.dispatcher.workers({})
        return worker.loading

    driver.until(lambda: loading() == ("a", "b", wanted.key))


def test_a_demand_whose_load_failed_is_taken_away_with_the_reason(
    driver: Driver, fake: FakeWorker, redis_client: redis.Redis
) -> None:
    """And so is the next one for a while: nobody waits for what will not come."""
    wanted = Model(source="stub:wanted")

    def demand() -> None:
        redis_client.hset(DEMAND_KEY, wanted.key, Demand(model=wanted, since_s=time.time()).model_dump_json())

    demand()
    driver.until(fake.loads, also=fake.say)
    fake.say(loads=[LoadEvent(model_key=wanted.key, seconds=1.0, error="the worker is stopping", fault="engine")])
    driver.until(lambda: not redis_client.hexists(DEMAND_KEY, wanted.key), also=fake.say)
    told = redis_client.get(load_error_key(wanted.key))
    assert told == "the worker is stopping"
    demand()
    driver.until(lambda: not redis_client.hexists(DEMAND_KEY, wanted.key), also=fake.say)
    fake.load(wanted)
    driver.until(lambda: not redis_client.exists(load_error_key(wanted.key)), also=fake.say)


def test_a_model_that_cannot_be_loaded_for_a_query_is_set_aside_at_once(driver: Driver, fake: FakeWorker) -> None:
    with driver.session() as session:
        seeds.live_pool(session, ONE)
    key = driver.scalar("SELECT model_key FROM expert")
    fake.say(loads=[LoadEvent(model_key=str(key), seconds=1.0, error="bad weights", fault="model")])
    driver.until(lambda: driver.scalar("SELECT state FROM expert") == "quarantined")
    assert driver.scalar("SELECT reason FROM expert") == "bad weights"


@pytest.mark.parametrize("gone", ["removed", "replaced"])
def test_runs_go_on_without_a_dead_model_though_its_expert_is_current_no_more(
    driver: Driver, fake: FakeWorker, gone: str
) -> None:
    run = submit(driver, 1)
    key = chunk_for(driver, fake).model.key

    with driver.session() as session:
        if gone == "replaced":
            experts.patch(session, "ada", {"model": "stub:other"})
        else:
            experts.remove(session, "ada")
    before = driver.scalar("SELECT state FROM expert WHERE version = 1")
    fake.say(loads=[LoadEvent(model_key=key, seconds=1.0, error="bad weights", fault="model")])
    driver.until(lambda: driver.scalar("SELECT count(*) FROM load"))
    with driver.session() as session:
        context = Contexts(load_embedder=seeds.WordEmbedder).of(session, runs.get(session, run))
        assert context.quarantined(session) == {"ada"}
    assert driver.scalar("SELECT state FROM expert WHERE version = 1") == before


def test_an_expert_that_was_quarantined_is_not_taken_in_by_its_removal(driver: Driver, fake: FakeWorker) -> None:
    run = submit(driver, 1)
    with driver.session() as session:
        experts.move(experts.get(session, "ada"), "quarantined", "bad weights")
        experts.remove(session, "ada")
    with driver.session() as session:
        context = Contexts(load_embedder=seeds.WordEmbedder).of(session, runs.get(session, run))
        assert context.quarantined(session) == {"ada"}


def test_a_message_that_makes_no_sense_is_left_out(driver: Driver, fake: FakeWorker, redis_client: redis.Redis) -> None:
    run = submit(driver, 2)
    redis_client.xadd("muster:progress", {"progress": "{not json"})
    redis_client.xadd("muster:progress", {"other": "field"})
    driver.until(lambda: driver.is_done(run), also=fake.work)


def test_a_completion_about_the_nul_character_is_kept_as_it_was_said(driver: Driver, fake: FakeWorker) -> None:
    said = r"C ends a string with a zero byte, JSON writes it \u0000; \u00009 is two characters."
    run = submit(driver, 1)
    fake.finish(chunk_for(driver, fake), lambda request: Completion(id=request.id, text=f"{said}\0"))
    driver.until(lambda: driver.is_done(run), also=fake.say)
    assert driver.scalar("SELECT completion->>'text' FROM unit") == said
    assert driver.scalar("SELECT answer FROM instance") is not None


def test_a_message_that_the_database_refuses_is_left_out_and_its_units_are_tried_again(
    driver: Driver, fake: FakeWorker
) -> None:
    run = submit(driver, 2)
    refused = chunk_for(driver, fake)
    fake.held = []
    finished = [Finished(chunk_id=refused.id, completion=right_answer(request)) for request in refused.requests]
    fake.say(finished=finished, ended=[refused.id, 2**70])  # no chunk's number is as large
    driver.until(lambda: driver.is_done(run), also=fake.work)
    assert driver.scalar("SELECT count(*) FROM instance WHERE correct") == 2
    assert driver.scalar("SELECT count(*) FROM chunk") == 2


def test_a_restarted_dispatcher_reads_on_where_the_last_one_stopped(driver: Driver, fake: FakeWorker) -> None:
    run = submit(driver, 2)
    chunk = chunk_for(driver, fake)
    fake.finish(chunk)
    successor = Driver(driver.engine, driver.settings)
    successor.until(lambda: successor.is_done(run), also=fake.say)
    successor.close()
    assert driver.scalar("SELECT count(*) FROM chunk") == 1


def test_workers_are_given_time_to_speak_after_the_broker_was_away(
    driver: Driver, fake: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "HEARD_S", 3.0)
    submit(driver)
    chunk_for(driver, fake)
    fake.say()
    driver.step()
    with monkeypatch.context() as patched:
        patched.setattr(redis.Redis, "xread", Mock(side_effect=redis.ConnectionError))
        with pytest.raises(redis.ConnectionError):
            driver.step()
        driver.dispatcher.forget()
    time.sleep(2 * driver.settings.lease_s)
    driver.step()
    time.sleep(dispatcher.REAP_S)
    driver.step()
    assert driver.scalar("SELECT count(*) FROM chunk WHERE state = 'lost'") == 0
    # Whoever is silent past that is lost.
    driver.until(lambda: driver.scalar("SELECT count(*) FROM chunk WHERE state = 'lost'"))


def test_a_worker_that_just_worked_is_not_taken_for_idle(driver: Driver, fake: FakeWorker) -> None:
    driver.step()
    time.sleep(0.6)
    submit(driver, 1)
    driver.until(lambda: fake.held, also=fake.take)
    fake.finish(fake.held[0])  # before any planning could see the chunk out
    driver.step()
    (worker,) = driver.dispatcher.workers({})
    assert worker.idle_s < 0.5


def test_the_plan_is_given_loads_as_measured(driver: Driver, fake: FakeWorker) -> None:
    submit(driver, 1)
    model = chunk_for(driver, fake).model
    with driver.session() as session:
        assert CostsReader().read(session, {model.key: model})[model.key] == residency.UNKNOWN
    fake.say(loads=[LoadEvent(model_key=model.key, seconds=3.0), LoadEvent(model_key=model.key, seconds=5.0)])
    driver.until(lambda: driver.scalar("SELECT count(*) FROM load") == 2, also=fake.say)
    with driver.session() as session:
        assert CostsReader().read(session, {model.key: model})[model.key].load_s == pytest.approx(3.6)  # a moving mean


def test_it_says_which_model_a_worker_takes_up_and_for_how_long(driver: Driver, fake: FakeWorker) -> None:
    submit(driver, 800)
    until(lambda: driver.stager.step() and driver.scalar("SELECT count(*) FROM unit") == 800)
    prompts, total = driver.scalar("SELECT sum(prompt_tokens) FROM unit"), driver.scalar("SELECT sum(tokens) FROM unit")
    with capture_logs() as logs:
        chunk = chunk_for(driver, fake)
        fake.load(chunk.model, chunk_id=chunk.id)
        submit(driver, 3, prefix="more")
        chunk_for(driver, fake)
    (said,) = (line for line in logs if line["event"] == "a worker takes up a model")
    assert (said["worker"], said["model"]) == ("fake", "stub:one")
    prompt_tokens, completion_tokens = int(str(prompts)), int(str(total)) - int(str(prompts))
    taken_s = residency.UNKNOWN.seconds(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
    assert said["stay_s"] == pytest.approx(taken_s, rel=0.1)


def test_the_plan_foresees_who_is_needed_after_annotation(driver: Driver) -> None:
    with driver.session() as session:
        members = seeds.live_pool(session, {"ada": "stub:one", "bea": "stub:two"})
        runs.submit_benchmark(
            session,
            settings=driver.settings,
            pool=members,
            name="t",
            questions=seeds.questions(10),
            k=1,
            annotation="llm",
            fusion="aggregate",
            aggregator="bea",
        )
    with driver.session() as session:
        expected = BacklogReader().read(session).queues
    keys = {expert.name: expert.model.key for expert in members.experts.values()}
    assert {name: expected[key].soon for name, key in keys.items()} == {"ada": 5.0, "bea": 5.0}
    assert expected[keys["bea"]].later == 10.0
    assert sum(queue.feeds for queue in expected.values()) == 10.0


def test_the_plan_is_given_tokens_as_expected_and_not_as_allowed(driver: Driver) -> None:
    run = submit(driver, 1)
    driver.until(lambda: waiting(driver) == 1)
    more(driver, 19_999)
    prompt = driver.scalar("SELECT prompt_tokens FROM unit LIMIT 1")
    assert isinstance(prompt, int)
    assert prompt > 10
    backlogs = BacklogReader()

    def counted() -> residency.Queue:
        with driver.session() as session:
            (queue,) = backlogs.read(session).queues.values()
        return queue

    queue = counted()
    completion = 5  # as its profile's answers had
    assert (queue.tokens, queue.prompt_tokens) == (20_000 * (prompt + completion), 20_000 * prompt)
    backlogs.sent(queue.model_key, run, 5_000)
    queue = counted()
    assert (queue.tokens, queue.prompt_tokens) == (15_000 * (prompt + completion), 15_000 * prompt)


def test_a_large_backlog_is_counted_once_for_many_plans(driver: Driver) -> None:
    run = submit(driver)
    driver.until(lambda: waiting(driver) == 2)
    backlogs = BacklogReader()

    def counted() -> int:
        with driver.session() as session:
            (queue,) = backlogs.read(session).queues.values()
        return queue.units

    key = str(driver.scalar("SELECT min(model_key) FROM unit"))
    assert counted() == 2
    more(driver, 20_000)
    assert counted() == 20_002  # the small one is not kept
    more(driver, 7)
    backlogs.sent(key, run, 64)
    assert counted() == 20_002 - 64
    backlogs.sent(key, run, 20_002 - 64)
    assert counted() == 20_009  # never said to be empty by an old count
    more(driver, 1)
    backlogs.forget()
    assert counted() == 20_010


def waiting(driver: Driver) -> Any:
    return driver.scalar("SELECT count(*) FROM unit WHERE state = 'pending'")


def more(driver: Driver, count: int) -> None:
    """So many more units that wait beside the first, as its further samples."""
    with driver.session() as session:
        session.execute(
            sa.text(
                """
                INSERT INTO unit (run_id, instance_id, stage, round, expert, sample, model_key, request, tokens,
                    prompt_tokens, state, attempts, losses)
                SELECT first.run_id, instance_id, stage, round, expert, last + n, model_key, request, tokens,
                    prompt_tokens, state, attempts, losses
                FROM (SELECT * FROM unit ORDER BY id LIMIT 1) AS first, (SELECT max(sample) AS last FROM unit) AS known,
                    generate_series(1, :count) AS n
                """
            ),
            {"count": count},
        )
