"""The generate stage of a query: k experts at once, and more where the recruiter wants to hear more."""

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
import anyio.to_thread

from orchestrator import prompts
from orchestrator.answers import grading
from orchestrator.fusion import fusion
from orchestrator.online.deciding import Decision
from orchestrator.online.query import EXPERTS_SHARE, Event, Piece, Query, QueryFailed, QueryRefused, Stage, Usage
from orchestrator.online.transport import Late, LoadFailed, NoBroker, NoWorker, Transport, Trouble, WorkerLost
from orchestrator.online.visible_stream import VisibleStream
from orchestrator.pool.pool import Expert
from orchestrator.recruiting.limits import Limits
from orchestrator.recruiting.stand_ins import stand_ins
from orchestrator.recruiting.values import Answered, Recruit, Recruitment
from workers.messages import Completion, Delta, Request, Sampling


@dataclass(frozen=True, kw_only=True)
class Asking:
    """A query on its way: what was decided, and until when somebody waits."""

    query: Query
    decision: Decision
    transport: Transport
    deadline_s: float
    """Unix time."""
    begun_s: float = field(default_factory=time.time)

    def expert(self, name: str) -> Expert:
        return self.decision.pool.experts[name]

    def asked(self, expert: Expert) -> prompts.Asked:
        """The question or the conversation, as `Query.asked` has it."""
        return self.query.asked(max_tokens=expert.sampling.max_tokens)

    def limited(self, sampling: Sampling) -> Sampling:
        """A sampling within the query's budget of tokens."""
        return self.query.limited(
            sampling, generations=min(self.decision.calls, len(self.decision.recruitment.recruits) + 1)
        )

    @property
    def is_single(self) -> bool:
        """One recruit and nothing to merge: its tokens are the answer's, and need not wait."""
        return self.query.is_single(recruits=len(self.decision.recruitment.recruits), calls=self.decision.calls)

    @property
    def experts_deadline_s(self) -> float:
        """Earlier than the query's own where an aggregator may have to write after the experts."""
        recruits = len(self.decision.recruitment.recruits)
        if not self.query.may_wait_for_aggregator(recruits=recruits, calls=self.decision.calls):
            return self.deadline_s
        return self.begun_s + EXPERTS_SHARE * max(0.0, self.deadline_s - self.begun_s)


@dataclass(frozen=True, kw_only=True)
class Generated:
    """What became of one recruit. A completion that is none has `error` set."""

    recruit: Recruit
    completion: Completion
    answered: Answered
    """As fusion sees it."""
    seconds: float
    trouble: Exception | None = None
    """What the transport met with, if it did."""

    @property
    def is_unloadable(self) -> bool:
        """Its model could not be loaded: nothing was generated."""
        return self.completion.fault == "model" or isinstance(self.trouble, LoadFailed)

    def as_json(self, *, with_text: bool) -> dict[str, Any]:
        found: dict[str, Any] = {
            "expert": self.recruit.expert,
            "answer": self.answered.answer,
            "finish_reason": self.answered.finish_reason,
            "error": self.completion.error,
            "seconds": round(self.seconds, 3),
            "tokens": self.completion.completion_tokens,
            "device_s": self.completion.device_s,
            "load_s": self.completion.load_s,
        }
        return {**found, "text": self.completion.text} if with_text else found


