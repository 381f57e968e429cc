"""A batch's completion window: "24h" as OpenAI has it, or any other whole number of s, m, h or d."""

import re

_WINDOW = re.compile(r"([1-9]\d{0,8})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
MAX_S = 30 * 86400


def seconds(window: str) -> int | None:
    """How long it is; None if it is no window, or longer than 30 days."""
    found = _WINDOW.fullmatch(window)
    if found is None:
        return None
    length_s = int(found[1]) * _SECONDS[found[2]]
    return length_s if length_s <= MAX_S else None
