"""`POST /v1/chat/completions`: the pool, or one expert, in OpenAI's shape."""

import contextlib
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import anyio
from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from api.chat_response import Chunks
from api.errors import ApiError
from api.state import GatewayDep
from orchestrator.online.chat_completion import completion
from orchestrator.online.chat_request import POOL, ChatRequest
from orchestrator.online.gateway import Gateway
from orchestrator.online.query import Answer, Event, Query
from orchestrator.pool import experts

router = APIRouter(tags=["chat"])

DISCONNECT_STATUS = 499
"""Nobody reads it: the client hung up (nginx's number for that)."""


@router.post("/v1/chat/completions", response_model=None)
async def create(body: ChatRequest, request: Request, gateway: GatewayDep) -> Response:
    """Ask the pool (`model: "muster"`) or one expert by its name; whole or streamed.

    The answer's `muster` object tells the skills the question needs, who was recruited and why, what each of them
    answered, how that was merged, and what every stage took in seconds and tokens.
    """
    query = body.query(f"chatcmpl-{secrets.token_hex(12)}")
    events = await _events(body, query, gateway)
    created = int(time.time())
    if not body.stream:
        answer = await _whole(events, request)
        if answer is None:
            return Response(status_code=DISCONNECT_STATUS)
        return JSONResponse(completion(answer, query_id=query.id, model=body.model, created=created))
    first = await _first(events)
    include_usage = body.stream_options is not None and body.stream_options.include_usage
    chunks = Chunks(query_id=query.id, model=body.model, created=created, include_usage=include_usage)
    headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
    stream = _closing(events, chunks.of(_again(first, events)))
    return StreamingResponse(stream, media_type="text/event-stream", headers=headers)


async def _events(body: ChatRequest, query: Query, gateway: Gateway) -> AsyncGenerator[Event, None]:
    sent = body.model_dump(mode="json", exclude_unset=True)
    if body.model == POOL:
        return gateway.answer(query, sent)
    try:
        expert = await run_in_threadpool(gateway.live_expert, body.model)
    except experts.UnknownExpert:
        raise ApiError(
            404,
            f"the model {body.model!r} does not exist; GET /v1/models lists those that do",
            param="model",
            code="model_not_found",
        ) from None
    except experts.ExpertNotLive as error:
        raise ApiError(409, str(error), param="model", code="expert_not_live") from None
    return gateway.answer_from(query, expert, sent)


async def _first(events: AsyncGenerator[Event, None]) -> Event:
    """The first event: until it is there, an error can still have its own status."""
    try:
        return await anext(events)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await events.aclose()
        raise


async def _again(first: Event, rest: AsyncIterator[Event]) -> AsyncIterator[Event]:
    yield first
    async for event in rest:
        yield event


async def _closing(events: AsyncGenerator[Event, None], chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The chunks; however the stream ends, by a client that hung up even, what runs for it is called off."""
    try:
        async for chunk in chunks:
            yield chunk
    finally:
        with anyio.CancelScope(shield=True):
            await events.aclose()


async def _whole(events: AsyncGenerator[Event, None], request: Request) -> Answer | None:
    """The answer at the end; None if the client hung up before, which calls off what runs for it."""
    answer: Answer | None = None

    async def collect() -> None:
        nonlocal answer
        async with contextlib.aclosing(events):
            async for event in events:
                answer = event if isinstance(event, Answer) else answer
        group.cancel_scope.cancel()

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        group.cancel_scope.cancel()

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(collect)
            group.start_soon(watch)
    except BaseExceptionGroup as errors:
        raise _only(errors) from None
    return answer


def _only(errors: BaseExceptionGroup[Any]) -> BaseException:
    """The one error in a group: there is one task that can fail."""
    first: BaseException = errors.exceptions[0]
    return _only(first) if isinstance(first, BaseExceptionGroup) else first
