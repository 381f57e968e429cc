"""A worker as the plan sees it: what it can run, what it has in memory, what is out at it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property


@dataclass(frozen=True, kw_only=True)
class Worker:
    """A worker that is alive, with its window. It owns one device, or a group that runs one model in parallel."""

    name: str
    engines: tuple[str, ...]
    window: int
    """Chunks it may hold."""
    devices: int = 1
    """Devices of its tensor-parallel group."""
    memory_bytes: int | None = None
    """Memory for models, of the whole group; None: unknown."""
    residents: int | None = 1
    """Models it may have in memory at once; None: as many as fit."""
    resident: tuple[str, ...] = ()
    """Models in its memory, least recently used first."""
    asleep: tuple[str, ...] = ()
    """Models in its host's memory, which wake faster than they load."""
    whole: tuple[str, ...] = ()
    """Models that were found to need all its memory: they go beside no other."""
    loading: tuple[str, ...] = ()
    """Models that it loads, or was just told to."""
    out: Mapping[str, int] = field(default_factory=dict)
    """Chunks sent to it and not ended, by model; the model sent last comes last."""
    is_alone: bool = False
    """It runs suspects, which must have it to themselves."""
    is_unbounded: bool = False
    """It has no device: any number of models at once, and no switching."""
    is_draining: bool = False
    idle_s: float = 0.0
    """How long it has held no chunk, and ended no load."""
    bulk_idle_s: float = 0.0
    """How long it has held no chunk, whatever it loaded meanwhile."""
    online_idle_s: float | None = None
    """How long ago it last served a query, or loaded a model for one; None: never."""

    @cached_property
    def chunks(self) -> int:
        return sum(self.out.values())

    @cached_property
    def models(self) -> tuple[str, ...]:
        """Models it has, is loading, or has been sent chunks for."""
        return tuple(dict.fromkeys([*self.resident, *self.loading, *self.out]))

    @cached_property
    def in_use(self) -> tuple[str, ...]:
        """Models that it cannot evict now."""
        return tuple(dict.fromkeys([*self.loading, *self.out]))
