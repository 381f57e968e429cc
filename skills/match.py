"""From what a question needs to what profiles know: keywords, or the question itself, onto the vocabulary.

A similarity floor keeps out what the profiles know nothing about: where nothing reaches it, nothing is matched, and
recruiting falls back to overall competency instead of to a chance neighbour.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from skills.evidence import Floats

KEYWORD_FLOOR = 0.45
"""Cosine between a keyword and a skill of the vocabulary: below it MiniLM's neighbours are chance ("banter" is nearest
to "aggression" at .35, "sourdough" to "combustion" at .34; "poetry" to "literature" at .66)."""
QUESTION_FLOOR = 0.35
"""Cosine between a question and a skill's name, or a question that needs the skill: sentences score lower."""
MAX_SKILLS = 5
"""Skills matched by a question's own embedding at most, as many as an annotator may name."""
_ROWS = 256
"""Questions compared at a time, which bounds memory."""


@dataclass(frozen=True, kw_only=True)
class Match:
    skill: int
    """Row of the vocabulary."""
    similarity: float
    keyword: str = ""
    """The keyword it was matched from; "" where the question itself was."""


def keywords(
    named: Sequence[Sequence[str]],
    embedded: Sequence[Floats | None],
    vocabulary: Sequence[str],
    vocabulary_embeddings: Floats | None,
    *,
    floor: float = KEYWORD_FLOOR,
) -> list[tuple[Match, ...]]:
    """Each question's keywords, each mapped to its nearest skill; keywords below the floor are dropped.

    `named` and `embedded` have an entry per question: keywords, and their unit rows (len(keywords), d) or None.
    A keyword that is in the vocabulary needs no embedding.
    """
    index = {skill.casefold(): row for row, skill in enumerate(vocabulary)}
    nearest = _nearest(named, embedded, vocabulary_embeddings)
    return [
        tuple(
            match
            for match in (_best(word, index, nearest.get((row, n))) for n, word in enumerate(words))
            if match.similarity >= floor
        )
        for row, words in enumerate(named)
    ]


def questions(
    embeddings: Floats,
    *,
    needs: npt.NDArray[np.intp],
    skills: int,
    profile_embeddings: Floats,
    vocabulary_embeddings: Floats | None,
    floor: float = QUESTION_FLOOR,
    most: int = MAX_SKILLS,
) -> list[tuple[Match, ...]]:
    """Each question's nearest skills, by its own embedding (a, d); the nearest first.

    A skill is as near as its name, or as the nearest profile question that needs it, whichever is nearer. `needs` are
    (row of a profile question, skill) pairs sorted by skill, as in `Profiles.needs`.
    """
    found: list[tuple[Match, ...]] = []
    for start in range(0, len(embeddings), _ROWS):
        own = embeddings[start : start + _ROWS]
        similarity = np.full((len(own), skills), -1.0, np.float32)
        if vocabulary_embeddings is not None and len(vocabulary_embeddings) == skills:
            similarity = own @ vocabulary_embeddings.T
        if len(needs):
            present, first = np.unique(needs[:, 1], return_index=True)
            by_question = np.maximum.reduceat((own @ profile_embeddings.T)[:, needs[:, 0]], first, axis=1)
            similarity[:, present] = np.maximum(similarity[:, present], by_question)
        found += [_top(row, floor, most) for row in similarity]
    return found


def _nearest(
    named: Sequence[Sequence[str]], embedded: Sequence[Floats | None], vocabulary_embeddings: Floats | None
) -> dict[tuple[int, int], tuple[int, float]]:
    """(question, keyword) -> the nearest skill and its similarity, for all keywords at once."""
    if vocabulary_embeddings is None or not len(vocabulary_embeddings):
        return {}
    keys, rows = [], []
    for question, (words, own) in enumerate(zip(named, embedded, strict=True)):
        if own is not None and len(own) == len(words):
            keys += [(question, n) for n in range(len(words))]
            rows += list(own)
    if not rows:
        return {}
    similarity = np.stack(rows) @ vocabulary_embeddings.T
    best = similarity.argmax(axis=1)
    return {key: (int(best[n]), float(similarity[n, best[n]])) for n, key in enumerate(keys)}


def _best(word: str, index: dict[str, int], nearest: tuple[int, float] | None) -> Match:
    if word.casefold() in index:
        return Match(skill=index[word.casefold()], similarity=1.0, keyword=word)
    skill, similarity = nearest or (0, -1.0)
    return Match(skill=skill, similarity=similarity, keyword=word)


def _top(similarity: Floats, floor: float, most: int) -> tuple[Match, ...]:
    order = np.argsort(-similarity, kind="stable")[:most]
    return tuple(
        Match(skill=int(skill), similarity=float(similarity[skill])) for skill in order if similarity[skill] >= floor
    )
