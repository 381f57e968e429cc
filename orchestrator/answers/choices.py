"""Reading a letter out of a completion to a multiple-choice question.

Rules go from explicit to faint, and each later one is only asked when the earlier ones found nothing. None takes
a capital letter because it happens to stand somewhere: "I think" names no option, nor does "A reaction".
"""

import re
import unicodedata
from collections.abc import Callable, Iterator

from skills.question import Question

_OPEN = r"[\s*_`$\"'“‘({\[<:]{0,12}"
"""What may stand between a lead-in and its letter: blanks, markdown, quotes, brackets."""
_LETTER = r"(?:\\(?:text|textbf|mathrm|mathbf)\{\s*)?\(?([A-Z]|(?<=\()[a-z](?=\)))(?![\w'’])"
_STATED = re.compile(
    r"(?i:\banswer(?:\s+(?:choice|option|letter|here|to\s+(?:this|the)\s+question))?|\b(?:correct|right|best|closest|only\s+correct)\s+"
    r"(?:option|choice|letter|one|statement))(?:\s+(?i:here\s+)?)?[*_]{0,3}\s*"
    r"(?:(?i:is|are|was|would\s+be|should\s+be|must\s+be|will\s+be)(?:\s+(?i:therefore|thus|clearly|likely))?|:|=|-|–)"
    + _OPEN
    + r"(?i:(?:option|choice|letter|answer)\s*:?\s*)?"
    + _OPEN
    + _LETTER
)
_CHOSEN = re.compile(
    r"(?i:\b(?:choose|pick|select|go\s+with)\s+(?:option\s+|choice\s+|letter\s+)?)[*_(\"]{0,4}" + _LETTER
)
_BOXED = re.compile(r"\\boxed\s*\{\s*(?:\\(?:text|textbf|mathrm|mathbf)\s*\{\s*)?\(?([A-Za-z])\)?\s*(?:[}.:)]|\\)")
_IS_CORRECT = re.compile(
    r"(?:^|(?i:option|choice|answer)\s*|[.!?:;,]\s+|\()[*_(\"]{0,4}([A-Z])[*_)\".]{0,4}\s+(?i:is|must\s+be|would\s+be)\s+"
    r"(?i:therefore\s+|thus\s+|clearly\s+)?(?i:the\s+)?(?i:most\s+)?(?i:correct|right|best|appropriate)\b",
    re.MULTILINE,
)
_OPENING = re.compile(r"^[\s*_`(\"\[]{0,6}([A-Z])(?:[*_`\"]{0,4}\s*$|[*_`\"]{0,3}[.):\]](?=[\s*_]|$))", re.MULTILINE)
_ALONE = re.compile(r"^[\s*_`(\"\[#$]{0,8}([A-Z])[*_`)\"\].:$\s]{0,8}$", re.MULTILINE)
_BOLD = re.compile(r"\*\*\s*(?i:(?:option|choice|answer)\s*:?\s*)?\(?([A-Z])\)?\s*(?:\*\*|[.:)])")
_PARENTHESISED = re.compile(r"(?<!\w)\(([A-Z])\)(?!\w)")
_AFTER_WORD = re.compile(r"\)?[*_\"'”]{0,3}\s+([a-z][\w'’]*)")
_CONNECTIVES = frozenset(
    "as because but for given hence however in if is since so that therefore thus where which with".split()  # noqa: SIM905
)
"""Words that may follow a chosen letter: "B because …". In "B cells" the letter is part of a name."""
_ANOTHER = re.compile(
    r"[*_)\]\"']{0,4}\s*(?:,|/|&|\bor\b|\band\b)\s*(?:(?:option|choice)\s+)?[*_(\[\"']{0,4}([A-Z]{1,3})(?!\w)"
)
_DASHED = re.compile(r"[-–]\w")
_BLANKS = re.compile(r"\s+")
_MIN_TEXT = 3
"""Options shorter than this are looked for in the last line only: "2" stands in too many sentences."""

_SHORT_CHARS = 600
"""In longer completions an option's words stand for much else (measured: right no more often than by chance)."""


def read(text: str, question: Question) -> str:
    """The letter that `text` settles on, one of `question.letters`; "" if it settles on none or on several."""
    for rule in _RULES:
        if letter := rule(text, question):
            return letter
    return ""


