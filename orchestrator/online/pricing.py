"""What asking each expert would cost a query now: seconds until it has answered, and tokens. Pure."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from orchestrator import prompts
from orchestrator.pool.measured_costs import ModelCost
from orchestrator.pool.pool import Expert
from orchestrator.recruiting.limits import Cost
from workers.messages import Model, WorkerState

LOAD_S = {"vllm": 60.0, "remote": 1.0, "stub": 1.0}
TOKEN_S = 0.03
"""Of a model never measured, where none ever was: cautious for a GPU. Else the mean of those that were."""
BULK_GAIN = 8.0
"""An engine makes so many times more tokens for many requests than for one (SmolLM2-135M on one CPU thread: 332 a
second for 32, 42 for one). A load waits until the bulk requests sent have ended."""
BULK_SLOWER = 4.0
"""An answer takes so much longer among many bulk ones than alone, by the same figures."""
ANSWER_TOKENS = 100
"""Of an answer of which nothing else is known."""
RETRY_AFTER_MIN_S, RETRY_AFTER_MAX_S = 1, 60


@dataclass(frozen=True, kw_only=True)
class Supply:
    """The workers as they are, and what is known of models."""

    workers: Sequence[WorkerState]
    measured: Mapping[str, ModelCost] = field(default_factory=dict)
    """By model key."""
    bulk_out: Mapping[str, int] = field(default_factory=dict)
    """Worker -> bulk units sent to it that have not ended."""
    awaited: Mapping[str, int] = field(default_factory=dict)
    """Model key -> online requests that wait here for its load: at a worker as soon as it is done."""
    waiting_max: int
    """Online requests that may wait at one worker beside those it answers."""

    @cached_property
    def load_s(self) -> Mapping[str, float]:
        """Model key -> seconds of a load, where it was measured."""
        return {key: cost.load_s for key, cost in self.measured.items() if cost.load_s is not None}

    @cached_property
    def wake_s(self) -> Mapping[str, float]:
        """Model key -> seconds until it is back from host memory, where that was measured."""
        return {key: cost.wake_s for key, cost in self.measured.items() if cost.wake_s is not None}

    @cached_property
    def token_s(self) -> Mapping[str, float]:
        """Model key -> seconds per token of a query's answer; by bulk answers, where no query was answered yet."""
        found = {key: cost.query_tps or (cost.answer_tps or 0.0) * BULK_SLOWER for key, cost in self.measured.items()}
        return {key: 1 / tps for key, tps in found.items() if tps}


@dataclass(frozen=True, kw_only=True)
class Prices:
    """Expert -> its cost, of those that a worker alive can run and has room for."""

    costs: Mapping[str, Cost]
    full: Mapping[str, float]
    """Who could be run, but only at workers where too many wait: expert -> seconds until there is room, about."""

    def left_out(self, names: Sequence[str]) -> str:
        """Of these names, who has no cost and why, for people; "" where all have one."""
        why = {name: "too many wait for it" if name in self.full else "no worker can run its model" for name in names}
        return "; ".join(f"{name} was left out: {why[name]}" for name in names if name not in self.costs)


