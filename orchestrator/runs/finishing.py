"""The end of a run: what its kind leaves behind, its report, its totals, its status. One transaction."""

import sqlalchemy as sa
from sqlmodel import Session

from orchestrator.pool import experts
from orchestrator.runs import report, runs, totals
from orchestrator.runs.staging import aggregator, profile
from orchestrator.runs.staging.context import Context
from orchestrator.settings import Settings
from orchestrator.storage import database

# The smallest stage, and not EXISTS: that is answered from the index of open lines alone, never by reading the table.
_OPEN = sa.text("SELECT min(stage) FROM instance WHERE run_id = :run AND stage <> 'done'")
_END = sa.text(
    """
    UPDATE run SET status = 'completed', totals = CAST(:totals AS jsonb), report = CAST(:report AS jsonb),
        ended_at = now()
    WHERE id = :run AND status = 'in_progress'
    """
)


def is_open(session: Session, run_id: str) -> bool:
    """Whether some line of the run has not ended."""
    return session.execute(_OPEN, {"run": run_id}).scalar() is not None


def finish(session: Session, context: Context, settings: Settings) -> None:
    """Complete a run whose lines have all ended. A run that was cancelled meanwhile stays so."""
    if runs.get(session, context.run_id).status != "in_progress":
        return
    if context.kind == "profile":
        profile.finish(session, context)
    elif context.kind == "aggregator":
        aggregator.finish(session, context)
    built = report.build(session, context.run_id)
    session.execute(
        _END,
        {
            "run": context.run_id,
            "totals": database.dump_json(totals.of(session, context.run_id)),
            "report": database.dump_json(built),
        },
    )
    session.expire_all()
    if context.kind == "profile" and context.pinned.question_set_id is not None and not _profiling(session):
        aggregator.submit_if_due(session, settings, context.pinned.question_set_id)


def _profiling(session: Session) -> bool:
    """Whether another profile is still to come: aggregators are tested once the whole pool is there."""
    coming = experts.current(session, states=("registered", "testing", "profiling"))
    return bool(coming or runs.open_of_kind(session, "profile"))
