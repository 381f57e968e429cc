"""A profile run's stages: one expert answers every labelled question; its answers are graded, nothing is fused."""

from collections import Counter
from collections.abc import Sequence

import sqlalchemy as sa
import structlog
from sqlmodel import Session, col, select

from orchestrator.pool import experts
from orchestrator.runs import asking
from orchestrator.runs.pinned import seed_for
from orchestrator.runs.staging.benchmark import answer_json
from orchestrator.runs.staging.context import Context
from orchestrator.runs.staging.work import Batch, Instance, units_of
from orchestrator.storage.tables import ExpertRow, InstanceRow, ProfileRow

READABLE_MIN = 0.05
"""An expert whose answers can hardly ever be read is of no use to a vote, nor to a profile."""

log = structlog.get_logger()


def ask(session: Session, context: Context, instances: Sequence[Instance]) -> Batch:
    """Have the expert answer each question."""
    batch = Batch()
    (expert,) = context.experts.values()
    for instance in instances:
        seed = seed_for(context.pinned.seed, instance.custom_id, "profile", expert.name)
        asked = asking.expert(expert, instance.question, seed=seed, expected=context.completion_tokens[expert.name])
        batch.ask(instance, expert, asked, stage="generate")
        batch.move(instance, "generate")
    return batch


def grade(session: Session, context: Context, instances: Sequence[Instance]) -> Batch:
    """Judge each answer."""
    batch = Batch()
    units = units_of(session, instances)
    for instance in instances:
        (unit,) = units[instance.id]
        judged = answer_json(unit, instance)
        failed = judged["finish_reason"] in ("error", "late")
        batch.move(
            instance,
            "done",
            answers={unit.expert: judged},
            answer=judged["answer"],
            correct=judged["correct"],
            error=str(judged.get("error", "it failed")) if failed else None,
        )
    return batch


def finish(session: Session, context: Context) -> None:
    """Write the profile and take the expert into the pool; or set it aside, with the reason."""
    (expert,) = context.experts.values()
    question_set_id = context.pinned.question_set_id
    assert question_set_id is not None
    row = session.get_one(ExpertRow, expert.id)
    lines = session.exec(select(InstanceRow).where(InstanceRow.run_id == context.run_id)).all()
    trouble = _trouble(lines)
    if trouble is None:
        session.add(
            ProfileRow(
                expert_id=expert.id,
                question_set_id=question_set_id,
                version=_next_version(session, expert.id, question_set_id),
                run_id=context.run_id,
                outcomes={line.custom_id: _outcome(line) for line in lines if line.error is None},
            )
        )
    if row.state in ("registered", "testing", "profiling"):
        experts.move(row, "quarantined" if trouble else "live", trouble or "")
        session.add(row)
    log.info("profiled", expert=expert.name, version=expert.version, state=row.state, reason=row.reason)


def _outcome(line: InstanceRow) -> dict[str, object]:
    (judged,) = (line.answers or {}).values()
    return {
        "answer": judged["answer"],
        "correct": judged["correct"],
        "finish_reason": judged["finish_reason"],
        "tokens": judged["completion_tokens"],
    }


def _trouble(lines: Sequence[InstanceRow]) -> str | None:
    """Why nothing can be learnt from these answers; None if something can."""
    failed = Counter(line.error for line in lines if line.error is not None)
    if failed.total() > len(lines) / 2:
        reason, count = failed.most_common(1)[0]
        return f"{failed.total()} of {len(lines)} questions failed when it was profiled ({count} times: {reason})"
    readable = sum(bool(line.answer) for line in lines)
    if readable < READABLE_MIN * len(lines):
        return (
            f"an answer could be read in only {readable} of {len(lines)} completions when it was profiled: "
            "check its chat template, system prompt and max_tokens"
        )
    return None


def _next_version(session: Session, expert_id: int, question_set_id: int) -> int:
    last = session.exec(
        select(sa.func.max(col(ProfileRow.version))).where(
            ProfileRow.expert_id == expert_id, ProfileRow.question_set_id == question_set_id
        )
    ).one()
    return (last or 0) + 1
