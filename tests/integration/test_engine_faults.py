"""Engines that cannot be loaded, stand still or come back wrong, under runs and queries: nothing waits for ever."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from orchestrator.pool import measured_costs
from orchestrator.runs import report, runs
from orchestrator.settings import Settings
from orchestrator.storage import database
from tests import seeds
from tests.driving import Driver
from tests.serving import served
from tests.waiting import until
from tests.worker_process import WorkerProcess
from workers import messages
from workers.messages import Model

WINDOW = 2
QUESTION = "About algebra: what is number 7?\nA. one\nB. two\nC. three\nD. four\n[stub:gold=C][stub:skill=algebra]"


@pytest.fixture
def quick(settings: Settings, tmp_path: Path) -> Settings:
    changes = {
        "experts_file": tmp_path / "none.toml",
        "question_set": seeds.SET_NAME,
        "lease_s": 3.0,
        "chunk_units": 16,
    }
    return settings.model_copy(update=changes)


@pytest.fixture
def driver(engine: sa.Engine, quick: Settings) -> Iterator[Driver]:
    driving = Driver(engine, quick)
    yield driving
    driving.close()


def pool_of(driver: Driver, sources: dict[str, str]) -> Any:
    with driver.session() as session:
        return seeds.live_pool(session, sources, good=dict.fromkeys(sources, seeds.SKILLS))


def submit(driver: Driver, sources: dict[str, str], lines: int, **wanted: Any) -> str:
    pool = pool_of(driver, sources)
    with driver.session() as session:
        options: dict[str, Any] = {"k": len(sources), "fusion": "vote", "annotation": "embedding", **wanted}
        run = runs.submit_benchmark(
            session, settings=driver.settings, pool=pool, name="t", questions=seeds.questions(lines), **options
        )
    return run.id


def ask(url: str, **options: Any) -> Any:
    body = {"model": "muster", "messages": [{"role": "user", "content": QUESTION}], "muster": options}
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).raise_for_status().json()


def test_a_run_goes_on_when_its_engine_stands_still_again_and_again(
    driver: Driver, redis_url: str, tmp_path: Path
) -> None:
    with WorkerProcess(redis_url, tmp_path, "--stall-s", "0.5", "--bulk-sequences", "4"):
        run = submit(driver, {"ada": "stub:standing?child=1&hang_at=25&latency_s=0.01"}, 60)
        driver.until(lambda: driver.is_done(run), timeout_s=40)
    assert driver.scalar("SELECT count(*) FROM instance WHERE error IS NULL") == 60
    assert driver.scalar("SELECT count(*) FROM load WHERE error IS NULL") == 3
    assert driver.scalar("SELECT count(*) FROM unit WHERE losses > 0") > 0  # type: ignore[operator]


def test_a_query_is_asked_again_when_the_engine_stands_still(
    driver: Driver, quick: Settings, redis_url: str, tmp_path: Path
) -> None:
    pool_of(driver, {"ada": "stub:standing?child=1&hang_at=2"})
    with (
        WorkerProcess(redis_url, tmp_path / "worker", "--stall-s", "0.5"),
        served(quick) as url,
        driver.stepping(),
    ):
        for _ in range(3):
            answer = ask(url, k=1)
            assert answer["muster"]["answers"][0]["error"] is None
        until(lambda: driver.scalar("SELECT count(*) FROM load WHERE error IS NULL") == 3)


def test_a_query_goes_on_without_a_model_that_cannot_be_loaded_and_the_next_does_not_ask_for_it(
    driver: Driver, quick: Settings, redis_url: str, tmp_path: Path
) -> None:
    pool_of(driver, {"ada": "stub:good", "bob": "stub:good", "bad": "stub:broken?fail_load=out+of+memory"})
    with WorkerProcess(redis_url, tmp_path / "worker"), served(quick) as url, driver.stepping():
        answers = {each["expert"]: each for each in ask(url, k=3, fusion="vote")["muster"]["answers"]}
        assert (answers["ada"]["error"], answers["bob"]["error"]) == (None, None)
        assert "out of memory" in answers["bad"]["error"]
        driver_state = "SELECT state || ': ' || reason FROM expert WHERE name = 'bad'"
        assert driver.scalar(driver_state) == "quarantined: out of memory"
        assert {each["expert"] for each in ask(url)["muster"]["answers"]} == {"ada", "bob"}
    assert driver.scalar("SELECT count(*) FROM load WHERE error IS NOT NULL") == 1


def test_a_run_asks_a_model_with_broken_weights_once(driver: Driver, redis_url: str, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()  # neither config.json nor weights: found by the path that real weights take
    with WorkerProcess(redis_url, tmp_path / "worker"):
        run = submit(driver, {"ada": "stub:good", "bad": f"path:{folder}"}, 40)
        driver.until(lambda: driver.is_done(run), timeout_s=60)
    assert driver.scalar("SELECT count(*) FROM instance WHERE error IS NULL") == 40
    assert driver.scalar("SELECT count(*) FROM load WHERE error IS NOT NULL") == 1
    assert "no model folder" in str(driver.scalar("SELECT reason FROM expert WHERE name = 'bad'"))


def test_lines_whose_experts_engine_is_killed_while_it_loads_are_answered_by_another(
    driver: Driver, redis_url: str, tmp_path: Path
) -> None:
    """As the kernel kills for memory: it says nothing of the lines, which wait until the model is set aside."""
    with WorkerProcess(redis_url, tmp_path / "worker"):
        run = submit(driver, {"big": "stub:big?child=1&kill_load=1", "ada": "stub:one"}, 300, k=1)
        driver.until(lambda: driver.is_done(run), timeout_s=60)
    assert driver.scalar("SELECT count(*) FROM unit WHERE expert = 'big'") > 0  # type: ignore[operator]
    assert driver.scalar("SELECT count(*) FROM instance WHERE error IS NULL AND answers -> 'ada' IS NOT NULL") == 300
    assert driver.scalar("SELECT max(attempts) FROM unit WHERE expert = 'big'") == 0
    reason = "SELECT state || ': ' || reason FROM expert WHERE name = 'big'"
    assert "quarantined: loading failed 3 times in a row: the engine's process ended" in str(driver.scalar(reason))
    tries = driver.scalar("SELECT count(*) FROM load WHERE error IS NOT NULL")
    assert 3 <= tries <= 3 + WINDOW - 1  # type: ignore[operator]  # what was out already when the third one failed


def test_a_model_that_kills_its_worker_while_it_loads_is_set_aside_and_its_lines_go_to_another(
    driver: Driver, redis_url: str, tmp_path: Path
) -> None:
    """As the kernel does that kills a control group for its memory: the worker's next life tells of it."""
    deaths = 0
    with WorkerProcess(redis_url, tmp_path / "worker") as worker:

        def restart() -> None:
            nonlocal deaths
            if worker.process.poll() is not None:
                deaths += 1
                worker.begin()

        run = submit(driver, {"big": "stub:big?kill_load=1&load_s=0.5", "ada": "stub:one"}, 100, k=1)
        driver.until(lambda: driver.is_done(run), also=restart, timeout_s=90)
    assert driver.scalar("SELECT count(*) FROM unit WHERE expert = 'big'") > 0  # type: ignore[operator]
    assert driver.scalar("SELECT count(*) FROM instance WHERE error IS NULL AND answers -> 'ada' IS NOT NULL") == 100
    reason = "SELECT state || ': ' || reason FROM expert WHERE name = 'big'"
    assert "quarantined: loading it killed a worker 5 times in a row: the worker died" in str(driver.scalar(reason))
    assert 5 <= deaths <= 5 + WINDOW - 1  # what was out already when the fifth was told


