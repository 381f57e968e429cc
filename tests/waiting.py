"""Waiting in tests: by looking, never by sleeping for a guessed time."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
POLL_S = 0.02


def until(look: Callable[[], T], *, timeout_s: float = 10.0) -> T:
    """The first truthy value of `look()`; fails the test after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not (seen := look()):
        assert time.monotonic() < deadline, f"still {seen!r} after {timeout_s} s"
        time.sleep(POLL_S)
    return seen
