"""Whom to ask: from a query to a recruitment. What `/v1/route` answers, and what chat goes on with."""

import asyncio
import contextlib
import dataclasses
import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import anyio.to_thread
import numpy as np
import sqlalchemy as sa
from sqlmodel import Session

from orchestrator import annotation, recruiting
from orchestrator.answers import meaning
from orchestrator.online import explanation, transport
from orchestrator.online.pricing import QueueFull, Supply, prices
from orchestrator.online.query import EXPERTS_SHARE, Query, QueryRefused, Usage
from orchestrator.online.transport import Transport
from orchestrator.pool import experts, measured_costs
from orchestrator.pool.cache import PoolCache
from orchestrator.pool.pool import Expert, Pool
from orchestrator.pool.question_sets import TextEmbedder
from orchestrator.recruiting.limits import Limits, expected_completions
from orchestrator.recruiting.values import Ask, NoExperts, Recruiter, Recruitment
from orchestrator.settings import Settings
from skills import annotate
from skills.question import Question
from workers.messages import ChatMessage, Completion, Request

CHARS_PER_TOKEN_MAX = 8
"""Running text has 3 to 5 characters a token in every tokenizer in use."""
ANNOTATION_SHARE = 0.4
"""Of the time left, annotation by LLM may take so much; then the embedding has to do."""

_BULK_OUT = sa.text(
    """
    SELECT chunk.worker, count(*) AS units FROM chunk JOIN unit ON unit.chunk_id = chunk.id
    WHERE chunk.state = 'sent' AND unit.state = 'sent' GROUP BY chunk.worker
    """
)


@dataclass(frozen=True, kw_only=True)
class Annotated:
    """The skills a question needs, as named; how, and what it cost."""

    skills: tuple[str, ...] = ()
    method: annotation.Method = "embedding"
    note: str = ""
    usage: Usage = field(default_factory=Usage)
    asked: tuple[tuple[str, Completion], ...] = ()
    """The annotator and what it said, sample by sample."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Who was recruited for a query, and all that it was decided on."""

    pool: Pool
    recruiter: Recruiter
    recruitment: Recruitment
    ask: Ask
    annotated: Annotated
    seed: int
    calls: int
    """Generations that may be spent in all, the aggregator's included."""
    embed: meaning.Embed
    """For comparing free-form answers."""
    annotate_s: float
    recruit_s: float
    limits: Limits | None = None
    """What the query could spend on experts when they were recruited; None: nothing is known of costs."""

    def as_json(self) -> dict[str, Any]:
        """The decision with its reasons, as clients and the database get it."""
        return explanation.decided(
            self.recruitment,
            annotation=self.annotated.method,
            note=self.annotated.note,
            seed=self.seed,
            versions={
                "pool": self.pool.version,
                "question_set": f"{self.pool.question_set}@{self.pool.question_set_version}",
                "experts": {name: expert.version for name, expert in self.pool.experts.items()},
                "profiles": self.pool.profile_versions,
            },
        )


def refuse_too_long(query: Query, candidates: Iterable[Expert]) -> None:
    """Raise `QueryRefused` for a conversation that fits no candidate's context, whatever its tokenizer.

    Only what is sure to be too long: on the border the engine, which can count, decides.
    """
    refuse_too_long_for(query, max((expert.model.context_tokens for expert in candidates), default=0))


def refuse_too_long_for(query: Query, longest: int) -> None:
    """Raise `QueryRefused` for a conversation that fits no context of `longest` tokens, whatever the tokenizer."""
    chars = query.chars
    if chars > longest * CHARS_PER_TOKEN_MAX:
        raise QueryRefused(
            f"the messages have {chars} characters; the longest context here is {longest} tokens",
            param="messages",
            code="context_length_exceeded",
        )


class NobodyLive(NoExperts):
    """No expert is live yet; says what the others are."""

    def __init__(self, states: Counter[str]) -> None:
        others = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        super().__init__(
            f"no expert is live ({others}); GET /v1/experts shows how far they are"
            if others
            else "the pool is empty: add an expert to experts.toml or POST one to /v1/experts"
        )


