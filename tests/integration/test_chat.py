"""Chat over HTTP with the official client: real database, broker and worker, stub engines."""

import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import sqlalchemy as sa

from orchestrator.pool import experts
from orchestrator.settings import Settings
from orchestrator.storage import database
from tests import seeds
from tests.driving import Driver
from tests.serving import served
from tests.waiting import until
from tests.worker_process import WorkerProcess
from workers.messages import CANCELLED_KEY

SOURCES = {"ada": "stub:one?good=algebra&p=1&q=0", "bob": "stub:one?good=algebra&p=1&q=0", "cyd": "stub:two?p=0&q=0"}
QUESTION = "About algebra: what is number 7?\nA. one\nB. two\nC. three\nD. four\n[stub:gold=C][stub:skill=algebra]"
USER = [{"role": "user", "content": QUESTION}]


@pytest.fixture
def api(engine: sa.Engine, settings: Settings) -> Iterator[str]:
    with database.session(engine) as session:
        seeds.live_pool(session, SOURCES, good={"ada": ["algebra"], "bob": ["algebra"], "cyd": ["history"]})
        seeds.expert(session, "new", "stub:three", state="profiling")
    with served(settings.model_copy(update={"question_set": seeds.SET_NAME, "queries_in_flight": 2})) as url:
        yield url


@pytest.fixture
def worker(redis_url: str, tmp_path: Path) -> Iterator[WorkerProcess]:
    with WorkerProcess(redis_url, tmp_path / "worker", device="none") as process:
        yield process