class Generation:
    """Runs the stage; `generated` fills as experts answer, in the order of recruiting once it is over."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking
        self._generated: dict[str, Generated] = {}
        self._gone: set[str] = set()
        """Recruits whose models cannot be loaded, and in whose places others were asked."""
        self.seconds = 0.0

    @property
    def recruitment(self) -> Recruitment:
        """The decision, with whoever was recruited after the first answers, and without those they stand in for."""
        first = self._asking.decision.recruitment
        known = {recruit.expert for recruit in first.recruits} | self._gone
        later = tuple(each.recruit for each in self._generated.values() if each.recruit.expert not in known)
        if not later:
            return first
        return self._asking.decision.recruiter.joined(first, later, without=self._gone)

    @property
    def generated(self) -> list[Generated]:
        order = {recruit.expert: place for place, recruit in enumerate(self._asking.decision.recruitment.recruits)}
        return sorted(self._generated.values(), key=lambda each: order.get(each.recruit.expert, len(order)))

    async def answered(self) -> list[Answered]:
        """As fusion sees them: free-form answers that mean the same say the same."""
        own = [each.answered for each in self.generated if each.recruit.expert not in self._gone]
        decision = self._asking.decision
        return await anyio.to_thread.run_sync(fusion.agreed, own, self._asking.query.question, decision.embed)

    async def events(self) -> AsyncGenerator[Event, None]:
        """A stage event as each expert answers; pieces, too, if it is the only one. Raises if nobody does."""
        begun = time.monotonic()
        running = self._single() if self._asking.is_single else self._rounds()
        async with contextlib.aclosing(running) as events:
            async for event in events:
                yield event
        self.seconds = time.monotonic() - begun
        self._refuse_if_nobody_answered()

    async def _single(self) -> AsyncGenerator[Event, None]:
        """The one recruit, streamed as it comes, sampled as the client wished; else one that stands in for it."""
        recruits: Sequence[Recruit] = self._asking.decision.recruitment.recruits
        while recruits:
            (recruit,) = recruits
            async with contextlib.aclosing(self._streamed(recruit)) as events:
                async for event in events:
                    yield event
            recruits = await self._instead()

    async def _streamed(self, recruit: Recruit) -> AsyncGenerator[Event, None]:
        expert, visible = self._asking.expert(recruit.expert), VisibleStream()
        sampling = self._asking.query.sampling(self._asking.limited(expert.sampling))
        async with contextlib.aclosing(self._deltas(recruit, sampling)) as deltas:
            async for delta in deltas:
                if shown := visible.feed(delta.text):
                    yield Piece(text=shown)
        if not self._generated[recruit.expert].completion.error and (rest := visible.end()):
            yield Piece(text=rest)

    async def _rounds(self) -> AsyncGenerator[Event, None]:
        recruits: Sequence[Recruit] = self._asking.decision.recruitment.recruits
        while recruits:
            async with contextlib.aclosing(self._round(recruits)) as events:
                async for event in events:
                    yield event
            recruits = await self._instead() or await self._more()

    async def _round(self, recruits: Sequence[Recruit]) -> AsyncGenerator[Event, None]:
        """Ask all at once; an event as each one answers."""
        tasks = [asyncio.create_task(self._one(recruit)) for recruit in recruits]
        try:
            for ended in asyncio.as_completed(tasks):
                generated = await ended
                detail = generated.as_json(with_text=self._asking.query.options.explain)
                yield Stage(stage="answered", detail=detail)
        finally:
            for task in tasks:
                task.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(self, recruit: Recruit) -> Generated:
        sampling = self._asking.limited(self._asking.expert(recruit.expert).sampling)
        async with contextlib.aclosing(self._deltas(recruit, sampling)) as deltas:
            async for _ in deltas:
                pass
        return self._generated[recruit.expert]

    async def _deltas(self, recruit: Recruit, sampling: Sampling) -> AsyncGenerator[Delta, None]:
        """One recruit's deltas. Trouble ends them early and is kept, like the completion, in `generated`."""
        asking, expert = self._asking, self._asking.expert(recruit.expert)
        request = Request(
            id=f"{asking.query.id}.{recruit.expert}",
            messages=prompts.expert_messages(
                expert.system_prompt, asking.asked(expert), max_tokens=expert.sampling.max_tokens
            ),
            sampling=sampling,
            adapter=expert.adapter,
        )
        begun, trouble = time.monotonic(), None
        completion = failed(request.id, WorkerLost("the answer broke off"))
        stream = asking.transport.stream(request, expert.model, deadline_s=asking.experts_deadline_s)
        try:
            async with contextlib.aclosing(stream) as deltas:
                async for delta in deltas:
                    completion = ended(delta.completion) if delta.completion is not None else completion
                    yield delta
        except Trouble as error:
            completion, trouble = failed(request.id, error), error
        seconds = time.monotonic() - begun
        answered = await anyio.to_thread.run_sync(
            _read, recruit.expert, completion, asking.query, isinstance(trouble, Late)
        )
        self._generated[recruit.expert] = Generated(
            recruit=recruit, completion=completion, answered=answered, seconds=seconds, trouble=trouble
        )

    async def _instead(self) -> Sequence[Recruit]:
        """Others for recruits whose models cannot be loaded, each replaced once, while somebody still waits."""
        asking, decision = self._asking, self._asking.decision
        missing = [name for name, each in self._generated.items() if each.is_unloadable and name not in self._gone]
        if not missing or time.time() >= asking.experts_deadline_s:
            return ()
        broken = {asking.expert(name).model.key for name in missing}
        among = decision.limits.costs if decision.limits else asking.query.options.experts or decision.pool.experts
        more = await anyio.to_thread.run_sync(
            functools.partial(
                stand_ins,
                decision.recruiter,
                decision.ask,
                replace(self.recruitment, left=self._left()),
                missing=missing,
                asked=self._generated,
                experts=[name for name in among if asking.expert(name).model.key not in broken],
                seed=decision.seed,
            )
        )
        self._gone |= {*missing} if more else set()
        return more

    async def _more(self) -> Sequence[Recruit]:
        """Whom to ask next. A `k` that was asked for is kept to; else the calls are the bound, less an aggregator's.

        To an adaptive recruitment `k` is a mean: only a budget of calls binds it.
        """
        asking, decision = self._asking, self._asking.decision
        options, is_adaptive = asking.query.options, decision.recruitment.mean_calls is not None
        calls = len(decision.pool.experts) + 1 if is_adaptive and options.budget.calls is None else decision.calls
        left = calls - (len(self._generated) - len(self._gone)) - 1
        if (options.k is not None and not is_adaptive) or left <= 0 or time.time() >= asking.experts_deadline_s:
            return ()
        answered = await self.answered()
        recruitment = replace(self.recruitment, left=self._left())
        more = await anyio.to_thread.run_sync(decision.recruiter.more, decision.ask, recruitment, answered)
        return [recruit for recruit in more if recruit.expert not in self._generated][:left]

    def _left(self) -> Limits | None:
        """What may still be spent, by what the first answers really took."""
        asking, limits = self._asking, self._asking.decision.limits
        if limits is None:
            return None
        usage = Usage.of(*(each.completion for each in self._generated.values()))
        taken = usage.prompt_tokens + usage.completion_tokens
        return replace(
            limits,
            tokens=None if limits.tokens is None else limits.tokens - taken,
            seconds=asking.experts_deadline_s - time.time(),
        )

    def _refuse_if_nobody_answered(self) -> None:
        """Having nothing to say is no answer either, unless it is a call of the client's tools."""
        everybody = self.generated
        if any(fusion.is_usable(each.answered) or each.completion.choices for each in everybody):
            return
        errors = {each.recruit.expert: each.completion.error or fusion.trouble(each.answered) for each in everybody}
        if everybody and all(each.completion.fault == "request" for each in everybody):
            raise refused(next(iter(errors.values())))
        troubles = [each.trouble for each in everybody if isinstance(each.trouble, NoWorker | NoBroker)]
        if troubles and len(troubles) == len(everybody):
            raise troubles[0]
        reasons = "; ".join(f"{name}: {error}" for name, error in errors.items())
        is_late = all(each.answered.finish_reason == "late" for each in everybody)
        raise QueryFailed(f"no expert answered ({reasons})", errors, late=is_late)


