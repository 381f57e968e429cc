"""Which way to fuse the answers at hand: as asked, by what trials of merging showed, or by rule. Pure."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.fusion import fusion
from orchestrator.fusion.fusion import Fused, Method
from orchestrator.fusion.synthesis import NOTHING, Expected, Synthesis
from orchestrator.recruiting.values import Answered, Recruitment
from skills.question import Question


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The way to fuse, and why."""

    method: Method
    otherwise: Method
    """What is done where no aggregator can be had."""
    why: str
    """One line for people."""
    gain: float | None = None
    """As in `Fused`."""
    otherwise_gain: float | None = None

    def without_aggregator(self, why: str) -> "Choice":
        """The same where nobody can merge."""
        return dataclasses.replace(self, method=self.otherwise, why=why, gain=self.otherwise_gain)

    def explains(self, fused: Fused) -> Fused:
        """The answer with why it was fused so, and what that was expected to gain.

        Where it came about otherwise (the aggregator failed, nobody gave a vote) its own note says why.
        """
        if fused.method != self.method:
            return fused
        return dataclasses.replace(fused, gain=self.gain, note="; ".join(filter(None, (self.why, fused.note))))


def choose(
    recruitment: Recruitment,
    answered: Sequence[Answered],
    question: Question,
    *,
    wanted: str = "auto",
    aggregator: str | None = None,
    learnt: Synthesis = NOTHING,
) -> Choice:
    """`wanted`: one of `fusion.METHODS`. `aggregator`: who would merge; None: nobody can.

    "auto" is the rule of `fusion.choose`, but answers are merged, too, where the aggregator is known to gain over the
    vote and over the first recruit, and not merged where it is known to lose.
    """
    rule = fusion.choose(recruitment, answered, question)
    if rule == "none":
        return Choice(method="none", otherwise="none", why="")
    counted = any(item.is_vote for item in answered) and fusion.gains(recruitment)
    otherwise: Method = "vote" if counted else "best_single"
    expected = _expected(recruitment, answered, question, aggregator, learnt)
    method: Method = rule
    why = _reason(rule, recruitment, answered)
    if wanted != "auto":
        method, why = _asked_for(wanted), f"{wanted} was asked for"
    elif expected is not None:
        method, why = _tried(rule, otherwise, expected, why, aggregator or "")
    otherwise_gain = recruitment.gain if otherwise == "vote" else None
    gains: dict[Method, float | None] = {
        "aggregate": None if expected is None else expected.over_first.mean,
        "vote": recruitment.gain,
    }
    choice = Choice(method=method, otherwise=otherwise, why=why, gain=gains.get(method), otherwise_gain=otherwise_gain)
    if method == "aggregate" and aggregator is None:
        return choice.without_aggregator("there is no expert to merge the answers")
    return choice


def _expected(
    recruitment: Recruitment,
    answered: Sequence[Answered],
    question: Question,
    aggregator: str | None,
    learnt: Synthesis,
) -> Expected | None:
    """What merging should gain; None where it was not tried on such answers: one alone, none that counts, long ones."""
    merger = learnt.merger(aggregator=aggregator, strategy=recruitment.strategy)
    voters = [item for item in answered if item.is_vote]
    if merger is None or not voters or sum(map(fusion.is_usable, answered)) < 2:
        return None
    if not question.options and any(len(item.answer) > fusion.SHORT_CHARS for item in voters):
        return None
    return merger.expected(fusion.vote(recruitment, answered).confidence, bool(question.options))


def _tried(rule: Method, otherwise: Method, expected: Expected, why: str, aggregator: str) -> tuple[Method, str]:
    """What trials make of the rule's method."""
    over, whom = (expected.over_vote, "the vote") if otherwise == "vote" else (expected.over_first, "the first recruit")
    known = f"{over} over {whom} by {expected.trials} trials"
    if expected.is_clear:
        return "aggregate", f"merging by {aggregator} is known to gain here: {known}"
    if rule == "aggregate":
        return (otherwise, f"merging by {aggregator} is known to lose here: {known}") if over.is_loss else (rule, why)
    return rule, f"{why}; merging by {aggregator} is not known to gain here: {known}"


def _reason(rule: Method, recruitment: Recruitment, answered: Sequence[Answered]) -> str:
    if rule == "vote":
        return "the answers can be counted"
    if rule == "aggregate":
        return "the answers cannot be counted, so they are merged"
    if sum(map(fusion.is_usable, answered)) == 1:
        return "only one answer can be used"
    return f"the vote of such recruits was right less often than the first of them ({recruitment.gain or 0.0:+.3f})"


def _asked_for(wanted: str) -> Method:
    for method in ("vote", "aggregate", "best_single"):
        if method == wanted:
            return method
    raise ValueError(f"there is no fusion {wanted!r}; there are {', '.join(fusion.METHODS)}")
