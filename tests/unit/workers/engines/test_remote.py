"""A remote server as an engine, over httpx's own stand-in for the network."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from workers.engines import remote
from workers.engines.engine import EngineError, ModelError, RequestError
from workers.engines.remote import RemoteEngine
from workers.messages import ChatMessage, Completion, Delta, Model, Request, Sampling

MODEL = Model(source="https://models.example/v1/", remote_name="big")
ANSWER = {
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 2},
}


def asked(**sampling: Any) -> Request:
    return Request(id="r", messages=(ChatMessage(role="user", content="Hi"),), sampling=Sampling(**sampling))


async def deltas(
    answer: Callable[[httpx.Request], httpx.Response], *, stream: bool = False, model: Model = MODEL, **sampling: Any
) -> list[Delta]:
    engine = RemoteEngine(model, httpx.MockTransport(answer))
    await engine.load()
    try:
        return [delta async for delta in engine.generate(asked(**sampling), stream=stream)]
    finally:
        await engine.close()


def last(found: list[Delta]) -> Completion:
    assert found[-1].completion is not None
    return found[-1].completion


def events(*data: object) -> httpx.Response:
    lines = [f"data: {each if isinstance(each, str) else json.dumps(each)}\n\n" for each in data]
    return httpx.Response(200, text="".join(lines), headers={"content-type": "text/event-stream"})


def piece(text: str | None, finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]}


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries come at once."""
    monkeypatch.setattr(remote, "BACK_OFF_S", 0.0)


async def test_a_completion_with_its_counts_comes_back() -> None:
    completion = last(await deltas(lambda _: httpx.Response(200, json=ANSWER)))
    assert (completion.text, completion.prompt_tokens, completion.completion_tokens) == ("Hello.", 5, 2)


async def test_the_request_is_openais_with_extra_parameters_passed_on() -> None:
    seen: list[Any] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append((str(request.url), json.loads(request.content)))
        return httpx.Response(200, json=ANSWER)

    await deltas(answer, temperature=0.5, max_tokens=9, stop=("\n",), seed=3, extra={"top_k": 4})
    url, body = seen[0]
    assert url == "https://models.example/v1/chat/completions"
    assert body == {
        "model": "big",
        "messages": [{"role": "user", "content": "Hi"}],
        "temperature": 0.5,
        "top_p": 1.0,
        "max_tokens": 9,
        "stop": ["\n"],
        "seed": 3,
        "top_k": 4,
    }


async def test_a_streamed_answer_comes_piece_by_piece() -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}
    found = await deltas(
        lambda _: events(piece("Hel"), piece("lo."), piece(None, "length"), usage, "[DONE]"), stream=True
    )
    assert [delta.text for delta in found] == ["Hel", "lo.", ""]
    completion = last(found)
    assert (completion.text, completion.finish_reason, completion.completion_tokens) == ("Hello.", "length", 2)


async def test_a_stream_that_breaks_off_is_an_engine_error() -> None:
    with pytest.raises(EngineError, match="broke off"):
        await deltas(lambda _: events(piece("Hel")), stream=True)


async def test_several_choices_are_kept() -> None:
    two = {**ANSWER, "choices": ANSWER["choices"] * 2}  # type: ignore[operator]  # a list
    completion = last(await deltas(lambda _: httpx.Response(200, json=two), stream=True, extra={"n": 2}))
    assert len(completion.choices) == 2


@pytest.mark.usefixtures("no_waiting")
async def test_what_is_refused_for_now_is_tried_again() -> None:
    answers = [
        httpx.Response(429, headers={"retry-after": "0"}),
        httpx.Response(503),
        httpx.Response(200, json=ANSWER),
    ]
    assert last(await deltas(lambda _: answers.pop(0))).text == "Hello."


@pytest.mark.usefixtures("no_waiting")
async def test_a_server_that_stays_away_is_an_engine_error() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("nobody there", request=request)

    with pytest.raises(EngineError, match="nobody there"):
        await deltas(answer)


@pytest.mark.parametrize(
    ("status", "error"), [(400, RequestError), (422, RequestError), (401, ModelError), (404, ModelError)]
)
async def test_a_refusal_is_told_with_the_servers_words(status: int, error: type[Exception]) -> None:
    said = {"error": {"message": "no such luck"}}
    with pytest.raises(error, match="no such luck"):
        await deltas(lambda _: httpx.Response(status, json=said))


async def test_an_answer_that_is_no_completion_is_an_engine_error() -> None:
    with pytest.raises(EngineError, match="not JSON"):
        await deltas(lambda _: httpx.Response(200, text="<html>"))
    with pytest.raises(EngineError, match="choices"):
        await deltas(lambda _: httpx.Response(200, json={}))


async def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    model = MODEL.model_copy(update={"api_key_env": "TEST_MODEL_KEY"})
    monkeypatch.delenv("TEST_MODEL_KEY", raising=False)
    with pytest.raises(ModelError, match="TEST_MODEL_KEY"):
        await deltas(lambda _: httpx.Response(200, json=ANSWER), model=model)
    monkeypatch.setenv("TEST_MODEL_KEY", "secret")
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["authorization"])
        return httpx.Response(200, json=ANSWER)

    await deltas(answer, model=model)
    assert seen == ["Bearer secret"]
