"""Units that wait, by model, and the instances they belong to."""

from collections import deque
from dataclasses import dataclass

import numpy as np

from orchestrator.residency import Queue
from orchestrator.simulation.workload import ANNOTATE, FUSE, GENERATE, Indices, Workload


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Units of one model and stage that came at one moment."""

    stage: int
    ids: Indices
    """The instances."""
    at_s: float


class Waiting:
    """What waits for one model, oldest first."""

    def __init__(self) -> None:
        self.batches: deque[Batch] = deque()
        self.units = 0
        self.by_stage = [0, 0, 0]

    def put(self, batch: Batch) -> None:
        self.batches.append(batch)
        self.units += len(batch.ids)
        self.by_stage[batch.stage] += len(batch.ids)

    def take(self, units: int) -> list[Batch]:
        """The oldest so many units."""
        taken: list[Batch] = []
        while units > 0 and self.batches:
            first = self.batches.popleft()
            if len(first.ids) > units:
                rest = Batch(stage=first.stage, ids=first.ids[units:], at_s=first.at_s)
                self.batches.appendleft(rest)
                first = Batch(stage=first.stage, ids=first.ids[:units], at_s=first.at_s)
            units -= len(first.ids)
            self.units -= len(first.ids)
            self.by_stage[first.stage] -= len(first.ids)
            taken.append(first)
        return taken


class Backlog:
    """Everything that waits; answers make new units, as the stager does."""

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        self.waiting = [Waiting() for _ in workload.models]
        self._missing = np.full(workload.instances, workload.k)
        """Answers that each instance still waits for."""
        self._unannotated = workload.instances
        self._unfused = workload.instances
        self.open = workload.instances
        """Instances that are not done."""
        self._put(workload.annotator, ANNOTATE, np.arange(workload.instances), 0.0)
        self._known: dict[int, tuple[tuple[float, ...], Queue]] = {}

    def answered(self, batch: Batch, now_s: float) -> None:
        """What follows from answers to a batch."""
        work = self._workload
        if batch.stage == ANNOTATE:
            self._unannotated -= len(batch.ids)
            owners = np.repeat(batch.ids, work.k)
            recruits = work.recruits[batch.ids].ravel()
            order = np.argsort(recruits, kind="stable")
            chosen, starts = np.unique(recruits[order], return_index=True)
            for model, ids in zip(chosen.tolist(), np.split(owners[order], starts[1:]), strict=True):
                self._put(model, GENERATE, ids, now_s)
        elif batch.stage == GENERATE:
            self._missing[batch.ids] -= 1
            complete = batch.ids[self._missing[batch.ids] == 0]
            if len(complete):
                self._unfused -= len(complete)
                self._put(work.aggregator, FUSE, complete, now_s)
        else:
            self.open -= len(batch.ids)

    def queues(self, now_s: float) -> list[Queue]:
        """The planner's view. Like the dispatcher it takes any expert to be recruited as often as another."""
        return [queue for place in range(len(self.waiting)) if (queue := self._queue(place, now_s)) is not None]

    def _queue(self, place: int, now_s: float) -> Queue | None:
        work, waiting = self._workload, self.waiting[place]
        soon = self._unannotated * work.k / work.experts if place < work.experts else 0.0
        later = self._unfused if place == work.aggregator else 0
        if not waiting.units and not soon and not later:
            return None
        oldest_at = waiting.batches[0].at_s if waiting.batches else now_s
        facts: tuple[float, ...] = (waiting.units, soon, later, oldest_at)
        known = self._known.get(place)
        if known is not None and known[0] == facts and (now_s - oldest_at) - known[1].oldest_s < 60:
            return known[1]
        prompts = sum(count * stage.prompt_tokens for count, stage in zip(waiting.by_stage, work.stages, strict=True))
        completions = sum(
            count * stage.completion_tokens for count, stage in zip(waiting.by_stage, work.stages, strict=True)
        )
        queue = Queue(
            model_key=work.models[place].key,
            engine="vllm",
            units=waiting.units,
            tokens=int(prompts + completions),
            prompt_tokens=int(prompts),
            oldest_s=now_s - oldest_at,
            soon=soon,
            feeds=float(waiting.by_stage[ANNOTATE] * work.k),
            later=float(later),
        )
        self._known[place] = (facts, queue)
        return queue

    def _put(self, model: int, stage: int, ids: Indices, now_s: float) -> None:
        self.waiting[model].put(Batch(stage=stage, ids=ids, at_s=now_s))
