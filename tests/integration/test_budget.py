"""What a query may cost, on real processes: real database, broker and workers, stub engines."""

import contextlib
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from orchestrator.pool import measured_costs
from orchestrator.pool.definition import Definition
from orchestrator.settings import Settings
from orchestrator.storage import database
from tests import seeds
from tests.driving import Driver
from tests.serving import served
from tests.waiting import until
from tests.worker_process import WorkerProcess
from workers.messages import Load, LoadEvent, Model

QUICK, SLOW = "stub:quick?p=1&q=1", "stub:slow?p=1&q=1&load_s=60"
BROKEN = "stub:broken?fail_load=the weights are of another kind"
QUESTION = "About algebra: what is number 7?\nA. one\nB. two\nC. three\nD. four\n[stub:gold=C][stub:skill=algebra]"


def body(text: str = QUESTION, *, model: str = "muster", **options: Any) -> dict[str, Any]:
    asked: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": text}]}
    return asked | ({"muster": options} if options else {})


@contextlib.contextmanager
def api(engine: sa.Engine, settings: Settings, sources: dict[str, str], **changed: Any) -> Iterator[httpx.Client]:
    """A pool of these experts, all equally good at everything, over HTTP."""
    with database.session(engine) as session:
        seeds.live_pool(session, sources, good=dict.fromkeys(sources, seeds.SKILLS))
    wanted = settings.model_copy(update={"question_set": seeds.SET_NAME, **changed})
    with served(wanted) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


@contextlib.contextmanager
def orchestrated(engine: sa.Engine, settings: Settings, tmp_path: Path) -> Iterator[None]:
    """A stager and a dispatcher that step in a thread."""
    quiet = settings.model_copy(update={"question_set": seeds.SET_NAME, "experts_file": tmp_path / "none.toml"})
    with contextlib.closing(Driver(engine, quiet)) as driver, driver.stepping():
        yield


def test_a_query_does_not_wait_for_a_load_it_cannot_afford(
    engine: sa.Engine, settings: Settings, redis_url: str, tmp_path: Path
) -> None:
    with (
        api(engine, settings, {"here": QUICK, "away": SLOW}) as client,
        WorkerProcess(redis_url, tmp_path / "w") as worker,
    ):
        with database.session(engine) as session:
            measured_costs.note_load(session, "w", LoadEvent(model_key=Model(source=SLOW).key, seconds=60.0))
        worker.send(Load(model=_model(QUICK)))
        until(lambda: (state := worker.state()) is not None and state.resident)
        asked = body(k=2, fusion="vote", budget={"seconds": 5})
        routed = client.post("/v1/route", json=asked).raise_for_status().json()
        answer = client.post("/v1/chat/completions", json=asked).raise_for_status().json()
    muster = answer["muster"]
    assert [each["expert"] for each in muster["recruits"]] == ["here"]
    assert "without away (not loaded: 6" in muster["note"]
    assert answer["choices"][0]["message"]["content"] == "The answer is (C)."
    assert [each["expert"] for each in routed["recruits"]] == ["here"]
    assert "without away (not loaded: 6" in routed["note"]
    assert routed["recruits"][0]["seconds"] is not None


def test_a_budget_of_tokens_reaches_the_recruiter(
    engine: sa.Engine, settings: Settings, redis_url: str, tmp_path: Path
) -> None:
    sources = {name: f"stub:{name}?p=1&q=1" for name in ("ada", "bob", "cyd")}
    asked: dict[str, Any] = {"k": 3, "fusion": "vote", "strategy": "random"}
    with api(engine, settings, sources) as client, WorkerProcess(redis_url, tmp_path / "w", device="none"):
        whole = client.post("/v1/route", json=body(**asked)).json()["recruits"]
        tokens = sum(each["tokens"] for each in whole)
        two = body(**asked, budget={"tokens": round(tokens * 0.8)})
        one = body(**asked, budget={"tokens": 1})
        assert len(client.post("/v1/chat/completions", json=two).json()["muster"]["recruits"]) == 2
        least = client.post("/v1/chat/completions", json=one).json()["muster"]
    assert len(whole) == 3
    assert len(least["recruits"]) == 1
    assert "no expert is within" in least["note"]