def _stated(text: str, question: Question) -> str:
    """The last of "the answer is (C)", "Answer: C", "correct option is C"."""
    return _last(_accepted(_STATED, text, question))


def _boxed(text: str, question: Question) -> str:
    return _last(m.group(1).upper() for m in _BOXED.finditer(text) if m.group(1).upper() in question.letters)


def _chosen(text: str, question: Question) -> str:
    """The last of "I choose C", "C is correct"."""
    return _last(_accepted(_CHOSEN, text, question)) or _last(
        m.group(1) for m in _IS_CORRECT.finditer(text) if m.group(1) in question.letters
    )


def _opening(text: str, question: Question) -> str:
    """A completion that begins with its choice, "C. Paris" or "C", and does not go on to list the others."""
    found = [m for m in _OPENING.finditer(text) if m.group(1) in question.letters]
    starts_with_it = bool(found) and not text[: found[0].start()].strip()
    return found[0].group(1) if starts_with_it and len({m.group(1) for m in found}) == 1 else ""


def _alone(text: str, question: Question) -> str:
    """The last line that is nothing but a letter."""
    return _last(m.group(1) for m in _ALONE.finditer(text) if m.group(1) in question.letters)


def _bold(text: str, question: Question) -> str:
    return _only(m.group(1) for m in _BOLD.finditer(text) if m.group(1) in question.letters)


def _repeated(text: str, question: Question) -> str:
    """The one option whose text is repeated word for word: in the last line, or anywhere in a short completion."""
    if len({m.group(1) for m in _OPENING.finditer(text)}) > 1:
        return ""  # the options are listed once more
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return ""
    letter = _only(_mentioned(lines[-1], question, 1))
    return letter or (_only(_mentioned(text, question, _MIN_TEXT)) if len(text) <= _SHORT_CHARS else "")


def _parenthesised(text: str, question: Question) -> str:
    return _only(m.group(1) for m in _PARENTHESISED.finditer(text) if m.group(1) in question.letters)


_RULES: tuple[Callable[[str, Question], str], ...] = (
    _boxed,
    _stated,
    _chosen,
    _opening,
    _alone,
    _bold,
    _repeated,
    _parenthesised,
)


def _accepted(pattern: re.Pattern[str], text: str, question: Question) -> Iterator[str]:
    """Letters matched by `pattern` that are options and stand for themselves."""
    for match in pattern.finditer(text):
        letter = match.group(1).upper()
        if letter in question.letters and _stands_alone(text[match.end() : match.end() + 80], letter, question):
            yield letter


def _stands_alone(rest: str, letter: str, question: Question) -> bool:
    """Whether a letter, followed by `rest`, names an option, and no other one with it ("A or B", "I and II")."""
    if _ANOTHER.match(rest) or _DASHED.match(rest):
        return False
    word = _AFTER_WORD.match(rest)
    if word is None or word.group(1) in _CONNECTIVES:
        return True
    option = question.options[question.letters.index(letter)]
    return _plain(option).startswith(word.group(1).casefold())


def _mentioned(text: str, question: Question, min_chars: int) -> Iterator[str]:
    """Letters of the options whose text stands in `text`, without those inside a longer option that does, too."""
    haystack = _plain(text)
    spans: dict[str, list[tuple[int, int]]] = {}
    for letter, option in zip(question.letters, map(_plain, question.options), strict=False):
        if len(option) >= min_chars:
            pattern = rf"(?<![\w.]){re.escape(option)}(?!\w|[.,]\d)"
            spans[letter] = [m.span() for m in re.finditer(pattern, haystack)]
    for letter, own in spans.items():
        others = [span for other, found in spans.items() if other != letter for span in found]
        if any(not any(_inside(span, other) for other in others) for span in own):
            yield letter


def _inside(inner: tuple[int, int], outer: tuple[int, int]) -> bool:
    return outer[0] <= inner[0] and inner[1] <= outer[1] and inner != outer


def _plain(text: str) -> str:
    """For comparing: case, blanks, marks at the ends and the forms of signs ("H₂O") make no difference."""
    return _BLANKS.sub(" ", unicodedata.normalize("NFKC", text)).strip(" .*_`\"'").casefold()


def _last(letters: Iterator[str]) -> str:
    found = ""
    for letter in letters:
        found = letter
    return found


def _only(letters: Iterator[str]) -> str:
    distinct = set(letters)
    return distinct.pop() if len(distinct) == 1 else ""
