"""An answer in OpenAI's shape as the chunks of a stream."""

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import structlog

from api.errors import told
from orchestrator.online import chat_completion
from orchestrator.online.query import Answer, Event, Piece, Stage

DONE = b"data: [DONE]\n\n"

log = structlog.get_logger("api")


class Chunks:
    """The chunks of one streamed answer, as server-sent events."""

    def __init__(self, *, query_id: str, model: str, created: int, include_usage: bool) -> None:
        self._head = {"id": query_id, "object": "chat.completion.chunk", "created": created, "model": model}
        self._include_usage = include_usage
        self._has_begun = False

    async def of(self, events: AsyncIterator[Event]) -> AsyncIterator[bytes]:
        """Every event as a chunk. Trouble in mid-stream is told as an error event, as OpenAI's clients expect."""
        try:
            async for event in events:
                for chunk in self._chunks(event):
                    yield _event(chunk)
        except Exception as error:
            shown = told(error)
            if shown.status_code == 500:
                log.exception("stream failed", query=self._head["id"])
            yield _event(shown.body())
        yield DONE

    def _chunks(self, event: Event) -> list[dict[str, Any]]:
        match event:
            case Stage():
                return [self._chunk({}, muster={"stage": event.stage, **event.detail})]
            case Piece():
                return [self._chunk(self._delta(event.text))]
            case Answer():
                return self._end(event)

    def _end(self, answer: Answer) -> list[dict[str, Any]]:
        delta = {} if self._has_begun else self._delta("")
        if answer.choices and (calls := answer.choices[0].get("message", {}).get("tool_calls")):
            delta = {**delta, "tool_calls": [{"index": n, **call} for n, call in enumerate(calls)]}
        chunks = [self._chunk(delta, finish_reason=answer.finish_reason, muster=chat_completion.muster(answer))]
        if self._include_usage:
            chunks.append({**self._head, "choices": [], "usage": answer.usage.as_json()})
        return chunks

    def _delta(self, text: str) -> dict[str, Any]:
        role = {} if self._has_begun else {"role": "assistant"}
        self._has_begun = True
        return {**role, "content": text}

    def _chunk(self, delta: Mapping[str, Any], *, finish_reason: str | None = None, **more: Any) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        nothing_yet = {"usage": None} if self._include_usage else {}
        return {**self._head, "choices": [choice], **nothing_yet, **more}


def _event(content: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
