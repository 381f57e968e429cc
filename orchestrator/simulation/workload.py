"""What there is to do: instances, who is recruited for each, and what a unit of each stage takes."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.costs.costs_file import CostsError, CostsFile, StageCosts
from orchestrator.residency import Costs

Indices = NDArray[np.int64]

ANNOTATE, GENERATE, FUSE = range(3)
STAGES = ("annotate", "generate", "fuse")
BLOCK = 1000
"""Instances whose recruits are drawn over one order of the experts."""


@dataclass(frozen=True, kw_only=True)
class SimulatedModel:
    key: str
    costs: Costs
    unit_s: tuple[float, float, float]
    """Device time of a unit of each stage, in a full batch."""
    alone_s: tuple[float, float, float]
    """How long a unit of each stage takes at least: alone in the engine."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """n instances: annotated by one model, answered by k others each, fused by one."""

    models: tuple[SimulatedModel, ...]
    experts: int
    """The first so many models are experts; annotator and aggregator may be among them."""
    annotator: int
    aggregator: int
    recruits: Indices = field(repr=False)
    """(n, k) indices of models."""
    stages: tuple[StageCosts, StageCosts, StageCosts]

    @property
    def instances(self) -> int:
        return int(self.recruits.shape[0])

    @property
    def k(self) -> int:
        return int(self.recruits.shape[1])

    @property
    def used(self) -> tuple[int, ...]:
        """Models that some instance needs."""
        return tuple(sorted({*np.unique(self.recruits).tolist(), self.annotator, self.aggregator}))

    def units(self) -> Indices:
        """(models, stages) how many units of each stage a model has to do."""
        found = np.zeros((len(self.models), 3), np.int64)
        found[:, GENERATE] = np.bincount(self.recruits.ravel(), minlength=len(self.models))
        found[self.annotator, ANNOTATE] = found[self.aggregator, FUSE] = self.instances
        return found

    def work_s(self) -> NDArray[np.float64]:
        """(models,) device time of all its units, in full batches."""
        each = np.array([model.unit_s for model in self.models])
        return np.asarray((self.units() * each).sum(axis=1), np.float64)


def build(costs: CostsFile, *, experts: int, instances: int, k: int, usage: str | None, seed: int) -> Workload:
    """A workload with these costs, recruits drawn with the file's shares. Raises `CostsError`."""
    if k > experts:
        raise CostsError(f"k is {k}, but there are {experts} experts to recruit from")
    count = len(costs.models)
    named = {(costs.models[place % count].name, place // count): place for place in range(experts)}
    models = [_model(costs, place % count, place // count) for place in range(experts)]
    special = []
    for name in (costs.stages.annotate.model, costs.stages.fuse.model):
        places = [place for place, model in enumerate(costs.models) if model.name == name]
        if not places:
            raise CostsError(f"[stages] names the model {name!r}, which [[models]] does not have")
        if (name, 0) not in named:
            named[name, 0] = len(models)
            models.append(_model(costs, places[0], 0))
        special.append(named[name, 0])
    draws = np.random.default_rng(seed)
    shares = _spread(np.array(costs.shares(usage)), experts, k)
    ranks = draws.permutation(experts)
    return Workload(
        models=tuple(models),
        experts=experts,
        annotator=special[0],
        aggregator=special[1],
        recruits=_recruits(shares[ranks], instances, k, draws),
        stages=(costs.stages.annotate, costs.stages.generate, costs.stages.fuse),
    )


def _model(costs: CostsFile, place: int, turn: int) -> SimulatedModel:
    given = costs.models[place]
    planned = costs.costs(given)
    alone_tps = costs.alone_tps(given)
    stages = (costs.stages.annotate, costs.stages.generate, costs.stages.fuse)
    unit_s = [
        planned.seconds(prompt_tokens=stage.prompt_tokens, completion_tokens=stage.completion_tokens)
        for stage in stages
    ]
    alone_s = [
        max(full, stage.prompt_tokens / planned.prefill_tps + stage.completion_tokens / alone_tps)
        for stage, full in zip(stages, unit_s, strict=True)
    ]
    return SimulatedModel(
        key=given.name if turn == 0 else f"{given.name}#{turn + 1}",
        costs=planned,
        unit_s=(unit_s[0], unit_s[1], unit_s[2]),
        alone_s=(alone_s[0], alone_s[1], alone_s[2]),
    )


def _spread(shares: NDArray[np.float64], experts: int, k: int) -> NDArray[np.float64]:
    """The probability that each rank is among k recruits: the shares' cumulated curve, read at so many ranks."""
    known = np.concatenate([[0.0], np.cumsum(shares / shares.sum())])
    at = np.interp(np.linspace(0, 1, experts + 1), np.linspace(0, 1, len(known)), known)
    wanted = np.diff(at) * k + 1e-9  # whoever is never used may still have to fill up the k
    # Nobody is recruited twice for one question: what is above 1 goes to the others, in proportion.
    while (over := wanted > 1.0 + 1e-6).any():
        surplus = (wanted[over] - 1.0).sum()
        rest = wanted < 1.0
        wanted[over] = 1.0
        wanted[rest] *= 1.0 + surplus / wanted[rest].sum()
    return np.minimum(wanted, 1.0)


def _recruits(inclusion: NDArray[np.float64], instances: int, k: int, draws: np.random.Generator) -> Indices:
    """(n, k) distinct experts, each with its probability: systematic sampling over an order drawn for each block."""
    blocks: list[Any] = []
    for start in range(0, instances, BLOCK):
        size = min(BLOCK, instances - start)
        order = draws.permutation(len(inclusion))
        edges = np.cumsum(inclusion[order]) * (k / inclusion.sum())
        points = draws.random((size, 1)) + np.arange(k)
        blocks.append(order[np.minimum(np.searchsorted(edges, points, side="right"), len(order) - 1)])
    return np.asarray(np.concatenate(blocks), np.int64)
