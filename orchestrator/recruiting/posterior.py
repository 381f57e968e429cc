"""The strategy `posterior`: the experts whose vote, taken together, is most probably right on this question.

Learnt from the profile questions: how strong each expert is near a question (`likeness`), what its vote is worth
beside the others' votes (`listwise`), what choices show by themselves (`choice_prior`), and how often the vote of a
set of experts is right near a question (`councils`). docs/recruiting.md has it in words.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
import numpy.typing as npt

from orchestrator.recruiting import (
    ballots,
    best_single,
    choice_prior,
    councils,
    doubt,
    likeness,
    listwise,
    panel,
)
from orchestrator.recruiting.ballots import Ballots
from orchestrator.recruiting.councils import Council, Overlap, Table
from orchestrator.recruiting.doubt import Doubt
from orchestrator.recruiting.likeness import Estimate, Likeness, Smoother
from orchestrator.recruiting.limits import Limits, completion_tokens
from orchestrator.recruiting.values import Ask, Recruit, Recruiter, Recruitment
from skills.evidence import Evidence, Floats, Masks

LOCAL_RIDGE = 10.0
"""For an expert's strength here against the others: held-out choice of it gained nothing on recorded data."""
_WEIGHT, _WEIGHT_PRECISION = 0.6, 5.0
_LOCAL, _LOCAL_PRECISION = 0.2, 40.0
_CHOICE_PRECISION = 5.0
"""Priors of the vote's log-odds: a vote counts 0.6, and more or less as its expert's log-odds to be right are above or
below the pool's; a spread better here 0.2 more; choices nothing."""
HELD_OUT_MOST = 3000
"""With more profile questions than these, how sure votes are is learnt without holding any out."""
CHOICES_KEPT = 64
"""Sets of experts and sizes whose councils stay worked out."""
_CLIP = 0.03

_CERTAIN = Doubt(scale=1.0, always=0.0, per_recruit=0.0, per_log_miss=0.0)


@dataclass(frozen=True, kw_only=True)
class Vote:
    """What votes are worth, in log-odds."""

    experts: Floats
    """(m,) everywhere."""
    local: float
    """For each spread that an expert is stronger here than usual."""
    spread: float
    choices: Floats
    """(FEATURES,) of `choice_prior`."""
    doubt: Doubt
    """How much to trust it all."""
    overlap: Overlap
    """Who stands in for whom."""

    def weights(self, strength: Floats) -> Floats:
        """(n, m) log-odds, as learnt, from how much stronger each expert is here than usual."""
        return np.asarray(self.experts + self.local * strength / self.spread, np.float32)


