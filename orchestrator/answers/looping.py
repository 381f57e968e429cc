"""Completions that repeat one piece over and over: a model that lost its thread does so until it is cut off. Pure."""

import functools

REPEATS_MIN = 8
CHARS_MIN = 80
"""Fewer may be a chorus, or a row of a table."""
_MAX_CHARS = 8_000
"""Of longer texts the end is looked at."""


def is_looping(text: str) -> bool:
    """Whether the last half of `text`, or more of it, is one piece repeated at least `REPEATS_MIN` times.

    Letter for letter, but for blanks: what only resembles a loop, as a list does, is none.
    """
    return _begins_looping(" ".join(text.split())[: -_MAX_CHARS - 1 : -1])


@functools.lru_cache(maxsize=256)
def _begins_looping(backwards: str) -> bool:
    least = max(CHARS_MIN, len(backwards) // 2)
    # Knuth, Morris, Pratt: `border[i]` is the longest start of the first i + 1 characters that is their end, too; what
    # is left of them beside it is their shortest period.
    border = [0] * len(backwards)
    for i in range(1, len(backwards)):
        length = border[i - 1]
        while length and backwards[i] != backwards[length]:
            length = border[length - 1]
        border[i] = length + (backwards[i] == backwards[length])
        if i + 1 >= least and (i + 1 - border[i]) * REPEATS_MIN <= i + 1:
            return True
    return False
