"""A question, as every part of Muster sees it."""

import string
from dataclasses import dataclass

LETTERS = string.ascii_uppercase


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question, labelled (with `answer`) or not."""

    id: str
    text: str
    options: tuple[str, ...] = ()
    """Choices, in order; the first is A. Empty: a free-form question."""
    answer: str | None = None
    """The gold answer: a letter where there are options, else the text, number or formula itself."""
    category: str | None = None
    skills: tuple[str, ...] = ()
    """Skills annotated beforehand, if any."""

    @property
    def letters(self) -> str:
        """The letters that name the options: "ABCD" for four; "" for a free-form question."""
        return LETTERS[: len(self.options)]

    def rendered(self) -> str:
        """The question with its options below it, one a line, as experts and annotators read it."""
        if not self.options:
            return self.text
        lines = (f"{letter}. {option}" for letter, option in zip(self.letters, self.options, strict=True))
        return "\n".join([self.text, *lines])
