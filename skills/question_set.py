"""Question sets as JSONL: `{"id", "question", "options"?, "answer", "category"?, "skills"?}`, one a line."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from skills.question import LETTERS, Question

MAX_ID_CHARS = 200
MAX_TEXT_CHARS = 100_000


class QuestionSetError(ValueError):
    """A line that is no labelled question. `line` counts from 1."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(f"line {line}: {message}")
        self.line = line
        self.message = message


def parse(lines: Iterable[str]) -> list[Question]:
    """The questions, in order; blank lines are skipped and unknown fields ignored.

    With options, the answer may be given as a letter or as the text of an option; it becomes the letter.
    Raises `QuestionSetError` for the first line that is wrong.
    """
    questions: list[Question] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        text = line.removeprefix("\ufeff").strip() if number == 1 else line.strip()
        if not text:
            continue
        try:
            question = _question(_object(text))
        except ValueError as error:
            raise QuestionSetError(number, str(error)) from None
        if question.id in seen:
            raise QuestionSetError(number, f"the id {question.id!r} stands in line {seen[question.id]}, too")
        seen[question.id] = number
        questions.append(question)
    return questions


def _object(line: str) -> Mapping[str, Any]:
    try:
        value = json.loads(line)
        if "\\ud" in line.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("it holds half a surrogate pair, which is no text: write the character itself") from None
    except (json.JSONDecodeError, RecursionError) as error:
        where = f" (column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        raise ValueError(f"this is not JSON{where}") from None
    if not isinstance(value, dict):
        raise ValueError('a line must be an object like {"id": …, "question": …, "answer": …}')
    return value


def _question(fields: Mapping[str, Any]) -> Question:
    options = _strings(fields, "options")
    if options and not 2 <= len(options) <= len(LETTERS):
        raise ValueError(f"`options` must hold 2 to {len(LETTERS)} choices, not {len(options)}")
    if len(set(options)) < len(options):
        raise ValueError("two of the `options` are the same")
    category = fields.get("category")
    if category is not None and not isinstance(category, str):
        raise ValueError("`category` must be a string")
    return Question(
        id=_text(fields, "id", MAX_ID_CHARS),
        text=_text(fields, "question", MAX_TEXT_CHARS),
        options=options,
        answer=_answer(fields, options),
        category=category or None,
        skills=_strings(fields, "skills"),
    )


def _answer(fields: Mapping[str, Any], options: tuple[str, ...]) -> str:
    answer = _text(fields, "answer", MAX_TEXT_CHARS)
    if not options:
        return answer
    letters = LETTERS[: len(options)]
    if answer in options:
        return letters[options.index(answer)]
    if len(answer) == 1 and answer.upper() in letters:
        return answer.upper()
    raise ValueError(f"`answer` must be a letter from A to {letters[-1]}, or one of the options, not {answer[:40]!r}")


def _text(fields: Mapping[str, Any], name: str, max_chars: int) -> str:
    """A non-empty string; a number is taken as it is written."""
    value = fields.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if value is None:
        raise ValueError(f"`{name}` is missing")
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"`{name}` must be a string with something in it")
    if "\0" in value:
        raise ValueError(f"`{name}` holds a NUL character")
    if len(value) > max_chars:
        raise ValueError(f"`{name}` has {len(value)} characters; {max_chars} are the most")
    return value.strip()


def _strings(fields: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = fields.get(name)
    if value is None:
        return ()
    if not isinstance(value, list):
        raise ValueError(f"`{name}` must be a list of strings")
    return tuple(_text({f"{name}[{n}]": each}, f"{name}[{n}]", MAX_TEXT_CHARS) for n, each in enumerate(value))
