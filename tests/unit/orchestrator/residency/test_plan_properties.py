"""What holds of every plan, whatever waits and whoever is there."""

from collections import deque
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import residency
from orchestrator.residency import BULK_TURN_S, GRACE_S, Costs, Load, Queue, Send, Worker

CHUNK = 8
KEYS = ("a", "b", "c", "d")
ENGINES = {"a": "vllm", "b": "vllm", "c": "vllm", "d": "remote"}
COSTS = st.builds(
    Costs,
    load_s=st.floats(0, 100),
    wake_s=st.none() | st.floats(0, 10),
    memory_bytes=st.integers(1, 10),
    devices=st.integers(1, 3),
    decode_tps=st.just(100.0),
)
MODELS = st.fixed_dictionaries(dict.fromkeys(KEYS, COSTS))
AGES = st.floats(0, 3 * GRACE_S)
QUEUES = st.lists(
    st.builds(
        Queue,
        model_key=st.sampled_from(KEYS),
        engine=st.just("vllm"),
        units=st.integers(0, 100),
        suspects=st.integers(0, 2),
        tokens=st.integers(0, 10_000),
        oldest_s=AGES,
        suspect_s=AGES,
        demand_s=st.none() | st.floats(0, 100),
        upstream=st.integers(0, 10),
        soon=st.floats(0, 100),
        feeds=st.just(0.0) | st.floats(0, 300),
        later=st.just(0.0) | st.floats(0, 100),
    ),
    unique_by=lambda queue: queue.model_key,
).map(lambda queues: [replace(queue, engine=ENGINES[queue.model_key]) for queue in queues])


@st.composite
def workers(draw: st.DrawFn, models: dict[str, Costs], count: int) -> list[Worker]:
    """Workers as they can be: what they have fits, and they were able to run it."""
    made = []
    for number in range(draw(st.integers(1, count))):
        worker = Worker(
            name=f"w{number}",
            engines=("vllm",),
            window=draw(st.integers(1, 3)),
            devices=draw(st.integers(1, 3)),
            memory_bytes=draw(st.integers(5, 25)),
            residents=draw(st.none() | st.integers(1, 3)),
            whole=draw(st.sampled_from([(), ("b",)])),
            idle_s=draw(st.floats(0, 100)),
            bulk_idle_s=draw(st.floats(0, 100)),
            online_idle_s=draw(st.none() | st.floats(0, 100)),
        )
        resident: list[str] = []
        for key in draw(st.lists(st.sampled_from(KEYS), unique=True)):
            if can_run(worker, key, models) and fits([*resident, key], worker, models):
                resident.append(key)
        out: dict[str, int] = {}
        for key in resident:
            if sum(out.values()) < worker.window and draw(st.booleans()):
                out[key] = 1
        asleep = draw(st.lists(st.sampled_from(KEYS), unique=True))
        absent = tuple(key for key in asleep if key not in resident and can_run(worker, key, models))
        made.append(replace(worker, resident=tuple(resident), asleep=absent, out=out))
    return made


def can_run(worker: Worker, key: str, models: dict[str, Costs]) -> bool:
    return ENGINES[key] in worker.engines and models[key].devices <= worker.devices and fits([key], worker, models)


def fits(keys: list[str], worker: Worker, models: dict[str, Costs]) -> bool:
    assert worker.memory_bytes is not None
    return (
        sum(models[key].memory_bytes for key in keys) <= worker.memory_bytes
        and (worker.residents is None or len(keys) <= worker.residents)
        and (len(keys) < 2 or not set(keys) & set(worker.whole))
    )


@given(st.data(), MODELS, QUEUES)
def test_no_plan_exceeds_memory_window_or_abilities(
    data: st.DataObject, models: dict[str, Costs], queues: list[Queue]
) -> None:
    present = data.draw(workers(models, 4))
    actions = residency.plan(queues, present, chunk_units=CHUNK, models=models)
    for worker in present:
        used, chunks = set(worker.in_use), worker.chunks
        for action in actions:
            if action.worker != worker.name:
                continue
            assert can_run(worker, action.model_key, models)
            if isinstance(action, Send | Load):
                used.add(action.model_key)
            chunks += action.chunks if isinstance(action, Send) else 0
        assert fits(sorted(used), worker, models)
        assert chunks <= worker.window


@given(st.data(), MODELS, QUEUES)
def test_no_unit_is_sent_twice(data: st.DataObject, models: dict[str, Costs], queues: list[Queue]) -> None:
    actions = residency.plan(queues, data.draw(workers(models, 4)), chunk_units=CHUNK, models=models)
    for queue in queues:
        sends = [each for each in actions if isinstance(each, Send) and each.model_key == queue.model_key]
        assert sum(send.alone for send in sends) <= queue.suspects
        bulk = [send for send in sends if not send.alone]
        # All chunks but the last are full.
        assert sum(send.chunks * (send.units or CHUNK) for send in bulk) < queue.units + max(1, len(bulk)) * CHUNK


@given(st.data(), MODELS, QUEUES)
def test_the_same_values_in_are_the_same_actions_out(
    data: st.DataObject, models: dict[str, Costs], queues: list[Queue]
) -> None:
    present = data.draw(workers(models, 4))
    once = residency.plan(queues, present, chunk_units=CHUNK, models=models)
    assert residency.plan(list(queues), list(present), chunk_units=CHUNK, models=dict(models)) == once


