"""Who may be recruited, and drawing from them: what every strategy needs."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from orchestrator.recruiting.values import NoExperts
from skills.evidence import Evidence

Columns = npt.NDArray[np.intp]


def columns(evidence: Evidence, experts: Sequence[str] | None) -> Columns:
    """The evidence's columns of the experts that may be recruited, in the evidence's order. Raises `NoExperts`."""
    if not evidence.experts:
        raise NoExperts(
            "no expert is live: add one to experts.toml, or see `muster experts list` for what holds them up"
        )
    wanted = None if experts is None else set(experts)
    found = [column for column, name in enumerate(evidence.experts) if wanted is None or name in wanted]
    if not found:
        raise NoExperts(f"none of these experts is live: {', '.join(experts or ()) or '(none named)'}")
    return np.array(found, np.intp)


def generator(seed: int) -> np.random.Generator:
    """Any integer seeds one, negative ones too."""
    return np.random.default_rng(seed % 2**64)


def draw(weights: npt.NDArray[np.floating], k: int, seeds: Sequence[int]) -> npt.NDArray[np.intp]:
    """(a, k) columns drawn without replacement in proportion to the rows of `weights` (a, m), all positive.

    By exponential races (Efraimidis and Spirakis 2006): the smallest of Exp(1)/weight wins, which is the same as
    drawing one after another among those left.
    """
    races = np.stack([generator(seed).exponential(size=weights.shape[1]) for seed in seeds])
    return np.argsort(races / weights, axis=1, kind="stable")[:, :k]


def check(k: int, asks: Sequence[object], seeds: Sequence[int]) -> None:
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    if len(asks) != len(seeds):
        raise ValueError(f"one seed per ask: {len(seeds)} seeds for {len(asks)} asks")
