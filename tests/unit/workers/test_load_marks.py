"""Marks that a load leaves when its worker is killed."""

from pathlib import Path

from workers.load_marks import LoadMarks


def test_a_mark_is_there_while_its_model_loads_and_no_longer(tmp_path: Path) -> None:
    marks = LoadMarks(tmp_path, "w")
    with marks.mark("a"):
        assert [path.name for path in tmp_path.rglob("loading/*")] == ["a"]
    assert LoadMarks(tmp_path, "w").take_left() == ()


def test_the_marks_of_a_former_life_are_taken_once_by_the_worker_of_that_name(tmp_path: Path) -> None:
    killed, marks = LoadMarks(tmp_path, "w"), LoadMarks(tmp_path, "w")
    with killed.mark("b"), killed.mark("a"):
        assert LoadMarks(tmp_path, "other").take_left() == ()
        assert marks.take_left() == ("a", "b")
        assert marks.take_left() == ()


def test_a_worker_that_was_told_to_end_leaves_no_marks(tmp_path: Path) -> None:
    marks = LoadMarks(tmp_path, "w")
    with marks.mark("a"):
        marks.close()
        with marks.mark("b"):
            assert LoadMarks(tmp_path, "w").take_left() == ()


def test_a_mark_that_stays_is_not_told(tmp_path: Path) -> None:
    (tmp_path / "workers/w/loading/a").mkdir(parents=True)  # what unlink refuses, whoever asks
    assert LoadMarks(tmp_path, "w").take_left() == ()


def test_without_a_disk_loads_go_unmarked(tmp_path: Path) -> None:
    (tmp_path / "workers").write_text("no folder")
    with LoadMarks(tmp_path, "w").mark("a"):
        assert LoadMarks(tmp_path, "w").take_left() == ()
