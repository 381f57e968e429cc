"""When two free-form answers are the same: as text, as numbers, or (in a process of its own) as formulas."""

import functools
import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction

from orchestrator.answers import symbolic

_FRACTION = re.compile(r"\\[dt]?frac\s*\{\s*(-?\d{1,12})\s*\}\s*\{\s*(\d{1,12})\s*\}")
_NUMBER = re.compile(r"([-+]?)\s*(\d{1,3}(?:,\d{3})+|\d{1,18})?(\.\d{1,18})?(?:\s*/\s*(\d{1,12}))?(?:e([-+]?\d{1,2}))?")
_MATHEMATICS = re.compile(r"[\\^=+*/√π()]|\bpi\b|\bsqrt\b|\d[a-z]\b|\b[a-z]\d")
_WORD = re.compile(r"[^\w.+\-/%]+")
_ARTICLE = re.compile(r"^(?:the|an?)\s+")
_UNITS = {
    "meter": "m", "metre": "m", "kilometer": "km", "kilometre": "km", "centimeter": "cm", "centimetre": "cm",
    "second": "s", "sec": "s", "minute": "min", "hour": "h", "gram": "g", "kilogram": "kg", "newton": "n",
    "joule": "j", "watt": "w", "volt": "v", "ampere": "a", "amp": "a", "ohm": "ω", "degree": "°", "dollar": "",
    "euro": "", "percent": "",
}  # fmt: skip
"""Spelled-out units and their symbols, in lower case."""
_MAX_FORMULA_CHARS = 300
_TOLERANCE = Fraction(1, 1_000_000)


@functools.lru_cache(maxsize=1024)
def same(left: str, right: str) -> bool:
    """Whether two answers agree as text or as exact numbers. Quick: votes are counted with it, each pair many times."""
    if not left or not right:
        return False
    if normalised(left) == normalised(right):
        return bool(normalised(left)) or left.strip() == right.strip()
    first, second = _quantity(left), _quantity(right)
    if first is None or second is None:
        return False
    return _close(first.value, second.value) and _same_unit(first.unit, second.unit)


def matches(answer: str, gold: str) -> bool:
    """Whether an answer is the gold one: `same`, or right to gold's decimals, or the same formula.

    Formulas are compared by math-verify in a child process, so hostile ones cost seconds at most.
    """
    if same(answer, gold) or _same_rounded(answer, gold):
        return True
    both_numbers = number(answer) is not None and number(gold) is not None
    if both_numbers or not _may_be_formulas(answer, gold):
        return False
    return symbolic.equivalent(gold, answer)


def normalised(text: str) -> str:
    """Case, accents' forms, punctuation, blanks and a leading article removed."""
    text = unicodedata.normalize("NFKC", text[:2000]).casefold().replace("−", "-")
    return _ARTICLE.sub("", _WORD.sub(" ", text).strip(" .")).strip()


def number(text: str) -> Fraction | None:
    """The number that an answer is, with or without a unit after it: "1,200 m" is 1200, "50%" is 50, "3/4" 0.75."""
    quantity = _quantity(text)
    return quantity.value if quantity else None


@dataclass(frozen=True, kw_only=True)
class _Quantity:
    value: Fraction
    unit: str


def _quantity(text: str) -> _Quantity | None:
    if len(text) > 100:
        return None
    text = unicodedata.normalize("NFKC", _FRACTION.sub(r"\1/\2", text.strip(" $*.\n\t")))
    text = text.replace("−", "-").replace("⁄", "/").replace("\\", "").lower().lstrip("$€£ ")
    match = _NUMBER.match(text)
    if match is None or not (match.group(2) or match.group(3)):
        return None
    unit = text[match.end() :].strip(" .%$")
    if unit and not re.fullmatch(r"[a-z°µ][a-z°µ/²³ ]{0,24}", unit):
        return None
    sign, whole, decimals, divisor, exponent = match.groups()
    value = Fraction((whole or "0").replace(",", "") + (decimals or ""))
    if divisor is not None:
        if int(divisor) == 0:
            return None
        value /= int(divisor)
    value *= Fraction(10) ** int(exponent or 0)
    return _Quantity(value=-value if sign == "-" else value, unit=unit)


def _same_unit(left: str, right: str) -> bool:
    """A missing unit agrees with any: gold answers rarely have one."""
    return not left or not right or _base_unit(left) == _base_unit(right)


def _base_unit(unit: str) -> str:
    return _UNITS.get(unit, _UNITS.get(unit.rstrip("s"), unit.rstrip("s")))


def _close(left: Fraction, right: Fraction) -> bool:
    return abs(left - right) <= _TOLERANCE * max(abs(left), abs(right))


def _same_rounded(answer: str, gold: str) -> bool:
    """3.1416 is right where gold says 3.14."""
    value, wanted = number(answer), number(gold)
    decimals = re.search(r"\.(\d+)", gold)
    if value is None or wanted is None or decimals is None:
        return False
    return round(value, len(decimals.group(1))) == wanted


def _may_be_formulas(answer: str, gold: str) -> bool:
    short = max(len(answer), len(gold)) <= _MAX_FORMULA_CHARS
    return short and bool(_MATHEMATICS.search(gold)) and any(char.isdigit() or char.isalpha() for char in answer)
