"""Benchmarks in a folder."""

from pathlib import Path

import pytest

from orchestrator.pool import question_sets
from orchestrator.runs import named
from orchestrator.settings import PROJECT_DIR, Settings


def test_a_file_in_the_folder_is_a_benchmark_and_nothing_outside_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "sets"
    folder.mkdir()
    line = '{"id": "q", "question": "Why?", "answer": "So."}\n'
    for place in (folder / "mine.jsonl", tmp_path / "secret.jsonl"):
        place.write_text(line)
    settings = Settings(benchmarks_dir=folder)
    questions = named.read(settings, "mine")
    assert questions is not None
    assert [question.id for question in questions] == ["q"]
    assert named.names(settings) == ["mine"]
    for name in ("../secret", "secret", "mine.jsonl", "", "a/b"):
        assert named.read(settings, name) is None


def test_a_wrong_line_is_told_by_its_number(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"id": "q", "question": "Why?"}\n')
    with pytest.raises(question_sets.BadQuestionSet, match="line 1"):
        named.read(Settings(benchmarks_dir=tmp_path), "bad")


def test_the_benchmark_that_ships_holds_none_of_the_questions_that_experts_are_profiled_on() -> None:
    shipped = named.read(Settings(benchmarks_dir=PROJECT_DIR / "benchmarks" / "sets"), "muster-check")
    with (question_sets.SHIPPED_DIR / "muster-basics.jsonl").open(encoding="utf-8") as lines:
        basics = question_sets.parse(lines)
    assert shipped is not None
    assert not {each.text.lower() for each in shipped} & {each.text.lower() for each in basics}
    assert {each.category for each in shipped} == {each.category for each in basics}
