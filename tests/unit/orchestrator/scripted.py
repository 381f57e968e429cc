"""A pool, a recruiter and a transport without any process: what the online driver is tried on."""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from orchestrator.online import free_text
from orchestrator.online.deciding import Annotated, Decision
from orchestrator.online.query import Options, Query
from orchestrator.online.transport import Late
from orchestrator.pool.pool import Expert, Pool
from orchestrator.recruiting.limits import Limits
from orchestrator.recruiting.values import Answered, Ask, Recruit, Recruiter, Recruitment
from skills.evidence import Evidence
from workers.messages import ChatMessage, Completion, Delta, Model, Request, Sampling, WorkerState

EVIDENCE = Evidence(
    experts=(), questions=(), embeddings=np.zeros((0, 2), np.float32), correct=np.zeros((0, 0), np.float32)
)


@dataclass(frozen=True, kw_only=True)
class AskMore(Recruiter):
    """Wants to hear these experts besides, one at a time. Recruits by name."""

    more_of: tuple[str, ...] = ()

    def recruit(
        self,
        asks: Sequence[Ask],
        *,
        k: int,
        seeds: Sequence[int],
        experts: Sequence[str] | None = None,
        limits: Limits | None = None,
    ) -> list[Recruitment]:
        recruits = tuple(recruit(name) for name in sorted(experts or ())[:k])
        return [Recruitment(strategy="scripted", recruits=recruits) for _ in asks]

    def more(self, ask: Ask, recruitment: Recruitment, answered: Sequence[Answered]) -> tuple[Recruit, ...]:
        heard = {item.expert for item in answered}
        return tuple(recruit(name) for name in self.more_of if name not in heard)[:1]


@dataclass
class ScriptedTransport:
    """Answers each expert's request (by the end of its id) with a text, an exception, or after a while."""

    script: Mapping[str, str | Exception | float | Completion]
    """Expert, or "fuse" -> its text; what it raises; the seconds it takes; or its whole completion."""
    can_run: frozenset[str] = frozenset({"stub"})
    requests: list[Request] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)

    async def stream(self, request: Request, model: Model, *, deadline_s: float) -> AsyncGenerator[Delta, None]:
        self.requests.append(request)
        act = self.script[request.id.rpartition(".")[2]]
        is_done = False
        try:
            if isinstance(act, Exception):
                raise act
            if isinstance(act, float):
                await asyncio.sleep(min(act, max(0.0, deadline_s - time.time())))
                if time.time() >= deadline_s:
                    raise Late("it did not answer in time")
                act = "The answer is (B)."
            if isinstance(act, str):
                for word in act.split(" ")[:-1]:
                    yield Delta(text=word + " ")
                yield Delta(text=act.split(" ")[-1])
                act = Completion(id=request.id, text=act, prompt_tokens=10, completion_tokens=len(act.split()))
            is_done = True
            yield Delta(completion=act)
        finally:
            if not is_done:
                self.cancelled.append(request.id)

    async def workers(self) -> list[WorkerState]:
        return [WorkerState(worker="w", at=0.0, device="none", engines=tuple(self.can_run))]

    async def resident(self) -> frozenset[str]:
        return frozenset()

    def awaited(self) -> Mapping[str, int]:
        return {}

    def request_of(self, name: str) -> Request:
        return next(request for request in self.requests if request.id.endswith(f".{name}"))


def recruit(name: str, weight: float = 1.0) -> Recruit:
    return Recruit(expert=name, suitability=weight, weight=weight, why="scripted")


def expert(name: str, number: int = 1) -> Expert:
    model = Model(source=f"stub:{name}", context_tokens=1000)
    return Expert(id=number, name=name, version=1, model=model, system_prompt=f"You are {name}.", sampling=Sampling())


def query(text: str, *, options: Options | None = None, **overrides: object) -> Query:
    return Query(
        id="q",
        question=free_text.read(text),
        conversation=(ChatMessage(role="user", content=text),),
        options=options or Options(),
        overrides=overrides,
    )


def decision(*recruits: Recruit, calls: int = 10, others: tuple[str, ...] = (), k_all: Sequence[str] = ()) -> Decision:
    names = [*(each.expert for each in recruits), *others, *k_all]
    pool = Pool(
        version="v",
        experts={name: expert(name, number) for number, name in enumerate(names, start=1)},
        question_set="s",
        question_set_version=1,
        evidence=EVIDENCE,
        profile_versions=dict.fromkeys(names, 1),
        aggregators={},
    )
    return Decision(
        pool=pool,
        recruiter=AskMore(evidence=EVIDENCE, more_of=others),
        recruitment=Recruitment(strategy="scripted", recruits=recruits),
        ask=Ask(text="", embedding=np.zeros(2, np.float32)),
        annotated=Annotated(),
        seed=1,
        calls=calls,
        embed=lambda texts: np.ones((len(texts), 1), np.float32),
        annotate_s=0.0,
        recruit_s=0.0,
    )