@dataclass(frozen=True, kw_only=True)
class PosteriorRecruiter(Recruiter):
    """`posterior`, fitted."""

    likeness: Likeness = field(repr=False)
    probability: Estimate = field(repr=False)
    """(·, m) that an expert is right."""
    uncertainty: Floats = field(repr=False)
    """(landmarks, landmarks) of `Smoother.uncertainty`, for `probability`."""
    strength: Estimate = field(repr=False)
    """(·, m) the same, as a difference from its own mean and from the pool's here."""
    vote: Vote
    correct: Floats = field(repr=False)
    """(n, m) outcomes on the profile questions."""
    table: Table = field(repr=False)
    smoother: Smoother = field(repr=False)
    searcher: Smoother = field(repr=False)
    search_table: Table = field(repr=False)
    known: dict[tuple[Council, int, bool], "Choice"] = field(default_factory=dict, repr=False)
    """Councils of k of these experts: worked out when first asked for. A cache, nothing else."""

    name = "posterior"

    def recruit(
        self,
        asks: Sequence[Ask],
        *,
        k: int,
        seeds: Sequence[int],
        experts: Sequence[str] | None = None,
        limits: Limits | None = None,
    ) -> list[Recruitment]:
        """The council of `k` with the highest estimated probability of a right vote; seeds play no part.

        Where that one is not within `limits`, the best of all councils of `k` or fewer that are.
        """
        panel.check(k, asks, seeds)
        allowed = panel.columns(self.evidence, experts)
        if not asks:
            return []
        near = self.nearness(asks)
        choice = self.choice(tuple(allowed.tolist()), min(k, len(allowed)))
        chosen = choice.values.at(near.kernel).argmax(axis=1)
        found = self._seat(asks, near, [(choice.councils[place], choice.gain) for place in chosen.tolist()])
        if limits is None:
            return found
        over = [row for row, each in enumerate(found) if not limits.affords([one.expert for one in each.recruits])]
        seats = self._affordable(near.kernel[over], allowed, k, limits) if over else []
        afforded = self._seat([asks[row] for row in over], near.take(over), seats)
        for row, each in zip(over, afforded, strict=True):
            found[row] = panel.told(each, limits, instead_of=found[row].recruits)
        return [each if each.left is not None else panel.told(each, limits, instead_of=each.recruits) for each in found]

    def others(
        self, ask: Ask, recruitment: Recruitment, *, k: int, seed: int, experts: Sequence[str]
    ) -> tuple[Recruit, ...]:
        """The likeliest to be right here, with the weights that votes have when everybody votes.

        No council of them: every set of experts would have to be learnt about anew, for a few lines each.
        """
        names, limits = self.evidence.experts, recruitment.left
        able = [names[column] for column in panel.columns(self.evidence, experts)]
        if limits is not None:
            able = panel.affordable(limits, able)
        near = self.nearness([ask])
        found: list[Recruit] = []
        for name in sorted(able, key=lambda name: -near.chance[0, names.index(name)])[:k]:
            if not found or limits is None or limits.affords([*(each.expert for each in found), name]):
                found.append(self.recruit_of(near, 0, names.index(name)))
        if limits is None:
            return tuple(found)
        return tuple(
            replace(each, tokens=limits.of(each.expert).tokens, seconds=limits.of(each.expert).seconds)
            for each in found
        )

    def joined(
        self, recruitment: Recruitment, more: Sequence[Recruit], *, without: Collection[str] = ()
    ) -> Recruitment:
        """Votes that stand in for one another are weighed anew. `more` have the weights of when everybody votes."""
        whole = super().joined(recruitment, more, without=without)
        before, after = self._shifts([recruitment.recruits, whole.recruits])
        recruits = [
            replace(each, weight=each.weight + (after[each.expert] - before.get(each.expert, 0.0)))
            for each in whole.recruits
        ]
        return replace(whole, recruits=tuple(recruits))

    def _shifts(self, groups: Sequence[Sequence[Recruit]]) -> list[dict[str, float]]:
        """Expert -> what its weight gains where only these recruits vote."""
        names = self.evidence.experts
        seated = [tuple(sorted(names.index(each.expert) for each in group)) for group in groups]
        shifts = self.vote.doubt.scale * self.vote.overlap.shifts(seated)
        return [
            {names[column]: float(row[column]) for column in council}
            for council, row in zip(seated, shifts, strict=True)
        ]

    def _seat(self, asks: Sequence[Ask], near: "Nearness", seats: Sequence["Seat"]) -> list[Recruitment]:
        """A recruitment for each ask, from its council and that council's gain."""
        distinct = list({council: None for council, _ in seats})
        gained = self.vote.doubt.scale * self.vote.overlap.shifts(distinct)
        shifts = dict(zip(distinct, gained, strict=True))
        return [
            self.recruitment(ask, near, row, council, shifts[council], gain)
            for row, (ask, (council, gain)) in enumerate(zip(asks, seats, strict=True))
        ]

    def _affordable(self, kernel: Floats, allowed: panel.Columns, k: int, limits: Limits) -> list["Seat"]:
        """For each kernel row, the council of `k` or fewer within `limits` whose vote is most probably right.

        The cheapest expert alone if nobody is within them.
        """
        names = self.evidence.experts
        place = {name: column for column, name in enumerate(names)}
        alone = tuple(place[name] for name in panel.affordable(limits, [names[column] for column in allowed]))
        seats: list[Seat] = [((alone[0],), None)] * len(kernel)
        best = np.full(len(kernel), -np.inf)
        for size in range(1, min(k, len(alone)) + 1):
            whole = tuple(allowed.tolist())
            choice = self.choice(whole if councils.are_few(len(whole), size) else alone, size, is_frugal=True)
            fits = np.flatnonzero(limits.fits(names, councils.masks(choice.councils, len(names))))
            if not len(fits):
                break
            values = choice.values.at(kernel)[:, fits] + choice.offset
            for row, winner in enumerate(values.argmax(axis=1)):
                if values[row, winner] > best[row]:
                    best[row] = values[row, winner]
                    seats[row] = (choice.councils[fits[winner]], choice.gain)
        return seats

    def nearness(self, asks: Sequence[Ask]) -> "Nearness":
        """What is known of these questions before anybody is asked."""
        view = likeness.view_of_asks(asks)
        kernel = self.likeness.kernel(view)
        off_domain = self.likeness.off_domain(view)
        kernel[off_domain] = 0
        chance = np.clip(self.probability.at(kernel), _CLIP, 1 - _CLIP)
        weights = self.vote.doubt.scale * self.vote.weights(kernel @ self.strength.slope)
        factor = 1 / self.probability.ridge + np.einsum("al,al->a", kernel @ self.uncertainty, kernel)
        return Nearness(
            kernel=kernel,
            off_domain=off_domain,
            chance=chance,
            spread=np.sqrt(np.maximum(factor, 0))[:, None] * self.probability.residual,
            weights=weights,
        )

    def recruitment(
        self, ask: Ask, near: "Nearness", row: int, council: Council, shifts: Floats, gain: float | None
    ) -> Recruitment:
        """The decision for one question: the likeliest to be right first. `shifts` (m,) are the council's own."""
        chance = near.chance[row]
        ordered = sorted(council, key=lambda column: (-chance[column], column))
        recruits = tuple(self.recruit_of(near, row, column, float(shifts[column])) for column in ordered)
        off_domain = bool(near.off_domain[row])
        return Recruitment(
            strategy=self.name,
            recruits=recruits,
            off_domain=off_domain,
            note="no profile question is like this one: chosen by overall competency" if off_domain else "",
            leanings=ballots.as_leanings(self.vote.doubt.scale * self.vote.choices, ask.text, ask.choices),
            doubt=self.vote.doubt.always,
            gain=gain,
        )

    def recruit_of(self, near: "Nearness", row: int, column: int, shift: float = 0.0) -> Recruit:
        """One expert with its probability and its vote's log-odds on a question."""
        usual, chance = float(self.probability.mean[column]), float(near.chance[row, column])
        return Recruit(
            expert=self.evidence.experts[column],
            suitability=chance,
            weight=float(near.weights[row, column]) + shift,
            probability=chance,
            uncertainty=float(near.spread[row, column]),
            why=f"right here with probability {chance:.2f}, {usual:.2f} overall",
            doubt=self.vote.doubt.per_recruit + self.vote.doubt.per_log_miss * float(np.log1p(-chance)),
        )

    def choice(self, experts: Council, k: int, *, is_frugal: bool = False) -> "Choice":
        """The councils of k of these experts that questions choose among; with `is_frugal`, cheap ones, too."""
        is_frugal = is_frugal and not councils.are_few(len(experts), k)
        key = (experts, k, is_frugal)
        if key not in self.known:
            found = councils.candidates(
                self.search_table,
                experts,
                k,
                lambda values: self.searcher.fit(values, ridge=15.0).held_out,
                tokens=completion_tokens(self.evidence) if is_frugal else None,
            )
            values = self.smoother.fit(self.table.values(found), relative=True)
            seated = [found[best] for best in values.held_out.argmax(axis=1)]
            likeliest = [
                max(council, key=lambda column: chances[column])
                for council, chances in zip(seated, self.probability.held_out, strict=True)
            ]
            alone = self.correct[np.arange(len(likeliest)), likeliest]
            gain = None if k == 1 else float((self.table.wins(seated) - alone).mean())
            accuracy = self.table.accuracy(found)
            while len(self.known) >= CHOICES_KEPT:  # other threads may add meanwhile: no iterator
                self.known.pop(list(self.known)[0], None)  # noqa: RUF015
            self.known[key] = choice = Choice(
                councils=found, values=values, gain=gain, offset=float(accuracy.mean() - values.mean.mean())
            )
            return choice
        return self.known[key]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Councils, and what is known of them."""

    councils: list[Council]
    values: Estimate
    """(·, councils) the probability that the vote gives the right answer."""
    gain: float | None
    """How much more often the vote was right than the likeliest member, both chosen by held-out estimates."""
    offset: float
    """By how much such votes were right more often than `values` say, in the mean. `values` are the vote's probability
    for the right answer, which is less than how often the winner is right, and the more so the larger the council:
    councils of one size are compared without it, sizes only with it."""


Seat = tuple[Council, float | None]
"""A council and its gain."""


@dataclass(frozen=True, kw_only=True)
class Nearness:
    """Estimates for a questions, row by row."""

    kernel: Floats
    """(a, landmarks); zero rows off-domain, which leave the overall means."""
    off_domain: Masks
    chance: Floats
    """(a, m) that each expert is right."""
    spread: Floats
    """(a, m) standard deviation of `chance`."""
    weights: Floats
    """(a, m) log-odds of its vote when everybody votes."""

    def take(self, rows: Sequence[int]) -> "Nearness":
        """These rows alone."""
        return Nearness(**{each.name: getattr(self, each.name)[list(rows)] for each in fields(self)})


def fit(evidence: Evidence) -> Recruiter:
    """Learn it all. Seconds for ten thousand labelled questions, a fraction of one for hundreds.

    Where nobody was profiled yet there is nothing to learn from, and it is `best_single`.
    """
    if not evidence.correct.size or np.isnan(evidence.correct).all():
        return best_single.fit(evidence)
    view = likeness.view_of_evidence(evidence)
    alike = likeness.fit(view)
    smoother = Smoother(alike, view)
    cast = ballots.read(evidence)
    probability = smoother.fit(cast.correct)
    differences = cast.correct - cast.accuracy
    differences = differences - differences.mean(axis=1, keepdims=True)
    strength = smoother.fit(differences, ridge=LOCAL_RIDGE)
    held_out = strength.held_out - strength.mean
    every_row = np.arange(len(cast.codes))
    vote = _vote(cast, held_out, every_row)
    weights, leanings = vote.weights(held_out), _leanings(cast, vote)
    chance = np.clip(probability.held_out, _CLIP, 1 - _CLIP)
    sure = weights, leanings
    if len(every_row) <= HELD_OUT_MOST:

        def refit(rows: npt.NDArray[np.intp]) -> tuple[Floats, Floats]:
            found = _vote(cast, held_out, rows)
            return found.weights(held_out), _leanings(cast, found)

        sure = doubt.held_out(len(every_row), refit, sure)
    sureness = doubt.fit(cast, weights=sure[0], leanings=sure[1], chance=chance, overlap=vote.overlap)
    vote = replace(vote, doubt=sureness)
    votes = ballots.imputed(cast, chance)
    rows = councils.search_rows(len(votes))
    table = Table(votes=votes, weights=weights, leanings=leanings, right=cast.right, overlap=vote.overlap)
    every = len(rows) == len(votes)
    return PosteriorRecruiter(
        evidence=evidence,
        likeness=alike,
        probability=probability,
        uncertainty=smoother.uncertainty(probability.ridge),
        correct=cast.correct,
        strength=strength,
        vote=vote,
        table=table,
        smoother=smoother,
        searcher=smoother if every else Smoother(alike, view.take(rows)),
        search_table=table
        if every
        else Table(
            votes=votes[rows],
            weights=weights[rows],
            leanings=leanings[rows],
            right=cast.right[rows],
            overlap=vote.overlap,
        ),
    )


def _leanings(cast: Ballots, vote: Vote) -> Floats:
    """(n, r) what choices lend each answer."""
    return np.asarray(cast.choices @ vote.choices, np.float32)


def _vote(cast: Ballots, strength: Floats, rows: npt.NDArray[np.intp]) -> Vote:
    """What each expert's vote, its strength here and the choices are worth beside one another; learnt on `rows`."""
    spread = max(float(strength.std()), 1e-3)
    votes = cast.votes[rows].astype(np.float32)
    m = votes.shape[1]
    local = np.einsum("nmr,nm->nr", votes, strength[rows] / spread)[:, :, None]
    design = np.concatenate([votes.transpose(0, 2, 1), local, cast.choices[rows]], axis=2)
    given = np.asarray(votes.any(axis=1))
    features = choice_prior.FEATURES
    odds = np.log(cast.accuracy / (1 - cast.accuracy))
    mean = np.concatenate([_WEIGHT + odds - odds.mean(), [_LOCAL], np.zeros(features)])
    precision = np.concatenate(
        [np.full(m, _WEIGHT_PRECISION), [_LOCAL_PRECISION], np.full(features, _CHOICE_PRECISION)]
    )
    right = cast.right[rows]
    found = listwise.fit(design, given, right, mean=mean, precision=precision)
    curvature = listwise.curvature(design, given, right, weights=found, precision=precision)
    return Vote(
        experts=found[:m].astype(np.float32),
        local=float(found[m]),
        spread=spread,
        choices=found[m + 1 :].astype(np.float32),
        doubt=_CERTAIN,
        overlap=Overlap(weights=found[:m].astype(np.float32), curvature=curvature[:m, :m].astype(np.float32)),
    )
