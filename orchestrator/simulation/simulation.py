"""The simulation: events on a simulated clock, and a policy that is asked what to do next."""

import heapq
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from orchestrator import residency
from orchestrator.costs.costs_file import CostsFile
from orchestrator.simulation.backlog import Backlog
from orchestrator.simulation.device import Device, Running, Span
from orchestrator.simulation.workload import Workload

IDLE_S = 1.0
"""How often to plan while a worker idles: the plan may only wait for time to pass."""
STUCK_S = 24 * 3600.0
"""A policy that does nothing for so long, with nothing running, will never."""

Policy = Callable[[Sequence[residency.Queue], Sequence[residency.Worker]], Sequence[residency.Action]]


class Stuck(RuntimeError):
    """Work is left that the policy gives to nobody: no worker can run it."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a workload."""

    makespan_s: float
    loads: int
    load_s: float
    """Device seconds spent loading."""
    work_s: float
    """Device seconds spent computing."""
    idle_s: float
    """Device seconds spent with neither, up to the makespan."""
    longest_wait_s: float
    """The longest that a unit waited until its chunk began."""
    plans: int
    plan_seconds: float
    """Real seconds inside the policy, all calls together."""
    spans: tuple[Span, ...] = field(repr=False)


class Simulation:
    """One workload on some workers."""

    def __init__(self, workload: Workload, costs: CostsFile, *, workers: int) -> None:
        self._workload = workload
        self._dispatch = costs.dispatch
        self._places = {model.key: place for place, model in enumerate(workload.models)}
        group = costs.device.group
        self._devices = {
            device.name: device
            for number in range(workers)
            for device in [
                Device(
                    number,
                    memory_bytes=int(costs.device.memory_gb * group * 1e9),
                    devices=group,
                    window=costs.dispatch.window_chunks,
                )
            ]
        }
        self._backlog = Backlog(workload)
        self._events: list[tuple[float, int, Device, Running | None]] = []
        self._numbers = 0
        self._longest_wait_s = 0.0
        self._ended_s = 0.0

    def run(self, policy: Policy) -> Outcome:
        """Until every instance is done. Raises `Stuck`."""
        now_s, planned_s, plan_seconds, plans = 0.0, float("-inf"), 0.0, 0
        while self._backlog.open:
            # Like the dispatcher: what happened within the interval is planned for together.
            now_s = max(now_s, planned_s + self._dispatch.plan_s)
            self._happen(now_s)
            if not self._backlog.open:
                break
            queues = self._backlog.queues(now_s)
            workers = [device.seen(now_s) for device in self._devices.values()]
            begun = time.perf_counter()
            actions = policy(queues, workers)
            plan_seconds += time.perf_counter() - begun
            plans += 1
            planned_s = now_s
            self._act(actions, now_s)
            now_s = self._next_s(now_s)
        makespan_s = self._ended_s
        devices = self._devices.values()
        load_s, work_s = sum(each.load_s for each in devices), sum(each.work_s for each in devices)
        return Outcome(
            makespan_s=makespan_s,
            loads=sum(each.loads for each in devices),
            load_s=load_s,
            work_s=work_s,
            idle_s=len(devices) * makespan_s - load_s - work_s,
            longest_wait_s=self._longest_wait_s,
            plans=plans,
            plan_seconds=plan_seconds,
            spans=tuple(span for each in devices for span in each.spans),
        )

    def _next_s(self, now_s: float) -> float:
        """When to plan again."""
        idle = any(not device.out and device.loading is None for device in self._devices.values())
        if self._events:
            next_s = self._events[0][0]
            return min(next_s, now_s + IDLE_S) if idle else next_s
        if now_s - self._ended_s > STUCK_S:
            raise Stuck(f"{self._backlog.open} instances are left that no worker is given")
        return now_s + IDLE_S

    def _happen(self, now_s: float) -> None:
        """Everything up to now."""
        while self._events and self._events[0][0] <= now_s:
            at_s, _, device, running = heapq.heappop(self._events)
            if running is None:
                device.loaded(at_s)
                continue
            device.ended(running)
            self._ended_s = max(self._ended_s, at_s)
            for batch in running.batches:
                self._backlog.answered(batch, at_s)

    def _act(self, actions: Sequence[residency.Action], now_s: float) -> None:
        for action in actions:
            device = self._devices[action.worker]
            place = self._places[action.model_key]
            model = self._workload.models[place]
            if isinstance(action, residency.Prefetch):
                continue
            if not device.has(model.key):
                self._push(device.load(model, now_s), device, None)
            if isinstance(action, residency.Load):
                continue
            for _ in range(action.chunks):
                batches = self._backlog.waiting[place].take(action.units or self._dispatch.chunk_units)
                if not batches:
                    break
                running = device.send(model, batches, now_s)
                self._longest_wait_s = max(self._longest_wait_s, running.begin_s - batches[0].at_s)
                self._push(running.end_s, device, running)

    def _push(self, at_s: float, device: Device, running: Running | None) -> None:
        self._numbers += 1
        heapq.heappush(self._events, (at_s, self._numbers, device, running))


def planned(workload: Workload, costs: CostsFile, *, workers: int) -> Outcome:
    """With Muster's own plan: the function that the dispatcher calls."""
    models = {model.key: model.costs for model in workload.models}

    def policy(queues: Sequence[residency.Queue], workers: Sequence[residency.Worker]) -> Sequence[residency.Action]:
        return residency.plan(queues, workers, chunk_units=costs.dispatch.chunk_units, models=models)

    return Simulation(workload, costs, workers=workers).run(policy)
