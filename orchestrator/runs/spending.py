"""What a run cost: calls and tokens per stage, loads, time, tries that failed and workers that were lost."""

from typing import Any

import sqlalchemy as sa
from sqlmodel import Session

from orchestrator.runs.pinned import Pinned
from orchestrator.storage.tables import RunRow

_STAGES = sa.text(
    """
    SELECT stage, count(*) AS calls, count(*) FILTER (WHERE state = 'failed') AS failed,
        coalesce(sum(attempts), 0) AS retried, coalesce(sum(losses), 0) AS lost,
        coalesce(sum((completion->>'prompt_tokens')::bigint), 0) AS prompt_tokens,
        coalesce(sum((completion->>'completion_tokens')::bigint), 0) AS completion_tokens,
        coalesce(sum((completion->>'engine_s')::float), 0) AS engine_s, sum(device_s) AS device_s, sum(load_s) AS load_s
    FROM unit WHERE run_id = :run GROUP BY stage ORDER BY stage
    """
)
_EXPERTS = sa.text(
    """
    SELECT expert, sum(device_s) AS device_s, sum(load_s) AS load_s FROM unit WHERE run_id = :run
    GROUP BY expert ORDER BY expert
    """
)
_LOADS = sa.text(
    """
    SELECT model_key, count(*) FILTER (WHERE error IS NULL) AS loads,
        count(*) FILTER (WHERE error IS NOT NULL) AS failed, coalesce(sum(seconds), 0) AS seconds
    FROM load WHERE run_id = :run GROUP BY model_key ORDER BY model_key
    """
)
_SECONDS = sa.text("SELECT extract(epoch FROM coalesce(ended_at, now()) - created_at)::float FROM run WHERE id = :run")


def of(session: Session, run: RunRow, pinned: Pinned) -> dict[str, Any]:
    """Costs of a run so far, as JSON. Loads that its chunks asked for are its own."""
    stages = {row.stage: _stage(row) for row in session.execute(_STAGES, {"run": run.id})}
    loads = session.execute(_LOADS, {"run": run.id}).all()
    seconds = float(session.execute(_SECONDS, {"run": run.id}).scalar() or 0.0)
    experts = {row.expert: _charge(row) for row in session.execute(_EXPERTS, {"run": run.id})}
    return {
        "seconds": round(seconds, 3),
        "stages": stages,
        "charges": {
            **{name: round(sum(each[name] for each in experts.values()), 3) for name in ("device_s", "load_s")},
            "per_expert": experts,
        },
        "units": {
            name: sum(stage[name] for stage in stages.values()) for name in ("calls", "failed", "retried", "lost")
        },
        "loads": {
            "made": sum(row.loads for row in loads),
            "failed": sum(row.failed for row in loads),
            "planned": pinned.planned_loads,
            "seconds": round(sum(row.seconds for row in loads), 3),
            "per_model": {
                _source(pinned, row.model_key): {"loads": row.loads, "seconds": round(row.seconds, 3)} for row in loads
            },
        },
    }


def _stage(row: Any) -> dict[str, Any]:
    numbers = ("calls", "failed", "retried", "lost", "prompt_tokens", "completion_tokens")
    return {name: int(getattr(row, name)) for name in numbers} | {"engine_s": round(row.engine_s, 3)} | _charge(row)


def _charge(row: Any) -> dict[str, float]:
    """Device and load seconds of units: all tries that were told of, failed ones too."""
    return {"device_s": round(row.device_s, 3), "load_s": round(row.load_s, 3)}


def _source(pinned: Pinned, model_key: str) -> str:
    """How people know a model: where its weights come from; two that differ otherwise keep their keys."""
    sources = {key: str(model["source"]) for key, model in pinned.models.items()}
    source = sources.get(model_key, model_key)
    return source if list(sources.values()).count(source) <= 1 else f"{source} ({model_key})"