def test_a_sleeping_engine_that_comes_back_wrong_is_counted_and_its_run_completes(
    driver: Driver, redis_url: str, tmp_path: Path
) -> None:
    sources = {name: f"stub:{name}?sleep=1&memory_bytes=9&wake=wrong" for name in ("ada", "bob")}
    with WorkerProcess(redis_url, tmp_path):
        for _ in range(2):
            run = submit(driver, sources, 6) if not driver.scalar("SELECT count(*) FROM run") else again(driver)
            driver.until(lambda run=run: driver.is_done(run), timeout_s=30)  # type: ignore[misc]
    assert driver.scalar("SELECT count(*) FROM load WHERE failed_wake LIKE '%canary%'") == 1
    assert driver.scalar("SELECT count(*) FROM instance WHERE error IS NULL") == 12


def again(driver: Driver) -> str:
    """The same benchmark once more."""
    from orchestrator.pool import pool

    with driver.session() as session:
        members = pool.load(session, question_set=seeds.SET_NAME)
        run = runs.submit_benchmark(
            session,
            settings=driver.settings,
            pool=members,
            name="again",
            questions=seeds.questions(6),
            k=2,
            fusion="vote",
            annotation="embedding",
        )
    return run.id


def test_a_run_is_charged_what_the_worker_was_busy_and_its_costs_are_kept(
    driver: Driver, engine: sa.Engine, redis_url: str, tmp_path: Path
) -> None:
    sources = {"ada": "stub:one?load_s=0.3&tokens_per_s=60", "bob": "stub:two?load_s=0.1&tokens_per_s=60"}
    with WorkerProcess(redis_url, tmp_path, "--bulk-sequences", "4") as worker:
        run = submit(driver, sources, 30)
        driver.until(lambda: driver.is_done(run), timeout_s=40)
        driver.until(lambda: driver.scalar("SELECT count(*) FROM model_cost WHERE decode_tps > 0"), timeout_s=15)
        state = worker.state()
        assert state is not None
        loads = [load.seconds for load in worker.loads()] or [0.0]
    with driver.session() as session:
        charged = report.build(session, run)["charges"]
        known = measured_costs.costs(session)
    assert charged["device_s"] == pytest.approx(state.busy_s, abs=0.01)
    assert charged["load_s"] == pytest.approx(sum(loads), abs=0.01)
    for name in ("device_s", "load_s"):
        assert sum(each[name] for each in charged["per_expert"].values()) == pytest.approx(charged[name], abs=0.01)
    one = known[Model(source=sources["ada"]).key]
    assert one.load_s is not None
    assert one.load_s >= 0.3


