"""Reads a multiple-choice question that somebody typed into a chat, so that experts' letters can be voted on.

Careful on purpose: a list that merely looks like options ("A. Smith and B. Jones wrote …") must stay text. Options
are read only where the letters run A, B, C … without gap or repeat, each opening a line (or, on one line, each in
brackets or followed by a bracket), and nothing but a short instruction follows them.
"""

import hashlib
import re

from skills.question import LETTERS, Question

MIN_OPTIONS = 2
MAX_OPTIONS = 12
MAX_INSTRUCTION_CHARS = 160
"""What may follow the options: "Answer with the letter only."; anything longer is part of the question."""

_LINE = re.compile(r"^[ \t>*_-]{0,4}[(\[]?(?P<letter>[A-L])(?P<mark>[.):\]])[*_]{0,2}[ \t]+(?=\S)", re.MULTILINE)
"""An option that opens a line: "A. …", "A) …", "(A) …", "- A: …"."""
_INLINE = re.compile(r"(?:(?<=\s)|^)(?:\((?P<letter>[A-L])\)|(?P<bare>[A-L])\))[ \t]+(?=\S)", re.MULTILINE)
"""Options on one line: "(A) …  (B) …" or "A) … B) …"; "A. …" is too common in running text."""
_BLANK_LINE = re.compile(r"\n[ \t]*\n")
_INSTRUCTION = re.compile(
    r"\b(answer|reply|respond|choose|select|pick|explain|think|give|state|only|letter|option)\b", re.IGNORECASE
)


def read(text: str) -> Question:
    """The question as typed; with `options` where it surely is multiple choice. Its id is a hash of the text."""
    question_id = hashlib.sha256(text.encode()).hexdigest()[:16]
    for pattern in (_LINE, _INLINE):
        if found := _split(text, pattern):
            stem, options = found
            return Question(id=question_id, text=stem, options=options)
    return Question(id=question_id, text=text.strip())


def _split(text: str, pattern: re.Pattern[str]) -> tuple[str, tuple[str, ...]] | None:
    """(what is asked, its options), or None."""
    marks = list(pattern.finditer(text))
    letters = "".join(mark["letter"] or mark["bare"] for mark in marks) if pattern is _INLINE else _letters(marks)
    if not MIN_OPTIONS <= len(marks) <= MAX_OPTIONS or letters != LETTERS[: len(marks)]:
        return None
    if pattern is _LINE and len({mark["mark"] for mark in marks}) > 1:
        return None
    stem = text[: marks[0].start()].strip()
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    options = [text[mark.end() : end].strip() for mark, end in zip(marks, ends, strict=True)]
    options[-1], instruction = _without_instruction(options[-1])
    if not stem or not all(options) or len(set(options)) < len(options):
        return None
    if len(instruction) > MAX_INSTRUCTION_CHARS or (instruction and not _INSTRUCTION.search(instruction)):
        return None
    return "\n".join(filter(None, [stem, instruction])), tuple(" ".join(option.split()) for option in options)


def _letters(marks: list[re.Match[str]]) -> str:
    return "".join(mark["letter"] for mark in marks)


def _without_instruction(option: str) -> tuple[str, str]:
    """The last option, and what follows it: after a blank line, or on a line of its own that instructs."""
    if blank := _BLANK_LINE.search(option):
        return option[: blank.start()].strip(), option[blank.end() :].strip()
    head, newline, last = option.rpartition("\n")
    if newline and _INSTRUCTION.search(last):
        return head.strip(), last.strip()
    return option, ""