@pytest.fixture
def client(api: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{api}/v1", api_key="any", max_retries=0) as client:
        yield client


def _ask(client: openai.OpenAI, messages: Any = USER, *, model: str = "muster", **options: Any) -> Any:
    return client.chat.completions.create(model=model, messages=messages, **options)


def _muster(completion: Any) -> dict[str, Any]:
    found: dict[str, Any] = completion.model_extra["muster"]
    return found


def test_the_pool_and_live_experts_are_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["muster", "ada", "bob", "cyd"]
    assert client.models.retrieve("ada").id == "ada"


def test_a_question_is_answered_by_several_experts(client: openai.OpenAI, worker: WorkerProcess) -> None:
    completion = _ask(client, extra_body={"muster": {"k": 3, "fusion": "vote", "explain": True}})
    muster = _muster(completion)
    assert completion.choices[0].message.content == "The answer is (C)."
    assert completion.choices[0].finish_reason == "stop"
    assert {answer["expert"] for answer in muster["answers"]} == {"ada", "bob", "cyd"}
    assert muster["skills"][0]["skill"] == "algebra"
    assert all(recruit["why"] for recruit in muster["recruits"])
    assert muster["fusion"]["method"] == "vote"
    assert muster["versions"]["experts"] == {"ada": 1, "bob": 1, "cyd": 1}
    assert completion.usage.completion_tokens == sum(answer["tokens"] for answer in muster["answers"])
    assert set(muster["charges"]["per_expert"]) == {"ada", "bob", "cyd"}
    assert muster["charges"]["device_s"] == pytest.approx(sum(answer["device_s"] for answer in muster["answers"]))
    assert muster["charges"]["load_s"] == pytest.approx(sum(answer["load_s"] for answer in muster["answers"]))


def test_a_query_that_names_no_fusion_is_merged_by_the_services_own(
    engine: sa.Engine, settings: Settings, worker: WorkerProcess
) -> None:
    with database.session(engine) as session:
        seeds.live_pool(session, SOURCES, good={})
    own = settings.model_copy(update={"question_set": seeds.SET_NAME, "fusion": "best_single"})
    with served(own) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
        assert _muster(_ask(client))["fusion"]["method"] == "best_single"
        asked_for = _muster(_ask(client, extra_body={"muster": {"fusion": "vote"}}))
        assert asked_for["fusion"]["method"] == "vote"


def test_a_streamed_answer_is_the_same_with_its_stages(client: openai.OpenAI, worker: WorkerProcess) -> None:
    chunks = list(_ask(client, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "The answer is (C)."
    stages = [chunk.model_extra["muster"].get("stage") for chunk in chunks if "muster" in chunk.model_extra]
    assert stages == ["recruited", "answered", "answered", "answered", "fusing", None]
    assert chunks[-1].usage.total_tokens > 0
    assert chunks[-2].choices[0].finish_reason == "stop"


def test_an_expert_asked_by_name_answers_itself(client: openai.OpenAI, worker: WorkerProcess) -> None:
    whole = _ask(client, model="cyd", messages=[{"role": "user", "content": "[stub:say=I am cyd]"}])
    assert whole.choices[0].message.content == "I am cyd"
    assert list(_muster(whole)) == ["charges"]
    streamed = _ask(client, model="cyd", messages=[{"role": "user", "content": "[stub:say=I am cyd]"}], stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == "I am cyd"


def test_route_decides_as_chat_does(client: openai.OpenAI, worker: WorkerProcess, api: str) -> None:
    routed = httpx.post(f"{api}/v1/route", json={"model": "muster", "messages": USER, "muster": {"k": 2}}).json()
    muster = _muster(_ask(client, extra_body={"muster": {"k": 2}}))
    assert routed["recruits"] == muster["recruits"]
    assert routed["skills"] == muster["skills"]
    assert routed["seed"] == muster["seed"]


def test_a_seed_repeats_the_recruits(client: openai.OpenAI, worker: WorkerProcess) -> None:
    def recruits(seed: int) -> list[str]:
        muster = _muster(_ask(client, extra_body={"muster": {"k": 1, "strategy": "random", "seed": seed}}))
        return [recruit["expert"] for recruit in muster["recruits"]]

    assert recruits(1) == recruits(1)
    assert len({tuple(recruits(seed)) for seed in range(8)}) > 1


@pytest.mark.parametrize(
    ("options", "error", "code"),
    [
        ({"model": "nobody"}, openai.NotFoundError, "model_not_found"),
        ({"model": "new"}, openai.ConflictError, "expert_not_live"),
        ({"extra_body": {"muster": {"experts": ["new"]}}}, openai.ConflictError, "expert_not_live"),
        ({"extra_body": {"muster": {"experts": ["nobody"]}}}, openai.NotFoundError, "expert_not_found"),
        ({"extra_body": {"muster": {"k": 4}}}, openai.BadRequestError, "invalid_value"),
        ({"extra_body": {"muster": {"strategy": "luck"}}}, openai.BadRequestError, "invalid_value"),
        ({"extra_body": {"muster": {"kk": 4}}}, openai.BadRequestError, "unknown_parameter"),
        ({"n": 2}, openai.BadRequestError, "unsupported_value"),
        ({"messages": []}, openai.BadRequestError, "invalid_value"),
        (
            {"messages": [{"role": "user", "content": "word " * 20_000}]},
            openai.BadRequestError,
            "context_length_exceeded",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_trouble_has_the_clients_own_error_classes(
    client: openai.OpenAI, options: dict[str, Any], error: type[openai.APIStatusError], code: str, stream: bool
) -> None:
    with pytest.raises(error) as caught:
        _ask(client, stream=stream, **{"model": "muster", "messages": USER, **options})
    assert caught.value.code == code


def test_k_beyond_the_pool_says_how_many_are_live(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="only 3 experts are live") as caught:
        _ask(client, extra_body={"muster": {"k": 4}})
    assert caught.value.param == "muster.k"


@pytest.mark.parametrize("stream", [False, True])
def test_without_a_worker_it_is_a_503_that_says_what_to_do(client: openai.OpenAI, stream: bool) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        _ask(client, stream=stream)
    assert caught.value.status_code == 503
    assert caught.value.response.headers["retry-after"]
    assert "start one" in caught.value.message


def test_an_expert_that_fails_costs_its_answer_only(
    client: openai.OpenAI, worker: WorkerProcess, engine: sa.Engine
) -> None:
    with database.session(engine) as session:
        experts.patch(session, "cyd", {"model": "stub:broken?context=1"})
        row = experts.get(session, "cyd")
        experts.move(row, "live")
    completion = _ask(client, extra_body={"muster": {"k": 3}})
    muster = _muster(completion)
    assert completion.choices[0].message.content == "The answer is (C)."
    (failed,) = [answer for answer in muster["answers"] if answer["error"]]
    assert failed["expert"] == "cyd"
    assert "cyd" in muster["note"]


def test_a_query_that_takes_too_long_is_a_timeout_in_time(client: openai.OpenAI, worker: WorkerProcess) -> None:
    begun = time.monotonic()
    with pytest.raises(openai.InternalServerError) as caught:
        _ask(
            client,
            [{"role": "user", "content": "[stub:wait=30] Why?"}],
            extra_body={"muster": {"budget": {"seconds": 0.5}}},
        )
    assert caught.value.status_code == 504
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_cancels_its_query(
    api: str, worker: WorkerProcess, stream: bool, engine: sa.Engine
) -> None:
    body = {"model": "muster", "messages": [{"role": "user", "content": "[stub:wait=30] Why?"}], "stream": stream}

    def running() -> int:
        state = worker.state()
        return state.online_running if state else -1

    with httpx.Client(base_url=api) as http:
        if stream:
            with http.stream("POST", "/v1/chat/completions", json=body):
                until(lambda: running() == 3)
        else:
            with pytest.raises(httpx.ReadTimeout):
                http.post("/v1/chat/completions", json=body, timeout=1.5)
    until(lambda: worker.redis.scard(CANCELLED_KEY) == 3)
    until(lambda: running() == 0)

    def status() -> object:
        with engine.connect() as connection:
            return connection.execute(sa.text("SELECT status FROM query")).scalar()

    assert until(status) == "cancelled"


def test_one_query_too_many_is_told_to_come_back(client: openai.OpenAI, worker: WorkerProcess, api: str) -> None:
    body = {"model": "muster", "messages": [{"role": "user", "content": "[stub:wait=20] Why?"}], "stream": True}
    url = f"{api}/v1/chat/completions"
    with httpx.stream("POST", url, json=body) as first, httpx.stream("POST", url, json=body) as second:
        assert first.status_code == second.status_code == 200
        with pytest.raises(openai.RateLimitError) as caught:
            _ask(client)
    assert caught.value.response.headers["retry-after"]
    until(lambda: _answers(client))


def _answers(client: openai.OpenAI) -> bool:
    try:
        return bool(_ask(client).choices)
    except openai.RateLimitError:
        return False


def test_a_query_is_kept_and_feedback_finds_it(
    client: openai.OpenAI, worker: WorkerProcess, api: str, engine: sa.Engine
) -> None:
    completion = _ask(client)
    said = httpx.post(f"{api}/v1/feedback", json={"id": completion.id, "correct": True})
    assert said.status_code == 200
    with engine.connect() as connection:
        row = connection.execute(sa.text("SELECT * FROM query")).one()
    assert (row.id, row.status, row.feedback) == (completion.id, "ok", {"correct": True})
    assert [answer["expert"] for answer in row.answers["answers"]]
    assert row.fused["text"] == "The answer is (C)."
    assert httpx.post(f"{api}/v1/feedback", json={"id": "chatcmpl-none", "correct": True}).status_code == 404


def test_the_conversation_reaches_the_experts(client: openai.OpenAI, worker: WorkerProcess) -> None:
    turns = [
        {"role": "user", "content": "[stub:say=remembered]"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Say it again."},
    ]
    assert _ask(client, turns).choices[0].message.content == "remembered"


def test_a_model_that_is_resident_nowhere_is_loaded_for_the_query(
    client: openai.OpenAI, engine: sa.Engine, settings: Settings, redis_url: str, tmp_path: Path
) -> None:
    driver = Driver(engine, settings.model_copy(update={"question_set": seeds.SET_NAME}))
    stop = threading.Event()

    def orchestrate() -> None:
        while not stop.is_set():
            driver.step()

    orchestrator = threading.Thread(target=orchestrate)
    try:
        with WorkerProcess(redis_url, tmp_path / "device", name="device"):
            orchestrator.start()
            completion = _ask(client, extra_body={"muster": {"k": 3, "fusion": "vote"}})
            stop.set()
            orchestrator.join()
    finally:
        stop.set()
        driver.close()
    assert completion.choices[0].message.content == "The answer is (C)."
    assert driver.scalar("SELECT count(*) FROM load") == 2


def test_a_query_whose_worker_dies_before_its_first_word_is_asked_of_another(
    client: openai.OpenAI, worker: WorkerProcess, redis_url: str, tmp_path: Path
) -> None:
    asked = [{"role": "user", "content": "[stub:wait=3][stub:say=still here]"}]
    with ThreadPoolExecutor() as threads:
        answer = threads.submit(_ask, client, asked, model="ada", timeout=40)
        until(lambda: (state := worker.state()) is not None and state.online_running == 1)
        with WorkerProcess(redis_url, tmp_path / "other", name="w2", device="none"):
            worker.terminate(signal.SIGKILL)
            assert answer.result().choices[0].message.content == "still here"
