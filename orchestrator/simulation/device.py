"""A simulated worker: loads, computes and evicts as the real one does, in no time at all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.residency import Worker
from orchestrator.simulation.backlog import Batch
from orchestrator.simulation.workload import SimulatedModel

LOAD = -1
"""The stage of a load, in `Span`."""


@dataclass(kw_only=True)
class Span:
    """What a device did for a while."""

    device: int
    model: str
    stage: int
    start_s: float
    end_s: float


@dataclass(frozen=True, kw_only=True)
class Running:
    """A chunk that a device was sent."""

    key: str
    batches: tuple[Batch, ...]
    begin_s: float
    end_s: float
    """When its last answer is there."""


class Device:
    """One worker. Chunks share its time in the order they came; none ends before its answers could alone."""

    def __init__(self, number: int, *, memory_bytes: int, devices: int, window: int) -> None:
        self.number = number
        self.name = f"worker-{number:03}"
        self.spans: list[Span] = []
        self.loads = 0
        self.load_s = 0.0
        self.work_s = 0.0
        self.loading: str | None = None
        self.loading_ends_s = 0.0
        self._memory_bytes = memory_bytes
        self._devices = devices
        self._window = window
        self._resident: dict[str, SimulatedModel] = {}
        self._out: dict[str, int] = {}
        self._free_s = 0.0
        """When the last chunk's computing ends."""
        self._dry_s = 0.0
        """When the last answer is there."""
        self._idle_since_s = 0.0

    def seen(self, now_s: float) -> Worker:
        """The planner's view."""
        return Worker(
            name=self.name,
            engines=("vllm",),
            window=self._window,
            devices=self._devices,
            memory_bytes=self._memory_bytes,
            residents=None,
            resident=tuple(self._resident),
            loading=() if self.loading is None else (self.loading,),
            out=dict(self._out),
            idle_s=0.0 if self._out else now_s - self._idle_since_s,
        )

    def load(self, model: SimulatedModel, now_s: float) -> float:
        """Begin to load as soon as there is room; returns when it ends. Raises `MemoryError` if it never fits."""
        need = model.costs.memory_bytes
        start_s = now_s
        while self._used() + need > self._memory_bytes:
            idle = next((key for key in self._resident if key not in self._out), None)
            if idle is None:
                # The window runs dry first; what is in it then makes room.
                start_s = max(start_s, self._dry_s)
                idle = next(iter(self._resident), None)
            if idle is None:
                raise MemoryError(f"{model.key} does not fit into {self.name}")
            del self._resident[idle]
        self.loading, self.loading_ends_s = model.key, start_s + model.costs.load_s
        self._resident[model.key] = model
        self.loads += 1
        self.load_s += model.costs.load_s
        self.spans.append(
            Span(device=self.number, model=model.key, stage=LOAD, start_s=start_s, end_s=self.loading_ends_s)
        )
        return self.loading_ends_s

    def loaded(self, now_s: float) -> None:
        self.loading = None
        self._idle_since_s = max(self._idle_since_s, now_s)

    def send(self, model: SimulatedModel, batches: Sequence[Batch], now_s: float) -> Running:
        """A chunk of a model that is resident or on its way."""
        ready_s = self.loading_ends_s if self.loading == model.key else now_s
        begin_s = max(now_s, ready_s, self._free_s)
        at_s = begin_s
        for batch in batches:
            spent_s = len(batch.ids) * model.unit_s[batch.stage]
            self._note(model.key, batch.stage, at_s, at_s + spent_s)
            at_s += spent_s
        self.work_s += at_s - begin_s
        self._free_s = at_s
        # Both chunks of a window are in the engine: each answer needs its time from when it was let in.
        end_s = max(at_s, max(now_s, ready_s) + max(model.alone_s[batch.stage] for batch in batches))
        self._dry_s = max(self._dry_s, end_s)
        self._out[model.key] = self._out.pop(model.key, 0) + 1
        self._resident[model.key] = self._resident.pop(model.key)
        return Running(key=model.key, batches=tuple(batches), begin_s=begin_s, end_s=end_s)

    def ended(self, running: Running) -> None:
        self._out[running.key] -= 1
        if not self._out[running.key]:
            del self._out[running.key]
        if not self._out:
            self._idle_since_s = running.end_s

    def has(self, key: str) -> bool:
        return key in self._resident

    @property
    def out(self) -> Mapping[str, int]:
        return self._out

    def _used(self) -> int:
        return sum(model.costs.memory_bytes for model in self._resident.values())

    def _note(self, key: str, stage: int, start_s: float, end_s: float) -> None:
        last = self.spans[-1] if self.spans else None
        if last and (last.model, last.stage) == (key, stage) and start_s - last.end_s < 1e-6:
            last.end_s = end_s
        else:
            self.spans.append(Span(device=self.number, model=key, stage=stage, start_s=start_s, end_s=end_s))
