"""When two short free-form answers mean the same though they are worded differently: "Paris", "the city of Paris".

Embeddings alone cannot tell: to MiniLM "the left ventricle" is nearer to "the right ventricle" (.95) than "Everest" to
"Mount Everest" (.91). So one answer's words must all be in the other, which may only add words that change nothing:
no number, no negation, no "north"; and what is added must leave the embedding where it was. What is missed by this
care costs an agreement, and an aggregator is asked instead; what is joined wrongly would win a vote.
"""

import re
from collections.abc import Callable, Sequence

from orchestrator.answers import equality
from skills.evidence import Floats

Embed = Callable[[Sequence[str]], Floats]
"""n texts to (n, d) unit rows."""

FLOOR = 0.85
"""Cosine that added words must keep: of pairs that mean the same and pairs that do not, written down for this, the
cosine alone joins as many wrong ones as right ones at any floor (docs/recruiting.md)."""
MAX_CHARS = 80
"""Longer texts hold more than an answer: whole completions that were near one another were right no more often."""


def _words_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


_WORDS = re.compile(r"[^\W_]+(?:['’.-][^\W_]+)*")
_FILLERS = _words_of(
    "a an the of in on at by for with through via is are was were be it its this that they called so "
    "approximately about roughly because due"
)
_TURNERS = _words_of(
    "and or not no non never neither nor none without cannot can't won't isn't aren't doesn't don't un anti except "
    "half twice double new old north south east west northern southern eastern western left right upper lower inner "
    "outer pre post"
)
"""Words that, added, turn an answer into another one."""
_ORDERED = _words_of("than from to into over before after under above below")
"""Beside these, the order of words matters."""
_VERDICT = re.compile(r"^(yes|no)\b(?=\W*$|\s*[,.;:–-])", re.IGNORECASE)
_ROMAN = re.compile(r"[ivxlc]+")


def representatives(answers: Sequence[str], embed: Embed) -> list[str]:
    """For every answer the first one that means the same; itself where there is none. "" stands for itself."""
    candidates = [answer for answer in dict.fromkeys(answers) if 0 < len(answer) <= MAX_CHARS]
    pairs = [
        (first, second, added)
        for place, first in enumerate(candidates)
        for second in candidates[place + 1 :]
        if (added := _added(first, second)) is not None
    ]
    texts = list(dict.fromkeys(text for *pair, added in pairs if added for text in pair))
    vectors = dict(zip(texts, embed(texts), strict=True)) if texts else {}
    stands_for: dict[str, str] = {}
    for first, second, added in pairs:
        if second not in stands_for and (not added or float(vectors[first] @ vectors[second]) >= FLOOR):
            stands_for[second] = stands_for.get(first, first)
    return [stands_for.get(answer, answer) for answer in answers]


def _added(first: str, second: str) -> set[str] | None:
    """The words that one adds to the other; None where they differ by more than harmless additions."""
    if equality.same(first, second):
        return set()
    if equality.number(first) is not None or equality.number(second) is not None:
        return None
    left, right = _words(first), _words(second)
    shorter, longer = (left, right) if len(set(left)) <= len(set(right)) else (right, left)
    if not shorter or not set(shorter) <= set(longer):
        return None
    if _ORDERED & set(longer) and [word for word in longer if word in shorter] != shorter:
        return None
    added = set(longer) - set(shorter)
    is_turned = any(word in _TURNERS or word[0].isdigit() or _ROMAN.fullmatch(word) for word in added)
    return None if is_turned else added


def _words(text: str) -> list[str]:
    if verdict := _VERDICT.match(text.strip()):
        return [verdict.group(1).casefold()]
    found = [_stem(word) for word in _WORDS.findall(text.casefold())]
    return [word for word in found if word not in _FILLERS]


def _stem(word: str) -> str:
    """Possessives and plurals, roughly."""
    word = word.replace("’", "'").removesuffix("'s")
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
