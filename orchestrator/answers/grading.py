"""Reading answers out of completions, and judging them. Nothing here raises or hangs, whatever a model wrote."""

import functools
import re

from orchestrator.answers import choices, equality
from skills.question import Question

_MAX_CHARS = 40_000
"""Of longer completions the first and the last half of this are read."""
_NEXT_QUESTION = re.compile(r"\n\s{0,8}[*#]{0,4}\s?(?:Question|Q|Problem)\s?\d{0,3}\s?[:.]", re.IGNORECASE)
"""Base models go on with a question of their own: what follows is no longer about ours."""
_MARKED = re.compile(
    r"(?:####|\b(?:final\s+|correct\s+)?answer\s*(?:\*\*)?\s*(?:is|:|=)(?:\s*\*\*)?|\bequals\b)"
    r"[ \t:]*\n?[ \t]*([^\n]{1,400})",
    re.IGNORECASE,
)
_SAYS = re.compile(r"^[^\n.?!]{1,120}?\b(?:is|are|was|were|equals)\s+(?:approximately\s+|about\s+)?([^\n]{1,60})$")
_CALCULATED = re.compile(r"^[\d\s.,()*/+×÷·^%-]+=([^=]+)$")
_NUMBER = re.compile(r"(?<![\w.])[-−]?\$?\d[\d,]*(?:\.\d+)?(?:/\d+)?%?(?![\w])")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
_SENTENCE_WORDS = 4
_SHORT_CHARS = 80
"""A completion, or its last line, of at most this many characters is itself the answer."""


def visible(text: str) -> str:
    """What follows the reasoning: the text after the last `</think>`, never anything inside an open `<think>`.

    Reasoning that was cut off before it ended has nothing visible.
    """
    return text.rpartition("</think>")[2].partition("<think>")[0].strip()


@functools.lru_cache(maxsize=256)
def extract(text: str, question: Question) -> str:
    """The answer that `text` gives to `question`: a letter of its options, else a number, formula or short text.

    "" where none can be read. Never looks at the gold answer. What was read just now is kept: a completion is read
    for the vote, and again for the record.
    """
    shown = _own_part(visible(text))
    if not shown:
        return ""
    if question.options:
        return choices.read(shown, question)
    return _boxed(shown) or _marked(shown) or _unmarked(shown)


def is_correct(answer: str, question: Question) -> bool:
    """Whether a parsed answer is the gold one: the same letter, or the same number, formula or words.

    An empty answer, and any answer to a question without gold, is not correct.
    """
    if not answer or not question.answer:
        return False
    if question.options:
        return answer.strip().upper() == question.answer.strip().upper()
    return equality.matches(answer, question.answer)


def _own_part(text: str) -> str:
    if len(text) > _MAX_CHARS:
        text = f"{text[: _MAX_CHARS // 2]}\n{text[-_MAX_CHARS // 2 :]}"
    first, *_ = _NEXT_QUESTION.split(text, maxsplit=1)
    return first.strip() or text


def _boxed(text: str) -> str:
    r"""What stands in the last `\boxed{…}`, braces balanced."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return ""
    start += len("\\boxed{")
    depth = 1
    for position in range(start, min(len(text), start + 1000)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[start:position].strip()
    return ""


def _marked(text: str) -> str:
    """What follows the last "answer is", "Answer:" or "####"."""
    found = ""
    for match in _MARKED.finditer(text):
        found = _cleaned(_first_sentence(match.group(1))) or found
    return found


def _unmarked(text: str) -> str:
    """A short completion is its own answer; of a long one, what its last sentence ends on, if that is clear."""
    if text.rpartition("\\boxed{")[1]:
        return ""  # cut off inside its answer
    if len(text) <= _SHORT_CHARS and "\n" not in text:
        return _short(text)
    last = [piece for piece in _SENTENCE_END.split(text) if piece.strip()][-1]
    after = last.rpartition("=")[2].strip() if "=" in last else last
    numbers = _NUMBER.findall(after)
    if len(numbers) == 1:
        return _cleaned(numbers[0])
    is_own_line = text.endswith(last) and text[: -len(last)].endswith("\n")
    return _cleaned(last) if is_own_line and len(last) <= _SHORT_CHARS and last[-1] not in "?:" else ""


def _short(text: str) -> str:
    """The answer in one short line: "42", "6 * 7 = 42.", "The capital is Paris.", "The war ended in 1945."."""
    if calculated := _CALCULATED.match(text):
        return _cleaned(calculated.group(1))
    if says := _SAYS.match(text):
        value = _cleaned(says.group(1))
        calculated = _CALCULATED.match(value)
        return _cleaned(calculated.group(1)) if calculated else value
    numbers = _NUMBER.findall(text)
    is_sentence = text.endswith(".") and len(text.split()) >= _SENTENCE_WORDS
    return _cleaned(numbers[0] if is_sentence and len(numbers) == 1 else text)


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[^\d\s])\.\s|(?<=\d)\.\s+(?=\D)", text, maxsplit=1)[0]


def _cleaned(text: str) -> str:
    """Without markdown, quotes, mathematics delimiters and the closing full stop."""
    text = text.strip().strip("*_`\"'“”").strip()
    for opening, closing in (("\\(", "\\)"), ("\\[", "\\]"), ("$$", "$$"), ("$", "$")):
        if text.startswith(opening) and text.rstrip(".").endswith(closing) and len(text) > len(opening) + len(closing):
            text = text.rstrip(".")[len(opening) : -len(closing)]
    return text.strip().rstrip(".").strip("*_`\"'“”").strip()
