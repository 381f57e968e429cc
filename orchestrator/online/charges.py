"""What an answer cost in seconds: of devices, and of loading."""

from collections.abc import Iterable
from typing import Any

from workers.messages import Completion


def charges(asked: Iterable[tuple[str, Completion]]) -> dict[str, Any]:
    """Device and load seconds that (expert, completion) pairs were charged, together and for each expert."""
    per_expert: dict[str, dict[str, float]] = {}
    for expert, completion in asked:
        sums = per_expert.setdefault(expert, {"device_s": 0.0, "load_s": 0.0})
        sums["device_s"] += completion.device_s
        sums["load_s"] += completion.load_s
    return {
        **{name: round(sum(each[name] for each in per_expert.values()), 6) for name in ("device_s", "load_s")},
        "per_expert": {
            expert: {name: round(seconds, 6) for name, seconds in sums.items()} for expert, sums in per_expert.items()
        },
    }