@given(st.data(), MODELS, QUEUES)
def test_nobody_idles_for_nothing(data: st.DataObject, models: dict[str, Costs], queues: list[Queue]) -> None:
    """With no chunk out, no query about and nothing upstream, whatever waits and can be run is begun with."""
    quiet = [replace(queue, upstream=0, demand_s=None) for queue in queues]
    idle = [replace(worker, out={}, online_idle_s=None) for worker in data.draw(workers(models, 4))]
    actions = residency.plan(quiet, idle, chunk_units=CHUNK, models=models)
    waits = [queue for queue in quiet if queue.units or queue.suspects]
    if any(can_run(worker, queue.model_key, models) for worker in idle for queue in waits):
        assert any(isinstance(action, Send) for action in actions)


@given(st.data(), MODELS, QUEUES)
def test_one_worker_never_goes_on_with_work_that_is_much_younger(
    data: st.DataObject, models: dict[str, Costs], queues: list[Queue]
) -> None:
    offline = [replace(queue, demand_s=None) for queue in queues]
    (worker,) = data.draw(workers(models, 1))
    sent = [
        action.model_key
        for action in residency.plan(offline, [worker], chunk_units=CHUNK, models=models)
        if isinstance(action, Send) and not action.alone
    ]
    age_s = {queue.model_key: queue.oldest_s for queue in offline}
    for key in sent:
        for queue in offline:
            is_left = queue.units and queue.model_key not in {*worker.in_use, *sent}
            if is_left and can_run(worker, queue.model_key, models):
                assert queue.oldest_s < GRACE_S or queue.oldest_s - age_s[key] <= GRACE_S


@settings(max_examples=20)  # each runs two hours of plans, one a minute
@given(
    rates=st.lists(st.integers(0, 24), min_size=2, max_size=4),
    load_s=st.floats(1, 300),
    count=st.integers(1, 2),
    rare_at=st.integers(0, 20),
)
def test_nobody_starves_however_much_newer_work_comes_for_other_models(
    rates: list[int], load_s: float, count: int, rare_at: int
) -> None:
    """The bound: while a unit waits, nothing is sent that came more than `GRACE_S` after it, but for one round."""
    step_s, models = 60.0, dict.fromkeys(KEYS, Costs(load_s=load_s))
    waiting: dict[str, deque[float]] = {key: deque() for key in KEYS}
    present: dict[str, str | None] = {f"w{number}": None for number in range(count)}
    steps = round(2 * GRACE_S / step_s) + rare_at
    rare, rare_s = KEYS[len(rates) - 1], rare_at * step_s
    for step in range(steps):
        now_s = step * step_s
        for key, rate in zip(KEYS, rates[:-1], strict=False):
            waiting[key].extend([now_s] * rate)
        if step == rare_at:
            waiting[rare].append(rare_s)
        queues = [
            Queue(model_key=key, engine="vllm", units=len(came), oldest_s=now_s - came[0])
            for key, came in waiting.items()
            if came
        ]
        # Each chunk takes a step: workers are asked when their window is empty.
        pool = [
            Worker(name=name, engines=("vllm",), window=1, resident=(key,) if key else ())
            for name, key in present.items()
        ]
        for action in residency.plan(queues, pool, chunk_units=CHUNK, models=models):
            if isinstance(action, Send):
                present[action.worker] = action.model_key
                came = waiting[action.model_key]
                if waiting[rare] and action.model_key != rare:
                    assert came[0] <= rare_s + GRACE_S + step_s
                for _ in range(min(len(came), action.chunks * (action.units or CHUNK))):
                    came.popleft()
    assert not waiting[rare] or min(came[0] for came in waiting.values() if came) >= rare_s - GRACE_S


@settings(max_examples=20)  # each runs ten minutes of plans, two a second
@given(load_s=st.floats(0.1, 40), chunk_s=st.floats(0.1, 40))
def test_queries_for_two_models_in_turn_leave_overdue_work_its_window_a_minute(load_s: float, chunk_s: float) -> None:
    step_s, models = 0.5, dict.fromkeys(KEYS, Costs(load_s=load_s))
    bulk, *asked = KEYS[:3]
    resident, loading = "", ""
    loaded_at = ended_at = 0.0
    turns = 0
    for step in range(1200):
        now_s = step * step_s
        if loading and now_s >= loaded_at:
            resident, loading = loading, ""
        queues = [Queue(model_key=key, engine="vllm", demand_s=1.0) for key in asked if key not in (resident, loading)]
        queues.append(Queue(model_key=bulk, engine="vllm", units=1000, oldest_s=GRACE_S + now_s))
        worker = Worker(
            name="w",
            engines=("vllm",),
            window=1,
            resident=(resident,) if resident else (),
            loading=(loading,) if loading else (),
            out={bulk: 1} if now_s < ended_at else {},
            bulk_idle_s=max(0.0, now_s - ended_at),
            online_idle_s=0.0,
        )
        for action in residency.plan(queues, [worker], chunk_units=CHUNK, models=models):
            if isinstance(action, Load):
                assert action.model_key in asked
            if isinstance(action, Send):
                assert BULK_TURN_S <= now_s - ended_at <= BULK_TURN_S + load_s + 2 * step_s
                turns, ended_at = turns + 1, now_s + load_s + chunk_s
            if isinstance(action, Load | Send):
                resident, loading, loaded_at = "", action.model_key, now_s + load_s
    assert turns >= 600 // (BULK_TURN_S + 2 * load_s + chunk_s + 1)
