"""`/v1/runs`: any run's progress, as it goes on."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Header
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from api.state import GatewayDep, WatchingDep
from api.watching import Watching
from orchestrator.online.gateway import Gateway
from orchestrator.runs import events, runs

router = APIRouter(prefix="/v1/runs", tags=["benchmarks"])
POLL_S = 0.5
SILENCE_S = 10.0
"""Longest time without a byte: proxies close connections that they take for dead."""
Json = dict[str, Any]


@router.get("/{run_id}")
def get_run(run_id: str, gateway: GatewayDep) -> Json:
    """How far a run of any kind is."""
    with gateway.session() as session:
        return {"object": "run", **events.snapshot(session, run_id.replace("\0", ""))}


@router.post("/{run_id}/cancel")
def cancel(run_id: str, gateway: GatewayDep) -> Json:
    """Call a run off; what is done is kept."""
    with gateway.session() as session:
        run = runs.cancel(session, run_id.replace("\0", ""))
        return {"id": run.id, "object": "run", "kind": run.kind, "status": run.status}


@router.get("/{run_id}/events", response_class=StreamingResponse)
async def watch(
    run_id: str,
    gateway: GatewayDep,
    watching: WatchingDep,
    last_event_id: Annotated[str | None, Header(max_length=200)] = None,
) -> StreamingResponse:
    """Progress as server-sent events (`event: progress`), each the whole state, until the run has ended.

    With `Last-Event-ID`, a state that was seen already is not sent again.
    """
    await run_in_threadpool(_find, gateway, run_id)  # as who asks; what watchers share is read as the operator
    first = await watching.read(run_id)
    headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
    return StreamingResponse(
        _events(watching, run_id, first, last_event_id), media_type="text/event-stream", headers=headers
    )


def _find(gateway: Gateway, run_id: str) -> None:
    with gateway.session() as session:
        runs.get(session, run_id.replace("\0", ""))


async def _events(watching: Watching, run_id: str, snapshot: Json, seen: str | None) -> AsyncIterator[bytes]:
    silent_s = 0.0
    while True:
        event_id = _event_id(snapshot)
        has_ended = snapshot["status"] not in runs.OPEN_STATUSES
        if event_id != seen:
            yield f"event: progress\nid: {event_id}\ndata: {json.dumps(snapshot)}\n\n".encode()
            seen, silent_s = event_id, 0.0
        elif silent_s >= SILENCE_S:
            yield b": still here\n\n"
            silent_s = 0.0
        if has_ended:
            return
        await asyncio.sleep(POLL_S)
        silent_s += POLL_S
        snapshot = await watching.read(run_id)


def _event_id(snapshot: Json) -> str:
    """Names a state of the run: it changes when a line, a unit, a load or the status does."""
    changing = [snapshot[name] for name in ("status", "lines", "stages", "experts", "loads")]
    return hashlib.sha256(json.dumps(changing, sort_keys=True).encode()).hexdigest()[:16]