def test_speeds_are_kept_in_the_database(engine: sa.Engine, settings: Settings, redis_url: str, tmp_path: Path) -> None:
    source = "stub:steady?p=1&q=1&tokens_per_s=50"
    with (
        api(engine, settings, {"ada": source}) as client,
        WorkerProcess(redis_url, tmp_path / "w", device="none"),
        orchestrated(engine, settings, tmp_path),
    ):

        def known() -> Any:
            client.post("/v1/chat/completions", json=body()).raise_for_status()
            with database.session(engine) as session:
                cost = measured_costs.costs(session).get(_model(source).key)
            return None if cost is None else cost.query_tps

        assert until(known) == pytest.approx(50, rel=0.5)


def test_late_experts_and_samples_of_an_annotator_are_charged(
    engine: sa.Engine, settings: Settings, redis_url: str, tmp_path: Path
) -> None:
    """Two experts on one worker; the first, which annotates, is too slow for anything."""
    sources = {"ada": "stub:slow?latency_s=100", "bob": QUICK}
    asked = body(k=2, fusion="vote", budget={"seconds": 3})
    with (
        api(engine, settings, sources, annotation="llm") as client,
        WorkerProcess(redis_url, tmp_path / "w", "--residents", "2") as worker,
    ):
        for source in sources.values():
            worker.send(Load(model=_model(source)))
        until(lambda: (state := worker.state()) is not None and len(state.resident) == 2)
        muster = client.post("/v1/chat/completions", json=asked).raise_for_status().json()["muster"]
    late = next(each for each in muster["answers"] if each["expert"] == "ada")
    assert late["finish_reason"] == "late"
    assert late["device_s"] > 0.5  # alone in the engine for the rest of the query
    assert "own embedding" in muster["note"]
    # Five samples share the 1.2 s of the annotation.
    assert muster["charges"]["per_expert"]["ada"]["device_s"] - late["device_s"] > 0.5


def test_a_demanded_load_that_fails_quarantines_the_model_and_the_query_goes_on(
    engine: sa.Engine, settings: Settings, redis_url: str, tmp_path: Path
) -> None:
    with (
        api(engine, settings, {"fine": QUICK, "broken": BROKEN}) as client,
        WorkerProcess(redis_url, tmp_path / "w"),
        orchestrated(engine, settings, tmp_path),
    ):
        answer = client.post("/v1/chat/completions", json=body(k=2, fusion="vote")).raise_for_status().json()
        errors = {each["expert"]: each["error"] for each in answer["muster"]["answers"]}
        expert = client.get("/v1/experts/broken").json()
    assert answer["choices"][0]["message"]["content"] == "The answer is (C)."
    assert errors["fine"] is None
    assert "the weights are of another kind" in errors["broken"]
    assert (expert["state"], expert["reason"]) == ("quarantined", "the weights are of another kind")


def test_where_nobody_else_is_there_the_failed_load_is_the_error(
    engine: sa.Engine, settings: Settings, redis_url: str, tmp_path: Path
) -> None:
    with (
        api(engine, settings, {"broken": BROKEN}) as client,
        WorkerProcess(redis_url, tmp_path / "w"),
        orchestrated(engine, settings, tmp_path),
    ):
        begun = time.monotonic()
        pool = client.post("/v1/chat/completions", json=body(budget={"seconds": 50}))
        assert time.monotonic() - begun < 30
    assert pool.status_code == 502
    assert "the weights are of another kind" in pool.json()["error"]["message"]


def test_when_too_many_wait_the_next_is_told_when_to_come_back(
    engine: sa.Engine, settings: Settings, redis_url: str, tmp_path: Path
) -> None:
    sources = {"ada": QUICK, "bob": QUICK}
    waiting = body("[stub:wait=30] Why?") | {"stream": True}
    with (
        api(engine, settings, sources, online_waiting=2) as client,
        WorkerProcess(redis_url, tmp_path / "w", "--online-slots", "2", device="none") as worker,
    ):
        with ExitStack() as streams:
            for _ in range(2):  # of two experts each: two run, two wait
                streams.enter_context(client.stream("POST", "/v1/chat/completions", json=waiting))
            until(lambda: (state := worker.state()) is not None and state.online_running == 4)
            refused = [client.post("/v1/chat/completions", json=each) for each in (body(), body(model="ada"))]
            refused.append(client.post("/v1/route", json=body()))
        until(lambda: client.post("/v1/chat/completions", json=body()).is_success)
    for response in refused:
        assert response.status_code == 429
        assert int(response.headers["retry-after"]) >= 1
        error = response.json()["error"]
        assert (error["type"], error["code"]) == ("rate_limit_error", "too_many_queries")


def _model(source: str) -> Model:
    """As the pool has it."""
    return Definition.model_validate({"name": "x", "model": source}).model_value()
