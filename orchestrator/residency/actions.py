"""What a plan asks for."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Send:
    """Send chunks of a model's waiting units to a worker. `alone`: one chunk of suspects."""

    worker: str
    model_key: str
    chunks: int = 1
    units: int | None = None
    """Units per chunk at most; None: as many as a chunk may have."""
    alone: bool = False
    stay_s: float = field(default=0.0, compare=False)
    """How long the worker will probably stay with the model."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """Make a model resident: online requests wait for it, or work is about to come for it."""

    worker: str
    model_key: str


@dataclass(frozen=True, kw_only=True)
class Prefetch:
    """A hint: this worker's next model, while it still works with the present one. Asks for no memory of the device."""

    worker: str
    model_key: str


Action = Send | Load | Prefetch
