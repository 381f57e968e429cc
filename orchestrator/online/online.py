"""The online driver: from a decision to an answer, every generation awaited, the answer streamed.

annotate and recruit are `deciding`'s; here generate and fuse follow. A late or failed expert costs its own answer
and nothing else.
"""

import contextlib
import dataclasses
from collections.abc import AsyncGenerator
from typing import Any

from orchestrator import prompts
from orchestrator.online import explanation
from orchestrator.online.charges import charges
from orchestrator.online.deciding import Decision
from orchestrator.online.fusing import Fusing
from orchestrator.online.generating import Asking, Generation, ended, refused
from orchestrator.online.query import Answer, Event, Piece, Query, QueryFailed, Stage, Usage
from orchestrator.online.transport import NoWorker, Transport
from orchestrator.pool.pool import Expert
from workers.messages import Completion, Request


async def answer(
    query: Query, decision: Decision, transport: Transport, *, deadline_s: float
) -> AsyncGenerator[Event, None]:
    """Stage events, then pieces of the answer, then the `Answer`. `deadline_s`: Unix time.

    Closing the generator cancels what is under way. Raises `QueryFailed` if nobody answered, `QueryRefused` if
    every expert refused the query itself, `NoWorker` (before the first event) if nothing could run any of them.
    """
    asking = Asking(query=query, decision=decision, transport=transport, deadline_s=deadline_s)
    generation = Generation(asking)
    fusing = Fusing(asking, generation)
    await _refuse_without_workers(asking)
    yield Stage(stage="recruited", detail=decision.as_json())
    for stage in (generation.events(), fusing.events()):
        async with contextlib.aclosing(stage) as events:
            async for event in events:
                yield event
    yield _end(asking, generation, fusing)


async def answer_from(
    query: Query, expert: Expert, transport: Transport, *, deadline_s: float
) -> AsyncGenerator[Event, None]:
    """One expert's own answer, streamed as it comes. Raises `QueryFailed`, `QueryRefused` or `transport.Trouble`."""
    request = Request(
        id=query.id,
        messages=prompts.expert_messages(expert.system_prompt, query.conversation),
        sampling=query.sampling(expert.sampling),
        adapter=expert.adapter,
    )
    shown = ""
    async with contextlib.aclosing(transport.stream(request, expert.model, deadline_s=deadline_s)) as deltas:
        async for delta in deltas:
            if delta.text:
                shown += delta.text
                yield Piece(text=delta.text)
            if delta.completion is not None:
                yield _own_answer(expert.name, ended(delta.completion))


async def _refuse_without_workers(asking: Asking) -> None:
    models = [asking.expert(recruit.expert).model for recruit in asking.decision.recruitment.recruits]
    workers = await asking.transport.workers()
    if not any(worker.can_run(model) for worker in workers for model in models):
        raise NoWorker(models[0])


def _own_answer(expert: str, completion: Completion) -> Answer:
    if completion.error is not None and completion.fault == "request":
        raise refused(completion.error)
    if completion.error is not None:
        raise QueryFailed(f"expert {expert!r} failed: {completion.error}", {expert: completion.error})
    return Answer(
        text=completion.text,
        finish_reason=completion.finish_reason,
        usage=Usage.of(completion),
        charges=charges([(expert, completion)]),
        choices=completion.choices,
    )


def _end(asking: Asking, generation: Generation, fusing: Fusing) -> Answer:
    assert fusing.fused is not None
    generate_usage = Usage.of(*(each.completion for each in generation.generated))
    usage = asking.decision.annotated.usage + generate_usage + fusing.usage
    return Answer(
        text=fusing.fused.text,
        finish_reason="length" if fusing.finish_reason == "length" else "stop",
        usage=usage,
        charges=charges(
            (
                *asking.decision.annotated.asked,
                *((each.recruit.expert, each.completion) for each in generation.generated),
                *fusing.asked,
            )
        ),
        explanation=_explanation(asking, generation, fusing, generate_usage),
    )


def _explanation(asking: Asking, generation: Generation, fusing: Fusing, generate_usage: Usage) -> dict[str, Any]:
    """The answer's `muster` object: who was asked and why, what each said, how it was merged, and what it cost."""
    assert fusing.fused is not None
    return explanation.explained(
        dataclasses.replace(asking.decision, recruitment=generation.recruitment).as_json(),
        answers=[each.as_json(with_text=asking.query.options.explain) for each in generation.generated],
        fused=fusing.fused,
        notes=fusing.notes,
        seconds={
            "annotate": asking.decision.annotate_s,
            "recruit": asking.decision.recruit_s,
            "generate": generation.seconds,
            "fuse": fusing.seconds,
        },
        tokens={"annotate": asking.decision.annotated.usage, "generate": generate_usage, "fuse": fusing.usage},
    )
