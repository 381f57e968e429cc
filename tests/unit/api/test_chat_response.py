"""Chunks of a streamed answer, as OpenAI's clients read them."""

import json
from collections.abc import AsyncIterator
from typing import Any

from api.chat_response import DONE, Chunks
from orchestrator.online.query import Answer, Event, Piece, QueryFailed, Stage, Usage

ANSWER = Answer(
    text="Hi.", finish_reason="stop", usage=Usage(prompt_tokens=2, completion_tokens=1), explanation={"skills": []}
)


async def _chunks(*events: Event, include_usage: bool = False, error: Exception | None = None) -> list[dict[str, Any]]:
    async def running() -> AsyncIterator[Event]:
        for event in events:
            yield event
        if error:
            raise error

    chunks = Chunks(query_id="q", model="muster", created=1, include_usage=include_usage)
    sent = [chunk async for chunk in chunks.of(running())]
    assert sent[-1] == DONE
    return [json.loads(chunk.removeprefix(b"data: ")) for chunk in sent[:-1]]


async def test_stage_events_ride_on_chunks_with_an_empty_delta() -> None:
    stage, piece, end = await _chunks(Stage(stage="recruited", detail={"k": 1}), Piece(text="Hi."), ANSWER)
    assert stage["choices"][0]["delta"] == {}
    assert stage["muster"] == {"stage": "recruited", "k": 1}
    assert piece["choices"][0]["delta"] == {"role": "assistant", "content": "Hi."}
    assert end["choices"][0]["finish_reason"] == "stop"
    assert end["muster"] == {"skills": [], "charges": {}}


async def test_the_role_is_said_once() -> None:
    first, second, end = await _chunks(Piece(text="H"), Piece(text="i."), ANSWER)
    assert first["choices"][0]["delta"]["role"] == "assistant"
    assert second["choices"][0]["delta"] == {"content": "i."}
    assert end["choices"][0]["delta"] == {}


async def test_usage_comes_last_where_it_is_asked_for() -> None:
    *others, last = await _chunks(Piece(text="Hi."), ANSWER, include_usage=True)
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3}
    assert all(chunk["usage"] is None for chunk in others)


async def test_trouble_in_mid_stream_is_an_error_event() -> None:
    _, error = await _chunks(Piece(text="H"), error=QueryFailed("nobody", late=True))
    assert error["error"]["code"] == "timeout"


async def test_what_nobody_foresaw_tells_nothing_of_our_insides() -> None:
    (error,) = await _chunks(error=RuntimeError("secret"))
    assert error["error"]["type"] == "server_error"
    assert "secret" not in json.dumps(error)
