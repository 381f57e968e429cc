"""What goes into recruiting and what comes out: plain frozen values."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from orchestrator.recruiting.limits import Limits
from skills.evidence import Evidence, Floats


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A question to recruit for."""

    text: str
    embedding: Floats
    """(d,), a unit vector."""
    skills: tuple[str, ...] = ()
    """Annotated skills as named, before matching; empty where annotation is by embedding."""
    skill_embeddings: Floats | None = None
    """(len(skills), d), unit rows."""
    options: int = 0
    """How many choices the question has; 0 for free-form."""
    choices: tuple[str, ...] = ()
    """The choices themselves, where they are known; the first is A."""


@dataclass(frozen=True, kw_only=True)
class MatchedSkill:
    """A skill of the vocabulary that a question needs."""

    skill: str
    similarity: float
    keyword: str = ""
    """The annotated keyword it was matched from; "" where matched by the question's own embedding."""


@dataclass(frozen=True, kw_only=True)
class Recruit:
    """An expert chosen for a question."""

    expert: str
    suitability: float
    """Strength on this question's skills, on the strategy's own scale."""
    weight: float
    """Its weight in a vote: positive, or log-odds (of either sign) where the recruitment has `doubt`."""
    probability: float | None = None
    """Probability that it answers this question correctly, where the strategy estimates one."""
    uncertainty: float | None = None
    """One standard deviation of `probability`: large where few profile questions are like this one."""
    why: str = ""
    """One line for people."""
    doubt: float = 0.0
    """What recruiting it adds to the recruitment's `doubt`."""
    tokens: float | None = None
    """What asking it is expected to take, prompt and completion, where costs were given."""
    seconds: float | None = None
    """Seconds, alone, until it has answered, its load included, where costs were given."""


@dataclass(frozen=True, kw_only=True)
class Recruitment:
    """The decision for one question. No expert appears twice."""

    strategy: str
    recruits: tuple[Recruit, ...]
    skills: tuple[MatchedSkill, ...] = ()
    off_domain: bool = False
    """No profile question is like this one: the choice fell back to overall competency."""
    note: str = ""
    leanings: Mapping[str, float] = field(default_factory=dict)
    """Answer -> log-odds for it from the question's choices alone, added to the weights of those who gave it."""
    doubt: float | None = None
    """Log-odds, with every recruit's `doubt` added, that none of their answers is right. None: weights are plain
    shares. Otherwise votes are probabilities: the softmax of weights and leanings by answer, beside this doubt."""
    gain: float | None = None
    """By how much the vote of such recruits was right more often than the first of them, on the profile questions.
    Where it is below zero, the first recruit's answer is taken instead of the vote."""
    mean_calls: float | None = None
    """Adaptive k: the mean number of experts per question that this strategy was told to keep to."""
    mean_tokens: float | None = None
    """The same, of tokens per question."""
    among: tuple[str, ...] = ()
    """Adaptive k: who may be recruited later; empty: everybody."""
    left: Limits | None = None
    """What may be spent on recruits after these; None: not limited."""


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What became of one recruit's generation, as fusion and adaptive recruiting see it."""

    expert: str
    text: str
    answer: str
    """The parsed answer; "" where none could be read."""
    finish_reason: str = "stop"
    """"stop", "length" (cut off), "error" or "late"."""

    @property
    def is_vote(self) -> bool:
        """Unreadable, failed and cut-off completions are no votes."""
        return bool(self.answer) and self.finish_reason in ("stop", "length")


@dataclass(frozen=True, kw_only=True)
class Recruiter:
    """A strategy after it has seen the evidence: subclasses hold what they learnt."""

    evidence: Evidence = field(repr=False)

    def recruit(
        self,
        asks: Sequence[Ask],
        *,
        k: int,
        seeds: Sequence[int],
        experts: Sequence[str] | None = None,
        limits: Limits | None = None,
    ) -> list[Recruitment]:
        """Choose at most `k` distinct experts for each ask, the best first.

        `experts` narrows the choice to those names, `limits` to sets that each question may cost; where nobody is
        within them, to the cheapest expert alone. One seed per ask: the same seed, evidence, ask and limits give the
        same recruits. Raises `NoExperts` if nobody can be recruited.
        """
        raise NotImplementedError

    def more(self, ask: Ask, recruitment: Recruitment, answered: Sequence[Answered]) -> tuple[Recruit, ...]:
        """Whom to recruit next, having seen `answered` (adaptive k); empty when enough is known."""
        return ()

    def others(
        self, ask: Ask, recruitment: Recruitment, *, k: int, seed: int, experts: Sequence[str]
    ) -> tuple[Recruit, ...]:
        """At most `k` of `experts` besides, chosen as at first, within what is left. `joined` weighs them."""
        (found,) = self.recruit([ask], k=k, seeds=[seed], experts=experts, limits=recruitment.left)
        return found.recruits[:k]

    def joined(
        self, recruitment: Recruitment, more: Sequence[Recruit], *, without: Collection[str] = ()
    ) -> Recruitment:
        """The recruitment with `more` recruits in it: what is voted by once they have answered, too.

        `without`: experts that are out of it, and are not recruited again.
        """
        stay = (each for each in recruitment.recruits if each.expert not in without)
        return replace(
            recruitment,
            recruits=(*stay, *more),
            among=tuple(name for name in recruitment.among if name not in without),
            left=spent(recruitment.left, more),
        )


def spent(left: Limits | None, more: Sequence[Recruit]) -> Limits | None:
    """What is left once `more` are asked, too."""
    return None if left is None else left.without([recruit.expert for recruit in more])


class Strategy(Protocol):
    """A named way to recruit. Adding one: a file with this, and a line in `recruiting/__init__.py`."""

    def __call__(self, evidence: Evidence) -> Recruiter: ...


class NoExperts(LookupError):
    """No expert is live, or none of those asked for is."""


Strategies = Mapping[str, Strategy]