class QueueFull(RuntimeError):
    """As many online requests wait at every worker that could answer as may."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            "too many requests wait at every worker that could answer this (MUSTER_ONLINE_WAITING); try again shortly"
        )
        self.retry_after_s = min(max(math.ceil(seconds), RETRY_AFTER_MIN_S), RETRY_AFTER_MAX_S)


def prices(
    experts: Mapping[str, Expert], *, prompt_chars: int, completion_tokens: Mapping[str, float], supply: Supply
) -> Prices:
    """What each expert would take. Seconds are to its last token, if it is asked now.

    Resident models answer at the least busy worker that has them; others are loaded, spread over the workers that
    could, where the bulk requests already sent end first.
    """
    costs: dict[str, Cost] = {}
    full: dict[str, float] = {}
    loads: Counter[str] = Counter()
    places: dict[str, tuple[WorkerState, float] | None] = {}
    for name, expert in experts.items():
        key = expert.model.key
        if key not in places:
            places[key] = _place(expert.model, supply, loads)
        place = places[key]
        if place is None:
            continue
        worker, load_s = place
        prompt, tokens = _tokens(expert, prompt_chars, completion_tokens[name])
        answer_s = tokens * _mean_or(supply.token_s, key, TOKEN_S)
        turns = worker.online_running // max(worker.online_slots, 1)
        if is_full(worker, supply.waiting_max):
            full[name] = turns * answer_s
            continue
        costs[name] = Cost(
            tokens=prompt + tokens,
            answer_s=(turns + 1) * answer_s,
            load_s=load_s,
            model=key,
            device=worker.worker,
        )
    return Prices(costs=costs, full=full)


def token_costs(
    experts: Mapping[str, Expert], *, prompt_chars: int, completion_tokens: Mapping[str, float]
) -> dict[str, Cost]:
    """What each expert would take, in tokens alone."""
    return {
        name: Cost(tokens=sum(_tokens(expert, prompt_chars, completion_tokens[name])))
        for name, expert in experts.items()
    }


def refuse_if_full(model: Model, supply: Supply) -> None:
    """Raise `QueueFull` where this model's every worker has too many waiting."""
    place = _place(model, supply, Counter())
    if place is not None and is_full(place[0], supply.waiting_max):
        turns = place[0].online_running // max(place[0].online_slots, 1)
        raise QueueFull(turns * _mean_or(supply.token_s, model.key, TOKEN_S) * ANSWER_TOKENS)


def _tokens(expert: Expert, prompt_chars: int, completion_tokens: float) -> tuple[float, float]:
    """Of the prompt and of the completion, as far as can be told beforehand."""
    prompt = (prompt_chars + len(expert.system_prompt)) / prompts.CHARS_PER_TOKEN
    return prompt, min(completion_tokens, expert.sampling.max_tokens)


def is_full(worker: WorkerState, waiting_max: int) -> bool:
    """Whether one more online request would be one too many."""
    return worker.online_running - worker.online_slots >= waiting_max


def least_busy(ready: Sequence[WorkerState], waiting_max: int) -> WorkerState:
    """Who is asked, of the workers that have the model: one with room if any has, by requests per place."""
    return min(
        ready,
        key=lambda each: (is_full(each, waiting_max), each.online_running / max(each.online_slots, 1), each.worker),
    )


def _place(model: Model, supply: Supply, loads: Counter[str]) -> tuple[WorkerState, float] | None:
    """The worker that would answer, and the seconds of the load before that; None where none alive can."""
    able = [worker for worker in supply.workers if worker.can_run(model)]
    ready = [worker for worker in able if worker.device == "none" or model.key in worker.resident]
    if ready:
        return least_busy(ready, supply.waiting_max), 0.0
    if not able:
        return None
    awaited = supply.awaited.get(model.key, 0)
    able = [each.model_copy(update={"online_running": each.online_running + awaited}) for each in able]
    loading = next((worker for worker in able if model.key in worker.loading_keys), None)
    if loading is not None:
        return loading, _ready_s(model, loading, supply)
    speeds = supply.token_s.values()
    unit_s = (sum(speeds) / len(speeds) if speeds else TOKEN_S) * ANSWER_TOKENS / BULK_GAIN

    def wait_s(worker: WorkerState) -> float:
        others = (_mean_or(supply.load_s, key, LOAD_S["vllm"]) for key in worker.loading_keys)
        return max(others, default=0.0) + supply.bulk_out.get(worker.worker, 0) * unit_s

    def preference(worker: WorkerState) -> tuple[bool, int, float, str]:
        is_in_vain = is_full(worker, supply.waiting_max)
        return is_in_vain, loads[worker.worker], wait_s(worker) + _ready_s(model, worker, supply), worker.worker

    chosen = min(able, key=preference)
    loads[chosen.worker] += 1
    return chosen, wait_s(chosen) + _ready_s(model, chosen, supply)


def _ready_s(model: Model, worker: WorkerState, supply: Supply) -> float:
    """Seconds of a load there, or of a waking. Nothing loads in no time: 0 would mean that it is resident."""
    load_s = _mean_or(supply.load_s, model.key, LOAD_S[model.engine])
    return max(0.01, supply.wake_s.get(model.key, load_s) if model.key in worker.asleep else load_s)


def _mean_or(known: Mapping[str, float], key: str, default: float) -> float:
    """What is known of a model; else the mean of the others; else the default."""
    if key in known:
        return known[key]
    return sum(known.values()) / len(known) if known else default
