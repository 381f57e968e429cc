"""What the experts answered to the profile questions, as arrays: who gave which answer, and which one is right."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from orchestrator.recruiting import choice_prior
from skills.evidence import Evidence, Floats, Masks
from skills.question import LETTERS, Question

Codes = npt.NDArray[np.int16]
NOTHING = -1
"""No answer could be read."""
_ACCURACY_TRIES = 4.0
"""Imagined tries at the pool's mean accuracy that every expert's own starts from."""


@dataclass(frozen=True, kw_only=True)
class Ballots:
    """n questions, m experts, r candidate answers at most."""

    codes: Codes
    """(n, m) which candidate an expert gave; `NOTHING` where it gave none or was never asked."""
    asked: Masks
    """(n, m)"""
    right: Masks
    """(n, r)"""
    correct: Floats
    """(n, m); where an expert was never asked, its own accuracy."""
    accuracy: Floats
    """(m,) shrunk a little towards the pool's mean."""
    choices: Floats
    """(n, r, FEATURES): what the choices show; zeros where there are none."""

    @property
    def votes(self) -> Masks:
        """(n, m, r)"""
        return np.asarray(self.codes[:, :, None] == np.arange(self.right.shape[1]))


def read(evidence: Evidence) -> Ballots:
    """Of multiple choice, candidates are the letters; of free-form questions the right answer and the wrong ones given.

    Where answers were not kept, or not asked for, wrong ones are taken to be all different.
    """
    n, m = evidence.correct.shape
    asked = ~np.isnan(evidence.correct)
    coded = [_code(evidence, row) for row in range(n)]
    codes = np.array([row for row, _ in coded], np.int16).reshape(n, m)
    width = max([int(codes.max(initial=0)) + 1, *(len(question.options) for question in evidence.questions)])
    right = np.zeros((n, width), bool)
    choices = np.zeros((n, width, choice_prior.FEATURES), np.float32)
    for row, (question, (_, gold)) in enumerate(zip(evidence.questions, coded, strict=True)):
        if gold < width:
            right[row, gold] = True
        if question.options:
            found = choice_prior.features(question.text, question.options)
            choices[row, : len(found)] = found
    tried = asked.sum(axis=0)
    hits = np.where(asked, evidence.correct, 0).sum(axis=0)
    pool = hits.sum() / max(1, tried.sum()) if tried.any() else 0.5
    pool = min(max(pool, 0.02), 0.98)  # nobody is always right or always wrong
    accuracy = ((hits + _ACCURACY_TRIES * pool) / (tried + _ACCURACY_TRIES)).astype(np.float32)
    return Ballots(
        codes=codes,
        asked=asked,
        right=right,
        correct=np.where(asked, evidence.correct, accuracy).astype(np.float32),
        accuracy=accuracy,
        choices=choices,
    )


def imputed(ballots: Ballots, chance: Floats) -> Masks:
    """(n, m, r) votes with a guess where an expert was never asked: right with its `chance` (n, m) there.

    Without, an expert profiled on half of the questions would look as if it had been silent on the others.
    """
    votes = ballots.votes
    rows, columns = np.nonzero(~ballots.asked)
    if not len(rows):
        return votes
    rng = np.random.default_rng(0)
    hit = rng.random(len(rows)) < chance[rows, columns]
    gold = ballots.right.argmax(axis=1)[rows]
    width = ballots.right.shape[1]
    wrong = (gold + 1 + rng.integers(max(1, width - 1), size=len(rows))) % width
    guessed = votes.copy()
    guessed[rows, columns, np.where(hit, gold, wrong)] = hit | (width > 1)
    return guessed


def _code(evidence: Evidence, row: int) -> tuple[list[int], int]:
    """The experts' candidates on one question, and the right one's."""
    question, correct = evidence.questions[row], evidence.correct[row]
    given = evidence.answers[row] if evidence.answers else None
    gold = _letter(question, question.answer or "") if question.options else 0
    if gold == NOTHING:
        gold = len(question.options)
    seen: dict[str, int] = {}
    codes = []
    for column, right in enumerate(correct):
        answer = given[column].strip() if given is not None else f"\0{column}"
        if np.isnan(right) or not answer:
            codes.append(NOTHING)
        elif right:
            codes.append(gold)
        else:
            codes.append(_wrong(question, answer, gold, seen))
    return codes, gold


def _wrong(question: Question, answer: str, gold: int, seen: dict[str, int]) -> int:
    """A wrong answer's candidate: its letter, or a new one for every new text."""
    letter = _letter(question, answer) if question.options else NOTHING
    if letter not in (NOTHING, gold):
        return letter
    free = max(len(question.options), gold + 1)
    return seen.setdefault(answer.casefold(), free + len(seen))


def _letter(question: Question, answer: str) -> int:
    """The place of the option that a letter names, or `NOTHING`."""
    place = LETTERS.find(answer.upper()) if len(answer) == 1 else NOTHING
    return place if 0 <= place < len(question.options) else NOTHING


def as_leanings(weights: npt.NDArray[np.floating], text: str, choices: tuple[str, ...]) -> Mapping[str, float]:
    """What the choices of a new question show, in log-odds by letter; nothing where it has none."""
    return choice_prior.Leanings(text, choices, weights) if choices and weights.any() else {}
