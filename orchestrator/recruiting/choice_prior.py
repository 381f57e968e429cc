"""What the choices of a multiple-choice question show before anybody is asked: free evidence for the vote.

Wrong choices are made up around the right one, and it shows: the right one is longer, lies in the middle of the
numbers, says "only" less often. How much that means is learnt from the labelled questions; where it means nothing,
the weights stay near zero. It only ever tips the balance between answers that experts gave.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from math import log

import numpy as np
import numpy.typing as npt

from skills.question import LETTERS

FEATURES = 12
_TOKEN = re.compile(r"[a-z]+|\d+|[^\sa-z\d]")
_NUMBER = re.compile(r"-?\d*\.?\d+(?:e[-+]?\d+)?")
_ABSOLUTE = re.compile(r"\b(?:only|always|never|must|all|every)\b")
_STOP = frozenset("the a an of to in and is are for by that it on as with or be this at from not".split())  # noqa: SIM905
_NUMERIC_SHARE = 0.7
"""Choices are numbers where at least so many of them contain one."""


def features(text: str, choices: Sequence[str]) -> list[list[float]]:
    """(len(choices), FEATURES): what is odd about each choice beside the others."""
    lowered = [choice.lower() for choice in choices]
    words = [set(_TOKEN.findall(choice)) for choice in lowered]
    asked = set(_TOKEN.findall(text.lower()))
    shared = Counter(word for own in words for word in own)
    others = max(len(choices) - 1, 1)
    mean_chars = sum(map(len, choices)) / max(len(choices), 1)
    numbers = _numbers(lowered)
    return [
        [
            log((len(choice) + 3) / (mean_chars + 3)),
            sum(shared[word] - 1 for word in words[n]) / (len(words[n]) * others) if words[n] else 0.0,
            *_overlaps(words, n),
            _echo(words[n], asked),
            float("none of" in lowered[n]),
            float("all of" in lowered[n] or "both" in lowered[n]),
            *numbers[n],
            n / others,
            float(_ABSOLUTE.search(lowered[n]) is not None),
        ]
        for n, choice in enumerate(choices)
    ]


class Leanings(Mapping[str, float]):
    """Letter -> log-odds that the choices alone give it. Worked out when first looked at: a decision need not wait."""

    def __init__(self, text: str, choices: Sequence[str], weights: npt.NDArray[np.floating]) -> None:
        self._text, self._choices, self._weights = text, choices, weights

    @cached_property
    def _by_letter(self) -> dict[str, float]:
        found = np.asarray(features(self._text, self._choices)) @ self._weights
        return dict(zip(LETTERS, map(float, found), strict=False))

    def __getitem__(self, letter: str) -> float:
        return self._by_letter[letter]

    def __iter__(self) -> Iterator[str]:
        return iter(LETTERS[: len(self._choices)])

    def __len__(self) -> int:
        return min(len(self._choices), len(LETTERS))


def _overlaps(words: Sequence[set[str]], n: int) -> tuple[float, float]:
    """How alike this choice is to the others: on average, and to the nearest (Jaccard)."""
    own = words[n]
    alike = [len(own & other) / max(1, len(own | other)) for m, other in enumerate(words) if m != n]
    return (sum(alike) / len(alike), max(alike)) if alike else (0.0, 0.0)


def _echo(words: set[str], asked: set[str]) -> float:
    """The share of its own words that stand in the question."""
    content = [word for word in words if word not in _STOP and len(word) > 2]
    return sum(word in asked for word in content) / len(content) if content else 0.0


def _numbers(choices: Sequence[str]) -> list[tuple[float, float, float]]:
    """For numeric choices: how near the middle of the ranks, how many significant digits, how near the median."""
    found = [_NUMBER.search(choice.replace(",", "").replace("−", "-")) for choice in choices]
    values = [None if match is None else _float(match.group()) for match in found]
    known = sorted(value for value in values if value is not None)
    if len(known) < _NUMERIC_SHARE * len(choices) or not known:
        return [(0.0, 0.0, 0.0)] * len(choices)
    digits = [len(re.sub(r"\D", "", choice).strip("0")) for choice in choices]
    mean_digits = sum(digits) / len(digits)
    sizes = sorted(log(max(abs(value), 1e-9)) for value in known)
    median = (sizes[(len(sizes) - 1) // 2] + sizes[len(sizes) // 2]) / 2
    last = max(1, len(known) - 1)
    return [
        (0.0, digit - mean_digits, 0.0)
        if value is None
        else (
            1 - 4 * (known.index(value) / last - 0.5) ** 2,
            digit - mean_digits,
            -min(abs(log(max(abs(value), 1e-9)) - median), 3.0),
        )
        for value, digit in zip(values, digits, strict=True)
    ]


def _float(text: str) -> float | None:
    value = float(text)
    return value if abs(value) < 1e300 else None
