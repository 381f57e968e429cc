"""A recorded folder made up on the spot."""

import json
from pathlib import Path
from typing import Any

import polars as pl

from tests.unit.orchestrator.made_up import World

POOL = "P"


def write(folder: Path, world: World, *, splits: dict[str, int], **bare: bool) -> Path:
    """Questions of `world` by split, with everybody's answers. `options=False` …: leave the column null."""
    folder.mkdir(parents=True, exist_ok=True)
    questions: list[dict[str, Any]] = []
    outputs: list[dict[str, Any]] = []
    for salt, (split, n) in enumerate(splits.items()):
        made = world.questions(n, salt=salt)
        for question, row in zip(made, world.answers(made, salt=salt), strict=True):
            questions.append(
                {
                    "id": question.id,
                    "split": split,
                    "category": question.category,
                    "question": question.text,
                    "options": list(question.options) if question.options and bare.get("options", True) else None,
                    "gold": question.answer,
                    "skills": [question.category] if bare.get("skills", True) else None,
                }
            )
            for expert, answer in zip(world.experts, row, strict=True):
                text = f"The answer is ({answer})." if bare.get("text", True) else None
                outputs.append({"id": question.id, "expert": expert, "answer": answer, "text": text})
    lists = {"options": pl.List(pl.String), "skills": pl.List(pl.String)}
    pl.DataFrame(questions, schema_overrides=lists).write_parquet(folder / "questions.parquet")
    pl.DataFrame(outputs, schema_overrides={"text": pl.String}).write_parquet(folder / "outputs.parquet")
    (folder / "pools.json").write_text(json.dumps({POOL: list(world.experts)}))
    return folder


def change(path: Path, table: pl.DataFrame) -> None:
    table.write_parquet(path)
