"""Naming the skills a question needs, by asking an LLM several times and keeping what it says at least twice.

Imports no LLM: `messages` is what to ask, `parse` reads one sample, `vote` makes one list of all samples.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import TypedDict

MAX_SKILL_CHARS = 20
"""Longer keywords are dropped, as in the paper: they describe the question and would match nothing else."""
MAX_SKILLS = 5
SAMPLES = 5
MIN_VOTES = 2
_MAX_QUESTION_CHARS = 4000
_MAX_SAMPLE_CHARS = 4000
_MAX_WORDS = 3
_BULLET = re.compile(r"^[\s>*#•–-]*(?:\d{1,2}[.)]\s*)?[\s*_]*")
_LABEL = re.compile(r"^[^:\n]{0,80}:(?!\S)\s*")
_SEPARATOR = re.compile(r"[,;|\n•]|\s/\s|\s-\s|\band\b(?=[^,;]*$)")
_EDGE = " \t.*_`\"'()[]{}<>#“”‘’"
_SYSTEM = "You name the skills that a question needs. You never answer the question."
_REQUEST = (
    "Name 2 to 5 skills that someone needs to answer the question below. Each is a short, general field or ability of "
    f"at most {MAX_SKILL_CHARS} characters, such as: algebra, organic chemistry, world history, grammar.\n"
    "Reply with one line, the skills separated by commas, and nothing else.\n\nQuestion:\n{question}\n\nSkills:"
)


class Message(TypedDict):
    """A chat message; workers' `ChatMessage` has the same fields."""

    role: str
    content: str


def messages(question: str) -> list[Message]:
    """What to ask an LLM about `question`, a few times over at a temperature of about 0.7."""
    request = _REQUEST.replace("{question}", question[:_MAX_QUESTION_CHARS])
    return [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": request}]


def parse(text: str) -> tuple[str, ...]:
    """The skills named in one sample: in lower case, distinct, short ones only, at most five."""
    shown = text.rpartition("</think>")[2].partition("<think>")[0][:_MAX_SAMPLE_CHARS]
    found: dict[str, None] = {}
    for line in shown.splitlines():
        content = _LABEL.sub("", _BULLET.sub("", line))
        for piece in _SEPARATOR.split(content):
            skill = " ".join(_BULLET.sub("", piece).strip(_EDGE).casefold().split())
            if _is_skill(skill):
                found[skill] = None
    return tuple(found)[:MAX_SKILLS]


def vote(samples: Sequence[Sequence[str]], min_votes: int = MIN_VOTES) -> tuple[str, ...]:
    """The skills that at least `min_votes` samples name, most named first; a sample names a skill once."""
    votes = Counter(skill for sample in samples for skill in dict.fromkeys(sample))
    return tuple(skill for skill, count in votes.most_common() if count >= min_votes)[:MAX_SKILLS]


def _is_skill(text: str) -> bool:
    has_letter = any(char.isalpha() for char in text)
    return has_letter and 2 <= len(text) <= MAX_SKILL_CHARS and len(text.split()) <= _MAX_WORDS
