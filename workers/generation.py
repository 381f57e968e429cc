"""Runs one request through an engine and turns whatever happens into a completion."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

from workers.engines.engine import Engine, EngineError, GenerationError, ModelError
from workers.messages import Completion, Request
from workers.meter import Share

log = logging.getLogger(__name__)
T = TypeVar("T")


async def generate(
    engine: Engine,
    request: Request,
    *,
    engine_id: str,
    share: Share,
    on_text: Callable[[str], None] | None = None,
) -> Completion:
    """The completion of `request`; failures come back as its `error` and `fault`, never as exceptions.

    `engine_id` names the request inside the engine: a unit that was sent twice may run there twice. `share` is its
    charge, begun by the caller; it ends with the request, whatever becomes of it.
    Text is handed to `on_text` as it comes. Cancelling the calling task aborts the request in the engine.
    """
    began = time.monotonic()
    completion: Completion | None = None
    deltas = engine.generate(request.model_copy(update={"id": engine_id}), stream=on_text is not None)
    try:
        async for delta in deltas:
            if delta.text and on_text is not None:
                on_text(clean(delta.text))
            completion = delta.completion or completion
        if completion is None:
            raise EngineError("the engine ended the request without a completion")
    except GenerationError as error:
        died = isinstance(error, EngineError) and engine.died is not None
        return _charged(failed(request.id, error), share, began).model_copy(update={"engine_died": died})
    except asyncio.CancelledError:
        raise
    except Exception as error:  # a fault in an engine's code costs this request, never the worker
        log.exception("request %s", request.id)
        return _charged(failed(request.id, EngineError(f"{type(error).__name__}: {error}")), share, began)
    finally:
        share.end()
        await deltas.aclose()
    cleaned = {"id": request.id, "text": clean(completion.text), "choices": clean(completion.choices)}
    return _charged(completion.model_copy(update=cleaned), share, began)


def _charged(completion: Completion, share: Share, began: float) -> Completion:
    share.end()
    return completion.model_copy(update={"engine_s": time.monotonic() - began, **share.as_fields()})


def clean(value: T) -> T:
    """A JSON value whose strings every store can hold: no lone surrogates (no UTF-8 has them), no NUL (PostgreSQL)."""
    cleaned: Any = value
    if isinstance(value, str):
        cleaned = value.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
    elif isinstance(value, dict):
        cleaned = {clean(key): clean(each) for key, each in value.items()}
    elif isinstance(value, list | tuple):
        cleaned = type(value)(clean(each) for each in value)
    return cast(T, cleaned)


def failed(request_id: str, error: GenerationError) -> Completion:
    """The completion of a request that came to nothing."""
    return Completion(id=request_id, finish_reason="error", error=clean(str(error)), fault=error.fault)


def unloaded(request_id: str, error: GenerationError) -> Completion:
    """The completion of a request whose model was not loaded, for `error`.

    It fails with a model that is itself at fault. What befell an engine says nothing of the request: it waits again,
    until the model is loaded or, after too many failed loads, set aside.
    """
    if isinstance(error, ModelError):
        return failed(request_id, error)
    return Completion(id=request_id, finish_reason="abort")


def aborted(request_id: str, why: str, share: Share | None = None, *, load_s: float = 0.0) -> Completion:
    """The completion of a request that nobody wants any more; `share`: what it is charged, if it was in the engine.

    `load_s`: its part of a load, if it was not.
    """
    charge = {"load_s": round(load_s, 6)} if share is None else share.as_fields()
    return Completion(id=request_id, finish_reason="abort", error=why).model_copy(update=charge)
