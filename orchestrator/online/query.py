"""A query: one question asked online, the options it came with, and what is told while it is answered."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from orchestrator import prompts
from skills.question import Question
from workers.messages import ChatMessage, Completion, Sampling

K_MAX = 64
"""More recruits than any pool is meant to hold; the pool's own size is the real bound."""
SECONDS_MAX = 3600.0
EXPERTS_SHARE = 0.7
"""Of a budget, where an aggregator may have to write after the experts."""

ExpertName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]


class Budget(BaseModel):
    """What a query may cost: the best set of experts that is expected to keep to it is recruited.

    What is left out is not bounded, but for the service's default seconds.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    calls: int | None = Field(default=None, ge=1, le=K_MAX + 1)
    """Generations by experts and aggregator together."""
    seconds: float | None = Field(default=None, gt=0, le=SECONDS_MAX)
    tokens: int | None = Field(default=None, ge=1, le=10_000_000)
    """Tokens of all generations together, prompts included, as they are expected; completions are cut off at an even
    share."""


class Options(BaseModel):
    """The `muster` object of a request: how to recruit and fuse."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={"example": {"k": 3, "strategy": "paper", "fusion": "vote", "budget": {"seconds": 20}}},
    )

    k: int | None = Field(default=None, ge=1, le=K_MAX)
    """Experts to recruit."""
    strategy: str | None = Field(default=None, max_length=64)
    """How to recruit; the service's default if left out."""
    fusion: Literal["auto", "vote", "best_single", "aggregate"] | None = None
    aggregator: ExpertName | None = None
    """The expert that merges the answers; chosen by its test if left out."""
    experts: Annotated[tuple[ExpertName, ...], Field(min_length=1, max_length=1024)] | None = None
    """Recruit among these only."""
    budget: Budget = Budget()
    explain: bool = False
    """Give the experts' whole texts in the answer, not only what was read from them."""
    seed: int | None = Field(default=None, ge=0, le=2**63 - 1)
    """The same seed, pool and question give the same recruits."""


@dataclass(frozen=True, kw_only=True)
class Query:
    """What is asked, once it is known to be askable."""

    id: str
    question: Question
    """The last user message, its options read out where it surely has some."""
    conversation: tuple[ChatMessage, ...]
    """Every message, in order; the last is the user's."""
    expert: str | None = None
    """The one expert that is asked; None: the pool."""
    options: Options = field(default_factory=Options)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """`Sampling` fields that the client set: for the fused answer, or for the one expert it named."""

    def sampling(self, own: Sampling) -> Sampling:
        """An expert's own sampling with the client's wishes on top."""
        return own.model_copy(update=dict(self.overrides))

    def asked(self, *, max_tokens: int) -> prompts.Asked:
        """What an expert whose completions have at most `max_tokens` is asked: a lone multiple-choice question in its
        own form, else the conversation as it is."""
        if not self.question.options:
            return self.conversation
        if len(self.conversation) == 1:
            return self.question
        form = prompts.answer_format(self.question, max_tokens=max_tokens)
        last = f"{self.question.rendered()}\n\n{form}"
        return (*self.conversation[:-1], ChatMessage(role="user", content=last))

    def fused_by(self, default: str) -> "Query":
        """The same, merged by `default` (one of `fusion.METHODS`) where it does not say how."""
        if self.options.fusion is not None:
            return self
        return replace(self, options=self.options.model_copy(update={"fusion": default}))

    def limited(self, sampling: Sampling, *, generations: int) -> Sampling:
        """A sampling within the budget of tokens, shared out evenly beforehand among so many generations."""
        tokens = self.options.budget.tokens
        if tokens is None:
            return sampling
        share = max(1, tokens // max(1, generations))
        return sampling.model_copy(update={"max_tokens": min(sampling.max_tokens, share)})

    def is_single(self, *, recruits: int, calls: int | None) -> bool:
        """One recruit and nothing to merge: it is sampled as the client wished, and its text is the answer's.

        `calls`: generations that may be spent in all; None: any number.
        """
        return recruits == 1 and (self.options.k == 1 or calls == 1) and self.options.fusion != "aggregate"

    def may_wait_for_aggregator(self, *, recruits: int, calls: int | None) -> bool:
        """Whether experts get less than the whole time."""
        return not (self.options.fusion in ("vote", "best_single") or self.is_single(recruits=recruits, calls=calls))

    def tokens_for_experts(self, *, recruits: int, calls: int | None) -> float | None:
        """Tokens of the budget that experts may take, an aggregator's kept back where one may have to write.

        None: any number.
        """
        tokens, fusion = self.options.budget.tokens, self.options.fusion
        may_wait = self.may_wait_for_aggregator(recruits=recruits, calls=calls)
        may_aggregate = fusion == "aggregate" or (may_wait and not self.question.options)
        return None if tokens is None else tokens * (EXPERTS_SHARE if may_aggregate else 1.0)

    @property
    def chars(self) -> int:
        """Of the conversation."""
        return sum(len(turn.content) for turn in self.conversation)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Something happened on the way: "annotated", "recruited", "answered", "fusing"."""

    stage: str
    detail: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """The next piece of the answer's text."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Tokens of one stage, or of all."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
        )

    def as_json(self) -> dict[str, int]:
        """In OpenAI's names."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }

    @classmethod
    def of(cls, *completions: Completion) -> "Usage":
        return cls(
            prompt_tokens=sum(completion.prompt_tokens for completion in completions),
            completion_tokens=sum(completion.completion_tokens for completion in completions),
        )


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The end: the whole text, and how it came about."""

    text: str
    finish_reason: str
    """"stop" or "length"."""
    usage: Usage
    explanation: Mapping[str, Any] | None = None
    """The answer's `muster` object, but for the charges; None where one expert was asked directly."""
    charges: Mapping[str, Any] = field(default_factory=dict)
    """Seconds of devices and of loading, together and for each expert (`orchestrator.online.charges`)."""
    choices: tuple[Mapping[str, Any], ...] = ()
    """OpenAI choices as an engine gave them (n, logprobs, tools), where an expert was asked directly."""


Event = Stage | Piece | Answer


class QueryFailed(RuntimeError):
    """Nobody answered: says why, expert by expert."""

    def __init__(self, message: str, errors: Mapping[str, str] | None = None, *, late: bool = False) -> None:
        super().__init__(message)
        self.errors = dict(errors or {})
        self.late = late


class QueryRefused(ValueError):
    """The query itself cannot be answered; `param` is the field to blame."""

    def __init__(self, message: str, *, param: str | None, code: str | None = None) -> None:
        super().__init__(message)
        self.param, self.code = param, code
