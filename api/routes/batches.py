"""`/v1/batches`: OpenAI's, every line routed and fused."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query
from pydantic import BaseModel, ConfigDict, Field

from api.state import GatewayDep, SettingsDep
from orchestrator.pool import pool
from orchestrator.runs.batches import batches
from orchestrator.runs.batches.batches import BatchState
from orchestrator.storage import files

router = APIRouter(prefix="/v1/batches", tags=["batches"])
Json = dict[str, Any]
UNTOLD = ("validating", "in_progress", "finalizing", "cancelling")
"""Statuses in which the files are not there yet."""


class ExpiresAfter(BaseModel):
    model_config = ConfigDict(extra="forbid")

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=files.EXPIRES_MIN_S, le=files.EXPIRES_MAX_S)]


class BatchRequest(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "input_file_id": "file-0123456789abcdef01234567",
                    "endpoint": "/v1/chat/completions",
                    "completion_window": "24h",
                }
            ]
        },
    )

    input_file_id: Annotated[str, Field(max_length=100)]
    """An uploaded file of requests, with purpose `batch`."""
    endpoint: Annotated[str, Field(max_length=200)]
    """`/v1/chat/completions`."""
    completion_window: Annotated[str, Field(max_length=20)]
    """`24h` as OpenAI has it, or another whole number of s, m, h or d."""
    metadata: dict[str, str] | None = None
    output_expires_after: ExpiresAfter | None = None
    """How long its output and error file stay, from when they are there; without it, until they are deleted."""


@router.post("")
def create(
    body: BatchRequest,
    gateway: GatewayDep,
    settings: SettingsDep,
    idempotency_key: Annotated[str | None, Header(max_length=200)] = None,
) -> Json:
    """Start a batch. Its lines are checked next: it is `validating`, then `in_progress`, or `failed` with `errors`.

    With an `Idempotency-Key` header, sending it twice starts it once.
    """
    labels = None if body.metadata is None else {_plain(key): _plain(text) for key, text in body.metadata.items()}
    with gateway.session() as session:
        made = batches.submit(
            session,
            settings=settings,
            pool=pool.load(session, question_set=settings.question_set),
            input_file_id=body.input_file_id,
            endpoint=body.endpoint,
            completion_window=body.completion_window,
            metadata=labels,
            output_expires_after_s=body.output_expires_after.seconds if body.output_expires_after else None,
            idempotency_key=idempotency_key,
        )
        return _shown(made)


@router.get("")
def list_batches(
    gateway: GatewayDep,
    after: Annotated[str | None, Query(max_length=100)] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Json:
    """Batches, newest first; `after`: those behind this one."""
    with gateway.session() as session:
        page = batches.listed(session, after=None if after is None else _plain(after), limit=limit)
        data = [_shown(state) for state in page.states]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": page.has_more,
    }


@router.get("/{batch_id}")
def retrieve(batch_id: str, gateway: GatewayDep) -> Json:
    """How far it is, and the ids of its files once they are there."""
    with gateway.session() as session:
        return _shown(batches.state(session, _plain(batch_id)))


@router.post("/{batch_id}/cancel")
def cancel(batch_id: str, gateway: GatewayDep) -> Json:
    """Call it off. What is done is kept: it is in the output file, and the rest in the error file."""
    with gateway.session() as session:
        return _shown(batches.cancel(session, _plain(batch_id)))


def _shown(state: BatchState) -> Json:
    run, batch, counts = state.run, state.batch, state.counts
    has_files = run.status not in UNTOLD
    return {
        "id": run.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": batch.model or None,
        "errors": {"object": "list", "data": run.errors} if run.errors and run.status == "failed" else None,
        "input_file_id": batch.input_file_id,
        "completion_window": batch.completion_window,
        "status": run.status,
        "output_file_id": batch.output_file_id if has_files else None,
        "error_file_id": batch.error_file_id if has_files else None,
        **batches.timestamps(state),
        "request_counts": {
            "total": counts.total,
            "completed": counts.done - counts.failed,
            "failed": counts.failed,
        },
        "usage": batches.usage(state),
        "metadata": batch.labels,
    }


def _plain(text: str) -> str:
    """PostgreSQL takes no NUL in a text."""
    return text.replace("\0", "")