class Decider:
    """Decides for queries on the pool as it is now."""

    def __init__(
        self,
        *,
        settings: Settings,
        open_session: Callable[[], AbstractContextManager[Session]],
        load_embedder: Callable[[], TextEmbedder],
        transport: Transport,
    ) -> None:
        self._settings = settings
        self._open_session = open_session
        self._load_embedder = load_embedder
        self._transport = transport
        self._pools = PoolCache()

    async def decide(self, query: Query, *, deadline_s: float) -> Decision:
        """Annotate and recruit. `deadline_s`: Unix time.

        Raises `QueryRefused`, `experts.UnknownExpert`, `experts.ExpertNotLive` or `NobodyLive`.
        """
        pool, recruiter = await anyio.to_thread.run_sync(self._prepare, query)
        k, calls = _k_and_calls(query, pool, self._settings.k)
        begun = time.monotonic()
        annotated = await self._annotate(query, pool, deadline_s)
        annotate_s = time.monotonic() - begun
        limits, among, left_out = await self._limits(query, pool, k, calls, deadline_s)
        seed = query.options.seed if query.options.seed is not None else question_seed(query.question)

        def recruit() -> tuple[Ask, Recruitment]:
            ask = annotation.ask(query.question, annotated.skills, self._load_embedder())
            (recruitment,) = recruiter.recruit([ask], k=k, seeds=[seed], experts=among, limits=limits)
            if left_out:
                recruitment = dataclasses.replace(
                    recruitment, note="; ".join(filter(None, (recruitment.note, left_out)))
                )
            if not recruitment.skills:  # a strategy that recruits by other means
                recruitment = dataclasses.replace(recruitment, skills=self._pools.needs(pool).of(ask))
            return ask, recruitment

        begun = time.monotonic()
        ask, recruitment = await anyio.to_thread.run_sync(recruit)
        return Decision(
            pool=pool,
            recruiter=recruiter,
            recruitment=recruitment,
            ask=ask,
            annotated=annotated,
            seed=seed,
            calls=calls,
            embed=self._load_embedder().embed,
            annotate_s=annotate_s,
            recruit_s=time.monotonic() - begun,
            limits=limits,
        )

    async def supply(self) -> Supply | None:
        """The workers and what is known of models; None where the broker is away, which whoever sends will tell."""
        try:
            workers = await self._transport.workers()
            awaited = self._transport.awaited()
        except transport.NoBroker:
            return None

        def look() -> Supply:
            with self._open_session() as session:
                return Supply(
                    workers=workers,
                    measured=measured_costs.costs(session),
                    bulk_out={row.worker: row.units for row in session.execute(_BULK_OUT)},
                    awaited=awaited,
                    waiting_max=self._settings.online_waiting,
                )

        return await anyio.to_thread.run_sync(look)

    async def _limits(
        self, query: Query, pool: Pool, k: int, calls: int, deadline_s: float
    ) -> tuple[Limits | None, Sequence[str] | None, str]:
        """What the query may spend on experts, among whom (those that can be run), and who was left out and why.

        Raises `QueueFull` where nobody else is there.

        Where nobody can be run, nothing is limited: asking them will say why.
        """
        supply = await self.supply()
        if supply is None:
            return None, query.options.experts, ""
        names = query.options.experts or tuple(pool.experts)
        found = prices(
            {name: pool.experts[name] for name in names},
            prompt_chars=query.chars,
            completion_tokens=expected_completions(pool.evidence),
            supply=supply,
        )
        if not found.costs:
            if found.full:
                raise QueueFull(min(found.full.values()))
            return None, query.options.experts, ""
        seconds, may_wait = deadline_s - time.time(), query.may_wait_for_aggregator(recruits=k, calls=calls)
        limits = Limits(
            costs=found.costs,
            tokens=query.tokens_for_experts(recruits=k, calls=calls),
            seconds=max(0.0, seconds * (EXPERTS_SHARE if may_wait else 1.0)),
        )
        return limits, tuple(found.costs), found.left_out(names)

    def _prepare(self, query: Query) -> tuple[Pool, Recruiter]:
        """The pool, checked against what the query asks of it."""
        strategy = query.options.strategy or self._settings.strategy
        if strategy not in recruiting.STRATEGIES:
            known = ", ".join(sorted(recruiting.STRATEGIES))
            raise QueryRefused(f"there is no strategy {strategy!r}; there are {known}", param="muster.strategy")
        with self._open_session() as session:
            pool = self._pools.current(session, question_set=self._settings.question_set)
            for name in (*(query.options.experts or ()), *filter(None, (query.options.aggregator,))):
                if name not in pool.experts:
                    row = experts.get(session, name)
                    raise experts.ExpertNotLive(name, row.state, row.reason)
            if not pool.experts:
                raise NobodyLive(Counter(row.state for row in experts.current(session)))
        refuse_too_long(query, [pool.experts[name] for name in query.options.experts or pool.experts])
        return pool, self._pools.recruiter(pool, strategy)

    async def _annotate(self, query: Query, pool: Pool, deadline_s: float) -> Annotated:
        if annotation.method_for(query.options.strategy, self._settings) == "embedding":
            return Annotated()
        now = time.time()
        until = now + ANNOTATION_SHARE * max(0.0, deadline_s - now)
        annotator = most_competent(pool)
        samples = await asyncio.gather(
            *(self._sample(query, annotator, number, until) for number in range(annotate.SAMPLES))
        )
        completions = [sample for sample in samples if sample is not None]
        named = [annotate.parse(completion.text) for completion in completions if not completion.error]
        usage = Usage.of(*completions)
        asked = tuple((annotator.name, completion) for completion in completions)
        skills = tuple(annotate.vote(named))
        if not skills:
            return Annotated(note=annotation.NONE_SURVIVED, usage=usage, asked=asked)
        return Annotated(skills=skills, method="llm", usage=usage, asked=asked)

    async def _sample(self, query: Query, annotator: Expert, number: int, deadline_s: float) -> Completion | None:
        """One sample of the skills: an error, or None, if it failed or is late. Then the votes of the others count."""
        request = Request(
            id=f"{query.id}.annotate.{number}",
            messages=tuple(ChatMessage(**message) for message in annotate.messages(query.question.text)),
            sampling=annotation.SAMPLING.model_copy(update={"seed": question_seed(query.question) % 2**31 + number}),
        )
        stream = self._transport.stream(request, annotator.model, deadline_s=deadline_s)
        async with contextlib.aclosing(stream) as deltas:
            try:
                return await transport.completed(deltas)
            except (transport.Late, transport.WorkerLost, transport.NoWorker) as trouble:
                return trouble.spent


def most_competent(pool: Pool) -> Expert:
    """The expert that got most of the question set right: who annotates, too."""
    right = [np.nansum(column) / max(1, int(np.sum(~np.isnan(column)))) for column in pool.evidence.correct.T]
    return pool.experts[pool.evidence.experts[int(np.argmax(right))]]


def _k_and_calls(query: Query, pool: Pool, default_k: int) -> tuple[int, int]:
    """How many to recruit at first, and generations to spend in all. Raises `QueryRefused`."""
    options = query.options
    available = len(options.experts or pool.experts)
    if options.k is not None and options.k > available:
        which = "are named in muster.experts" if options.experts else "are live"
        raise QueryRefused(f"k is {options.k}, but only {available} experts {which}", param="muster.k")
    wanted = options.k if options.k is not None else min(default_k, available)
    calls = options.budget.calls if options.budget.calls is not None else (options.k or available) + 1
    return min(wanted, calls), calls


def question_seed(question: Question) -> int:
    """The same question recruits the same experts, in `/v1/route` as in chat."""
    return int.from_bytes(hashlib.sha256(question.rendered().encode()).digest()[:7], "big")
