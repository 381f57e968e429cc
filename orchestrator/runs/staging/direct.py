"""A batch's lines that name an expert: passed on to it as they are, and nothing is recruited, fused or graded."""

from collections.abc import Sequence

from sqlmodel import Session

from orchestrator.runs import asking
from orchestrator.runs.pinned import seed_for
from orchestrator.runs.staging.context import Context
from orchestrator.runs.staging.work import Batch, Instance, Unit


def is_direct(instance: Instance) -> bool:
    """Whether the line names an expert."""
    return instance.query is not None and instance.query.expert is not None


def ask(session: Session, context: Context, instances: Sequence[Instance], batch: Batch) -> None:
    """Have the named expert answer each line that names one; the others are left alone."""
    wanted = [instance for instance in instances if is_direct(instance)]
    quarantined = context.quarantined(session) if wanted else set()
    for instance in wanted:
        assert instance.query is not None
        name = instance.query.expert or ""
        if name in quarantined:
            batch.move(instance, "done", error=f"the expert {name!r} was set aside; GET /v1/experts/{name} says why")
            continue
        expert = context.experts[name]
        seed = seed_for(context.pinned.seed, instance.custom_id, "generate", name)
        asked = asking.expert(
            expert,
            instance.query.conversation,
            seed=seed,
            expected=context.completion_tokens[name],
            sampling=instance.query.sampling(expert.sampling),
        )
        batch.ask(instance, expert, asked, stage="generate")
        batch.move(instance, "generate", decision={"expert": name})


def end(instance: Instance, units: Sequence[Unit], batch: Batch) -> None:
    """It has answered, or failed."""
    (unit,) = units
    error = None if unit.state == "done" else str(unit.completion.get("error") or "it was stopped before it answered")
    batch.move(
        instance, "done", fused={"method": "direct", "expert": unit.expert}, error=error and f"{unit.expert}: {error}"
    )
