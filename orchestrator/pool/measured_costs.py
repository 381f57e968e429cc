"""What models cost to load and to run, as workers measured it: moving figures, kept in the database."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session

from workers.messages import LoadEvent, MeasuredSpeed

NEWEST = 0.3
"""Weight of the newest load in the moving mean; a speed is a moving figure already when a worker tells it."""

_LOADED = sa.text(
    """
    INSERT INTO model_cost AS old (worker, model_key, load_s, wake_s, memory_bytes)
    VALUES (:worker, :model_key, :load_s, :wake_s, :memory_bytes)
    ON CONFLICT (model_key, worker) DO UPDATE SET
        load_s = coalesce(old.load_s + :newest * (excluded.load_s - old.load_s), excluded.load_s, old.load_s),
        wake_s = coalesce(old.wake_s + :newest * (excluded.wake_s - old.wake_s), excluded.wake_s, old.wake_s),
        memory_bytes = coalesce(excluded.memory_bytes, old.memory_bytes),
        updated_at = now()
    """
)
_MEASURED = sa.text(
    """
    INSERT INTO model_cost AS old (worker, model_key, prefill_tps, decode_tps, answer_tps, query_tps)
    VALUES (:worker, :model_key, :prefill_tps, :decode_tps, :answer_tps, :query_tps)
    ON CONFLICT (model_key, worker) DO UPDATE SET
        prefill_tps = coalesce(excluded.prefill_tps, old.prefill_tps),
        decode_tps = coalesce(excluded.decode_tps, old.decode_tps),
        answer_tps = coalesce(excluded.answer_tps, old.answer_tps),
        query_tps = coalesce(excluded.query_tps, old.query_tps), updated_at = now()
    """
)
_MEANS = sa.text(
    """
    SELECT model_key, avg(load_s) AS load_s, avg(wake_s) AS wake_s, avg(memory_bytes)::bigint AS memory_bytes,
        avg(prefill_tps) AS prefill_tps, avg(decode_tps) AS decode_tps, avg(answer_tps) AS answer_tps,
        avg(query_tps) AS query_tps
    FROM model_cost GROUP BY model_key
    """
)


@dataclass(frozen=True, kw_only=True)
class ModelCost:
    """What one model costs. None: not measured yet."""

    load_s: float | None = None
    """Seconds of a load from the disk, or its cache."""
    wake_s: float | None = None
    """Seconds until an engine that slept in host memory is back."""
    memory_bytes: int | None = None
    """On the device; on a CPU, of the engine's processes."""
    prefill_tps: float | None = None
    """Prompt tokens per second of device time, in a full batch."""
    decode_tps: float | None = None
    """Completion tokens per second of device time, of all requests of a full batch together."""
    answer_tps: float | None = None
    """Completion tokens per second of one answer, beside the others that were in the engine."""
    query_tps: float | None = None
    """The same, of answers to queries."""


def costs(session: Session) -> Mapping[str, ModelCost]:
    """Model key -> its cost, the mean over the workers that ran it."""
    return {row.model_key: _cost(row) for row in session.execute(_MEANS)}


def note_load(session: Session, worker: str, load: LoadEvent) -> None:
    """Take a load into the figures; one that failed, or came after a waking that failed, says nothing."""
    if load.error is not None or load.failed_wake is not None:
        return
    session.execute(
        _LOADED,
        {
            "worker": worker,
            "model_key": load.model_key,
            "load_s": None if load.woken else load.seconds,
            "wake_s": load.seconds if load.woken else None,
            "memory_bytes": load.memory_bytes or None,
            "newest": NEWEST,
        },
    )


def note_speeds(session: Session, worker: str, speeds: Sequence[MeasuredSpeed]) -> None:
    """Take a worker's speeds as it tells them; one that it does not know yet changes nothing."""
    for speed in speeds:
        values = {name: value or None for name, value in speed.model_dump().items()}
        session.execute(_MEASURED, {"worker": worker, **values})


def _cost(row: Any) -> ModelCost:
    return ModelCost(**{figure.name: row._mapping[figure.name] for figure in dataclasses.fields(ModelCost)})