def _read(expert: str, completion: Completion, query: Query, late: bool) -> Answered:
    """A completion as fusion sees it."""
    if completion.error:
        return Answered(expert=expert, text="", answer="", finish_reason="late" if late else "error")
    return Answered(
        expert=expert,
        text=completion.text,
        answer=grading.extract(completion.text, query.question),
        finish_reason=completion.finish_reason,
    )


def failed(request_id: str, error: Trouble) -> Completion:
    """The completion of a generation that met with trouble, charged what it took all the same."""
    device_s, load_s = (0.0, 0.0) if error.spent is None else (error.spent.device_s, error.spent.load_s)
    return Completion(
        id=request_id, finish_reason="error", error=str(error), fault="engine", device_s=device_s, load_s=load_s
    )


def ended(completion: Completion) -> Completion:
    """The same, with an error to tell if it ended otherwise than by itself or its length."""
    if completion.error is None and completion.finish_reason in ("abort", "error"):
        return completion.model_copy(update={"error": "it was stopped before it had answered"})
    return completion


def refused(error: str) -> QueryRefused:
    """A request that the engine will not take: nearly always one that does not fit the model's context."""
    too_long = any(word in error.lower() for word in ("context", "too long", "max_model_len", "maximum model length"))
    return QueryRefused(error, param="messages", code="context_length_exceeded" if too_long else None)
