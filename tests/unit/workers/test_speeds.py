"""Speeds found again from windows of work."""

import random

import pytest

from workers.speeds import Speeds

PREFILL, DECODE = 4000.0, 250.0


def work(speeds: Speeds, windows: list[tuple[int, int]], *, noise: float = 0.0, full: float = 1.0) -> None:
    """Windows of (prompt, completion) tokens; `full`: the part of their time in which the batch was full."""
    drawn = random.Random(1)
    prompt = completion = 0
    busy_s = 0.0
    for prompts, completions in windows:
        prompt, completion = prompt + prompts, completion + completions
        busy_s += (prompts / PREFILL + completions / DECODE) * (1 + noise * drawn.uniform(-1, 1))
        speeds.at(prompt, completion, busy_s, full * busy_s)


def test_windows_of_different_mixtures_tell_prompts_from_completions() -> None:
    speeds = Speeds()
    drawn = random.Random(2)
    work(speeds, [(drawn.randrange(3000), drawn.randrange(250)) for _ in range(100)], noise=0.1)
    assert speeds.speed is not None
    assert speeds.speed.prefill_tps == pytest.approx(PREFILL, rel=0.15)
    assert speeds.speed.decode_tps == pytest.approx(DECODE, rel=0.15)


def test_one_mixture_gives_the_right_sum() -> None:
    speeds = Speeds()
    work(speeds, [(1000, 200)] * 50)
    speed = speeds.speed
    assert speed is not None
    assert 1000 / speed.prefill_tps + 200 / speed.decode_tps == pytest.approx(1000 / PREFILL + 200 / DECODE, rel=0.02)


def test_nothing_is_known_before_there_was_work() -> None:
    speeds = Speeds()
    speeds.begin(0, 0, 10.0, 10.0)
    assert not speeds.at(0, 0, 11.0, 11.0)
    speeds.begin(0, 0, 11.0, 11.0)
    assert not speeds.at(100, 10, 11.1, 11.1)
    assert speeds.speed is None


def test_single_queries_say_nothing_of_a_full_batch() -> None:
    speeds = Speeds()
    work(speeds, [(100, 42)] * 10, full=0.0)
    speeds.answered(42, 1.0, online=True)
    assert speeds.speed is not None
    assert (speeds.speed.prefill_tps, speeds.speed.decode_tps) == (0.0, 0.0)
    assert speeds.speed.query_tps == pytest.approx(42)
    speeds.begin(0, 0, 0.0, 0.0)
    work(speeds, [(1000, 200)] * 50, full=0.95)
    window_s = 1000 / speeds.speed.prefill_tps + 200 / speeds.speed.decode_tps
    assert window_s == pytest.approx(1000 / PREFILL + 200 / DECODE, rel=0.02)


def test_the_pace_of_one_answer_is_kept_beside() -> None:
    speeds = Speeds()
    work(speeds, [(100, 200)])
    speeds.answered(20, 2.0, online=False)
    assert speeds.speed is not None
    assert speeds.speed.answer_tps == pytest.approx(10.0)


def test_a_completions_token_is_never_cheaper_than_a_prompts() -> None:
    speeds = Speeds()
    for prompt, completion, busy_s in ((1000, 10, 5.0), (1010, 1000, 5.5), (3000, 1100, 15.5)):
        speeds.at(prompt, completion, busy_s, busy_s)
    speed = speeds.speed
    assert speed is not None
    assert speed.decode_tps == speed.prefill_tps