def test_costs_move_with_what_workers_measure(engine: sa.Engine) -> None:
    def event(seconds: float, **more: Any) -> messages.LoadEvent:
        return messages.LoadEvent(model_key="m", seconds=seconds, memory_bytes=100, **more)

    with database.session(engine) as session:
        for worker in ("w1", "w2"):
            measured_costs.note_load(session, worker, event(10.0))
        measured_costs.note_load(session, "w1", event(20.0))
        measured_costs.note_load(session, "w1", event(1.0, woken=True))
        measured_costs.note_load(session, "w1", event(99.0, error="no"))
        measured_costs.note_load(session, "w1", event(99.0, failed_wake="canary"))
        speed = messages.MeasuredSpeed(model_key="m", prefill_tps=4000.0, decode_tps=200.0, answer_tps=0.0)
        measured_costs.note_speeds(session, "w1", [speed])
        unknown = messages.MeasuredSpeed(model_key="m", prefill_tps=0.0, decode_tps=0.0, answer_tps=0.0)
        measured_costs.note_speeds(session, "w1", [unknown])
        known = measured_costs.costs(session)["m"]
    # Of w1 13.0 after 20.0, of w2 10.0.
    assert known == measured_costs.ModelCost(
        load_s=11.5, wake_s=1.0, memory_bytes=100, prefill_tps=4000.0, decode_tps=200.0
    )
