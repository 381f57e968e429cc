"""Reasoning is kept out of a stream, however it is cut into pieces."""

import pytest

from orchestrator.online.visible_stream import VisibleStream

THOUGHT = "<think>Hm, 2 < 3 </thin</think>\n\nThe answer is <b>3</b>."


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_reasoning_is_left_out_whatever_the_pieces(size: int) -> None:
    visible = VisibleStream()
    shown = "".join(visible.feed(THOUGHT[start : start + size]) for start in range(0, len(THOUGHT), size))
    assert shown + visible.end() == "The answer is <b>3</b>."


def test_a_text_without_reasoning_passes_as_it_comes() -> None:
    visible = VisibleStream()
    assert [visible.feed(piece) for piece in ("One", " <", "2", "!")] == ["One", " ", "<2", "!"]
    assert visible.end() == ""


def test_what_only_began_like_a_tag_is_shown_at_the_end() -> None:
    visible = VisibleStream()
    assert visible.feed("a <th") == "a "
    assert visible.end() == "<th"


def test_reasoning_that_never_ended_shows_nothing() -> None:
    visible = VisibleStream()
    assert visible.feed("<think>so") + visible.end() == ""
