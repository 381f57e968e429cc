"""A whole answer in OpenAI's shape, for chat and for a batch's lines."""

from collections.abc import Mapping
from typing import Any

from orchestrator.online.query import Answer


def completion(answer: Answer, *, query_id: str, model: str, created: int) -> dict[str, Any]:
    """The whole answer."""
    return {
        "id": query_id,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": _choices(answer),
        "usage": answer.usage.as_json(),
        "muster": muster(answer),
    }


def muster(answer: Answer) -> Mapping[str, Any]:
    """The `muster` object: how the answer came about and what it was charged; of one expert's own, the charges."""
    return {**(answer.explanation or {}), "charges": answer.charges}


def _choices(answer: Answer) -> list[Mapping[str, Any]]:
    if answer.choices:
        return list(answer.choices)
    message = {"role": "assistant", "content": answer.text, "refusal": None}
    return [{"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish_reason}]
