import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from orchestrator.replay import recorded
from orchestrator.replay.recorded import RecordedError
from tests.unit.orchestrator import recorded_folder
from tests.unit.orchestrator.made_up import SPECIALISTS

SPLITS = {"train": 12, "test": 8}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return recorded_folder.write(tmp_path / "recorded", SPECIALISTS, splits=SPLITS)


def test_questions_answers_and_texts_are_read(folder: Path) -> None:
    found = recorded.read(folder, pool="P")
    assert found.experts == SPECIALISTS.experts
    rows = found.rows(["test"], "--test-split")
    assert [found.questions[row].id for row in rows] == [question.id for question in SPECIALISTS.questions(8, salt=1)]
    answers = SPECIALISTS.answers(SPECIALISTS.questions(8, salt=1), salt=1)
    assert [found.answers[row] for row in rows] == answers
    assert found.questions[0].skills == ("algebra",)
    assert found.texts[0][0] is not None


def test_optional_columns_may_be_null_or_missing(tmp_path: Path) -> None:
    folder = recorded_folder.write(tmp_path, SPECIALISTS, splits=SPLITS, options=False, skills=False, text=False)
    assert recorded.read(folder, pool="P").questions[0].options == ()
    for name, gone in {"questions": ["options", "skills", "category"], "outputs": ["text"]}.items():
        path = folder / f"{name}.parquet"
        recorded_folder.change(path, pl.read_parquet(path).drop(gone))
    found = recorded.read(folder, pool="P")
    assert found.questions[0].category is None
    assert found.texts[0] == (None,) * 4


def test_an_expert_that_was_not_asked_is_neither_right_nor_wrong(folder: Path) -> None:
    path = folder / "outputs.parquet"
    recorded_folder.change(path, pl.read_parquet(path)[1:])
    found = recorded.read(folder, pool="P")
    assert found.answers[0][0] is None
    assert np.isnan(found.correct([0])[0]).tolist() == [True, False, False, False]


def drop(name: str, column: str, folder: Path) -> None:
    path = folder / f"{name}.parquet"
    recorded_folder.change(path, pl.read_parquet(path).drop(column))


@pytest.mark.parametrize(("name", "column"), [("questions", "gold"), ("questions", "split"), ("outputs", "answer")])
def test_a_missing_column_is_named_with_its_file(folder: Path, name: str, column: str) -> None:
    drop(name, column, folder)
    with pytest.raises(RecordedError, match=rf"{name}\.parquet: column '{column}' is missing"):
        recorded.read(folder, pool="P")


def test_an_expert_without_answers_is_named(folder: Path) -> None:
    (folder / "pools.json").write_text(json.dumps({"P": ["mathy", "ghost"]}))
    with pytest.raises(RecordedError, match=r"outputs\.parquet: column 'expert' has no 'ghost'"):
        recorded.read(folder, pool="P")


def test_an_unknown_pool_is_named_beside_those_there_are(folder: Path) -> None:
    with pytest.raises(RecordedError, match=r"pools\.json: has no pool 'Q'; it has P"):
        recorded.read(folder, pool="Q")


def test_answers_without_questions_are_refused(folder: Path) -> None:
    path = folder / "questions.parquet"
    recorded_folder.change(path, pl.read_parquet(path)[1:])
    with pytest.raises(RecordedError, match=r"outputs\.parquet: column 'id' has 1 ids that questions\.parquet has not"):
        recorded.read(folder, pool="P")


def test_a_split_without_questions_is_named_with_the_option(folder: Path) -> None:
    with pytest.raises(RecordedError, match=r"column 'split' has no 'dev' \(--test-split\); it has test, train"):
        recorded.read(folder, pool="P").rows(["dev"], "--test-split")


@pytest.mark.parametrize("name", ["questions.parquet", "outputs.parquet", "pools.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(RecordedError, match=f"{name}: there is no such file"):
        recorded.read(folder, pool="P")


def test_a_file_that_is_no_parquet_is_named(folder: Path) -> None:
    (folder / "outputs.parquet").write_text("id,expert")
    with pytest.raises(RecordedError, match=r"outputs\.parquet: cannot be read as parquet"):
        recorded.read(folder, pool="P")


def test_every_complaint_is_one_line(folder: Path) -> None:
    (folder / "pools.json").write_text("{\n\n")
    with pytest.raises(RecordedError) as raised:
        recorded.read(folder, pool="P")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["questions", "outputs"])
def test_what_is_there_twice_is_refused(folder: Path, name: str) -> None:
    path = folder / f"{name}.parquet"
    table = pl.read_parquet(path)
    recorded_folder.change(path, pl.concat([table, table[:1]]))
    with pytest.raises(RecordedError, match=r"more than once"):
        recorded.read(folder, pool="P")
