"""Recorded answers of real LLMs: a folder with questions.parquet, outputs.parquet and pools.json, read with care."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from orchestrator import prompts
from skills.evidence import Floats
from skills.question import Question

_QUESTIONS = {"id": None, "split": pl.String, "question": pl.String, "gold": pl.String}
_OUTPUTS = {"id": None, "expert": pl.String, "answer": pl.String}


class RecordedError(ValueError):
    """The folder cannot be used. One line: which file, which column or key, and what is wrong with it."""


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """n questions and what m experts answered to them."""

    folder: Path
    questions: tuple[Question, ...]
    splits: tuple[str, ...]
    """n names."""
    experts: tuple[str, ...]
    """m names: the pool's, in its order."""
    answers: tuple[tuple[str | None, ...], ...] = field(repr=False)
    """n rows of m: "" where none could be read, None where the expert was never asked."""
    texts: tuple[tuple[str | None, ...], ...] = field(repr=False)

    def rows(self, splits: Sequence[str], option: str) -> list[int]:
        """The questions of these splits. Raises `RecordedError` naming the command's option where there are none."""
        for split in splits:
            if split not in self.splits:
                known = ", ".join(sorted(set(self.splits)))
                path = self.folder / "questions.parquet"
                raise RecordedError(f"{path}: column 'split' has no {split!r} ({option}); it has {known}")
        return [row for row, split in enumerate(self.splits) if split in splits]

    def correct(self, rows: Sequence[int]) -> Floats:
        """(rows, m) 1 where the answer is the gold one as given, 0 where not, NaN where the expert was never asked."""
        found = np.full((len(rows), len(self.experts)), np.nan, np.float32)
        for place, row in enumerate(rows):
            gold = self.questions[row].answer
            for column, answer in enumerate(self.answers[row]):
                if answer is not None:
                    found[place, column] = answer == gold
        return found

    def tokens(self, rows: Sequence[int]) -> Floats | None:
        """(rows, m) tokens of completions, by their texts' lengths, NaN where there is no text; None: nowhere any."""
        found = np.full((len(rows), len(self.experts)), np.nan, np.float32)
        for place, row in enumerate(rows):
            for column, text in enumerate(self.texts[row]):
                if text is not None:
                    found[place, column] = len(text) / prompts.CHARS_PER_TOKEN
        return None if np.isnan(found).all() else found


def read(folder: Path, *, pool: str) -> Recorded:
    """The folder's questions and the answers of the experts of `pool`. Raises `RecordedError`."""
    questions = _table(folder / "questions.parquet", _QUESTIONS)
    outputs = _table(folder / "outputs.parquet", _OUTPUTS)
    experts = _pool(folder / "pools.json", pool, outputs)
    _check_ids(folder, questions, outputs)
    places = {str(each): row for row, each in enumerate(questions["id"].to_list())}
    columns = {name: column for column, name in enumerate(experts)}
    answers: list[list[str | None]] = [[None] * len(experts) for _ in places]
    texts: list[list[str | None]] = [[None] * len(experts) for _ in places]
    said = outputs["text"] if "text" in outputs.columns else pl.Series([None] * outputs.height)
    rows = zip(outputs["id"].to_list(), outputs["expert"].to_list(), outputs["answer"].to_list(), said, strict=True)
    for each, expert, answer, text in rows:
        if expert in columns:
            place, column = places[str(each)], columns[expert]
            if answers[place][column] is not None:
                path = folder / "outputs.parquet"
                raise RecordedError(f"{path}: columns 'id' and 'expert': {expert} answered {each} more than once")
            answers[place][column], texts[place][column] = (answer or "").strip(), text
    return Recorded(
        folder=folder,
        questions=tuple(_question(row) for row in questions.iter_rows(named=True)),
        splits=tuple(questions["split"].to_list()),
        experts=experts,
        answers=tuple(map(tuple, answers)),
        texts=tuple(map(tuple, texts)),
    )


def _table(path: Path, wanted: dict[str, Any]) -> pl.DataFrame:
    if not path.is_file():
        raise RecordedError(f"{path}: there is no such file")
    try:
        table = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise RecordedError(f"{path}: cannot be read as parquet ({str(error).splitlines()[0]})") from None
    for name, kind in wanted.items():
        if name not in table.columns:
            raise RecordedError(f"{path}: column {name!r} is missing; it has {', '.join(table.columns)}")
        if kind is not None and table[name].dtype != kind:
            raise RecordedError(f"{path}: column {name!r} holds {table[name].dtype}, not text")
        if name != "answer" and table[name].null_count():
            raise RecordedError(f"{path}: column {name!r} is empty in {table[name].null_count()} rows")
    if table.is_empty():
        raise RecordedError(f"{path}: has no rows")
    for name in ("skills", "options"):
        if name in table.columns and table[name].dtype not in (pl.List(pl.String), pl.List(pl.Null), pl.Null):
            raise RecordedError(f"{path}: column {name!r} holds {table[name].dtype}, not lists of text")
    return table


def _pool(path: Path, pool: str, outputs: pl.DataFrame) -> tuple[str, ...]:
    if not path.is_file():
        raise RecordedError(f"{path}: there is no such file")
    try:
        pools = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise RecordedError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(pools, dict) or pool not in pools:
        known = ", ".join(map(str, pools)) if isinstance(pools, dict) else "no object at all"
        raise RecordedError(f"{path}: has no pool {pool!r}; it has {known}")
    experts = pools[pool]
    if not isinstance(experts, list) or not experts or not all(isinstance(name, str) for name in experts):
        raise RecordedError(f"{path}: pool {pool!r} is not a list of experts' names")
    if len(set(experts)) < len(experts):
        raise RecordedError(f"{path}: pool {pool!r} names an expert twice")
    known_experts = set(outputs["expert"].unique().to_list())
    for name in experts:
        if name not in known_experts:
            outputs_path = path.with_name("outputs.parquet")
            raise RecordedError(f"{outputs_path}: column 'expert' has no {name!r}, which pool {pool!r} of {path} names")
    return tuple(experts)


def _check_ids(folder: Path, questions: pl.DataFrame, outputs: pl.DataFrame) -> None:
    ids = questions["id"].cast(pl.String)
    if ids.n_unique() < len(ids):
        twice = ids.filter(ids.is_duplicated())[0]
        raise RecordedError(f"{folder / 'questions.parquet'}: column 'id' has {twice} more than once")
    strangers = set(outputs["id"].cast(pl.String).unique().to_list()) - set(ids.to_list())
    if strangers:
        path = folder / "outputs.parquet"
        raise RecordedError(
            f"{path}: column 'id' has {len(strangers)} ids that questions.parquet has not, {min(strangers)} for one"
        )


def _question(row: dict[str, Any]) -> Question:
    return Question(
        id=str(row["id"]),
        text=row["question"],
        options=tuple(row.get("options") or ()),
        answer=row["gold"].strip(),
        category=row.get("category"),
        skills=tuple(row.get("skills") or ()),
    )
