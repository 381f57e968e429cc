"""The least number of loads: what a plan is held to."""

from collections.abc import Sequence


def fewest_loads(stages: Sequence[frozenset[str]], *, resident: str | None = None) -> int:
    """How many loads one worker with room for one model needs at least, when each stage follows the one before.

    `stages` are the models of each stage, in order. The last model of a stage can be the first of the next.
    """
    loads = 0
    last = frozenset([resident]) if resident else frozenset[str]()
    for models in stages:
        if not models:
            continue
        shared = models & last
        loads += len(models) - bool(shared)
        # Any model of this stage can come last, but the one it began with, unless it is the only one.
        last = models - shared if len(shared) == 1 and len(models) > 1 else models
    return loads
