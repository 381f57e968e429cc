"""Setting aside a model that cannot be loaded, and with it the experts that need it and the units that wait for it."""

import sqlalchemy as sa
import structlog
from sqlmodel import Session

from orchestrator.pool import experts
from orchestrator.runs import instances
from orchestrator.storage import database

log = structlog.get_logger()

_WAITING = sa.text(
    """
    SELECT DISTINCT instance_id FROM unit
    WHERE model_key = :model_key AND (state = 'pending' OR state = 'sent' AND chunk_id = ANY(ARRAY(
        SELECT id FROM chunk WHERE state = 'sent' AND model_key = :model_key AND worker = :worker)))
    """
)
_FAIL = sa.text(
    """
    UPDATE unit SET state = 'failed', completion = CAST(:completion AS jsonb), ended_at = now()
    WHERE model_key = :model_key AND (state = 'pending' OR state = 'sent' AND chunk_id = ANY(ARRAY(
        SELECT id FROM chunk WHERE state = 'sent' AND model_key = :model_key AND worker = :worker)))
    """
)


def model(session: Session, model_key: str, reason: str, *, worker: str | None = None) -> None:
    """Quarantine every current expert on this model and fail what waits for it: runs go on without it.

    `worker`: who could not load it. What it was sent waits for nothing else; who runs the model elsewhere goes on.
    Experts that were removed or replaced stay as they are, but for a mark: runs may have pinned them.
    """
    current = {row.id for row in experts.current(session)}
    names = []
    for row in experts.on_model(session, model_key):
        if row.id not in current:
            row.set_aside = True
        elif row.state != "quarantined":
            experts.move(row, "quarantined", reason)
            names.append(row.name)
    waits = {"model_key": model_key, "worker": worker}
    owners = sorted(session.scalars(_WAITING, params=waits).all())
    instances.lock(session, owners)
    completion = {"finish_reason": "error", "fault": "model", "error": reason}
    session.execute(_FAIL, {**waits, "completion": database.dump_json(completion)})
    instances.wake(session, owners)
    log.error("model set aside", model=model_key, experts=names, reason=reason)
