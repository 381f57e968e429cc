"""What a run fixes at its submission: versions, models, settings. Kept as JSON in `RunRow.pinned`."""

import hashlib
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Stage = Literal["annotate", "generate", "fuse"]


class Baselines(BaseModel):
    """Lines on which every expert of the pool answers, for the report's baselines."""

    model_config = ConfigDict(frozen=True)

    lines: int
    """So many lines, drawn with the run's seed; the run's own number of lines where all are."""
    calls: int
    """What they cost: completions beside those of the run's own recruits."""


class Pinned(BaseModel):
    """Versions and settings of a run. Unknown fields are kept out, missing ones have their defaults."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    lines: int
    """How many instances the run has."""
    seed: int = 0
    models: dict[str, dict[str, Any]] = {}
    """Model key -> `workers.messages.Model` as JSON: all that the run may need."""
    stages: dict[Stage, tuple[str, ...]] = {}
    """Stage -> keys of the models it may need. What the residency plan expects of the run."""
    pool: dict[str, Any] | None = None
    """`pool.pins(pool)`: experts, profiles and question set. None for a profile run."""
    k: int = 0
    strategy: str = ""
    fusion: str = ""
    annotation: str = ""
    annotator: str | None = None
    """The expert that names skills, where annotation is by LLM."""
    aggregator: str | None = None
    """The expert that was asked for as aggregator; None: chosen by the aggregator test."""
    best_single: str | None = None
    """The best single expert by its profile: chosen without a look at the run's lines."""
    baselines: Baselines | None = None
    planned_loads: int | None = None
    """Loads that one worker with room for one model needs, starting empty."""
    expert_id: int | None = None
    """Only for a profile run: the expert version that is profiled."""
    question_set_id: int | None = None
    """Only for profile and aggregator runs."""
    items: dict[str, list[dict[str, Any]]] = {}
    """Only for an aggregator test: custom id -> the completions to merge."""
    prompts: str = ""
    """`prompts.digest()` at submission; "" for runs of before it was pinned."""
    natural: dict[str, dict[str, Any]] = {}
    """Only for an aggregator test: custom id -> recruits and what they had answered (`stored.item_json`), to merge."""


def seed_for(*parts: object) -> int:
    """A seed of 31 bits for these parts: the same parts, the same seed, on every machine."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") & 0x7FFFFFFF
