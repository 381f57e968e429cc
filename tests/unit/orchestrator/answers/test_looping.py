"""Telling a completion that repeats itself from one that is merely long, or cut off."""

import pytest

from orchestrator.answers.looping import is_looping


@pytest.mark.parametrize(
    "text",
    [
        "and so on " * 20,
        "and so on " * 20 + "and s",
        "First, we note the following. " + "We have to find x. We have to find y. " * 9,
        "na" * 50,
        "0" * 200,
        "step one\n\nstep two\n" * 10,
        "Let me think. " * 2_000,
    ],
)
def test_a_piece_repeated_to_the_end_is_a_loop(text: str) -> None:
    assert is_looping(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no no no no no no no no",
        "It all began a long time ago, in a land by the sea, where nobody had ever seen a ship before that day.",
        "".join(f"{i}. We have to find x{i}. " for i in range(40)),
        "and so on " * 20 + "but then it went on, and the story came to its end after all. " * 4,
        "A long and sensible text, of many words, comes before it, and no more than that can be said of it here. "
        + "ha" * 45,
        "\n".join(f"| {i} | {i * i} | {i**3} |" for i in range(60)),
    ],
)
def test_what_only_resembles_a_loop_is_none(text: str) -> None:
    assert not is_looping(text)
