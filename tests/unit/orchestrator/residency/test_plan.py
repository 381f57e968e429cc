"""The residency plan: values in, actions out."""

from typing import Any

from orchestrator import residency
from orchestrator.residency import Action, Costs, Load, Prefetch, Queue, Send, Worker

CHUNK = 64


def queue(key: str, units: int = 0, *, engine: str = "vllm", **more: object) -> Queue:
    return Queue(model_key=key, engine=engine, units=units, **more)  # type: ignore[arg-type]


def worker(name: str = "w", **more: object) -> Worker:
    return Worker(**{"name": name, "engines": ("vllm", "stub"), "window": 2, **more})  # type: ignore[arg-type]


def everything(queues: list[Queue], workers: list[Worker], **models: Costs) -> list[Action]:
    return residency.plan(queues, workers, chunk_units=CHUNK, models=models)


def plan(queues: list[Queue], workers: list[Worker], **models: Costs) -> list[Action]:
    """Without hints."""
    return [action for action in everything(queues, workers, **models) if not isinstance(action, Prefetch)]


def test_nothing_waits_and_nothing_happens() -> None:
    assert plan([], [worker()]) == []


def test_an_empty_worker_takes_the_model_for_which_most_waits() -> None:
    assert plan([queue("a", 10), queue("b", 20)], [worker()]) == [Send(worker="w", model_key="b")]


def test_the_window_is_filled_and_no_more() -> None:
    assert plan([queue("a", 1000)], [worker()]) == [Send(worker="w", model_key="a", chunks=2)]
    assert plan([queue("a", 1000)], [worker(resident=("a",), out={"a": 1})]) == [Send(worker="w", model_key="a")]
    assert plan([queue("a", 1000)], [worker(resident=("a",), out={"a": 2})]) == []


def test_a_plan_says_for_how_long_a_worker_stays_with_a_model() -> None:
    """All that waits and will come, shared with the others that have the model."""
    costs = Costs(load_s=100.0, prefill_tps=1000.0, decode_tps=1000.0)  # a unit of 1,000 tokens takes a second
    waiting = queue("a", 300, tokens=300_000, soon=100.0)
    first, second = plan([waiting], [worker("v", resident=("a",)), worker("w", resident=("a",))], a=costs)
    (alone,) = plan([waiting], [worker("v")], a=costs)
    assert all(isinstance(each, Send) for each in (first, second, alone))
    assert [round(each.stay_s) for each in (alone, first)] == [400, 200]  # type: ignore[union-attr]


def test_a_worker_stays_with_its_model_while_that_has_work_however_much_waits_for_another() -> None:
    assert plan([queue("a", 1), queue("b", 5000)], [worker(resident=("a",))]) == [Send(worker="w", model_key="a")]


def test_it_does_not_switch_while_its_chunks_run() -> None:
    assert plan([queue("b", 500)], [worker(resident=("a",), out={"a": 1})]) == []


def test_it_does_not_switch_while_instances_upstream_may_need_its_model() -> None:
    queues = [queue("a", upstream=40), queue("b", 500)]
    assert plan(queues, [worker(resident=("a",))]) == []


def test_it_does_not_wait_for_ever_for_upstream() -> None:
    queues = [queue("a", upstream=40), queue("b", 500)]
    waited = worker(resident=("a",), idle_s=residency.HOLD_S + 1)
    assert plan(queues, [waited]) == [Send(worker="w", model_key="b", chunks=2)]


def test_it_switches_when_nothing_more_comes() -> None:
    assert plan([queue("a"), queue("b", 500)], [worker(resident=("a",))]) == [Send(worker="w", model_key="b", chunks=2)]


def test_a_model_that_is_needed_again_later_goes_last() -> None:
    queues = [queue("a", 500, later=500), queue("b", 10)]
    assert plan(queues, [worker()]) == [Send(worker="w", model_key="b")]


def test_two_workers_take_two_models() -> None:
    sends = plan([queue("a", 200), queue("b", 100)], [worker("v"), worker("w")])
    assert sends == [Send(worker="v", model_key="a", chunks=2), Send(worker="w", model_key="b", chunks=2)]


def test_a_model_is_loaded_once_more_only_if_that_takes_over_more_work_than_its_load() -> None:
    holder, idle = worker("v", resident=("a",), out={"a": 2}), worker("w")
    costs = Costs(load_s=100.0, prefill_tps=1000.0, decode_tps=1000.0)  # a unit of 1,000 tokens takes a second
    out_s = CHUNK * 1.0  # half of two chunks

    def waiting(units: float) -> list[Queue]:
        return [queue("a", round(units), tokens=round(units) * 1000)]

    # Both end after (waiting + out + load) / 2; the newcomer has then worked for that less its load.
    worth = 4 * costs.load_s - out_s - costs.load_s
    assert plan(waiting(worth - 1), [holder, idle], a=costs) == []
    assert [send.worker for send in plan(waiting(worth + 1), [holder, idle], a=costs)] == ["w"]


def test_a_cheap_load_is_worth_it_sooner() -> None:
    holder, idle = worker("v", resident=("a",), out={"a": 2}), worker("w")
    assert plan([queue("a", 100)], [holder, idle], a=Costs(load_s=60.0)) == []
    assert plan([queue("a", 100)], [holder, idle], a=Costs(load_s=2.0)) != []


def test_the_last_chunks_of_a_model_are_shared_by_its_holders() -> None:
    holders = [worker(name, resident=("a",), out={"a": 1}) for name in ("u", "v", "w")]
    sends = plan([queue("a", 96)], holders)
    assert [(send.worker, send.units) for send in sends if isinstance(send, Send)] == [("u", 16), ("v", 16), ("w", 16)]


def test_an_idle_worker_loads_what_others_answers_will_bring_work_for() -> None:
    annotating = worker("v", resident=("a",), out={"a": 2})
    queues = [queue("a", 64, feeds=192.0), queue("b", soon=90.0), queue("c", soon=100.0)]
    assert plan(queues, [annotating, worker("w")]) == [Load(worker="w", model_key="c")]


def test_it_does_not_load_one_model_after_another_while_it_waits() -> None:
    annotating = worker("v", resident=("a",), out={"a": 2})
    queues = [queue("a", 64, feeds=192.0), queue("b", soon=90.0), queue("c", soon=100.0)]
    assert plan(queues, [annotating, worker(resident=("b",), idle_s=1000.0)]) == []


def test_one_more_annotator_comes_before_an_expert_that_it_would_starve() -> None:
    annotating = worker("v", resident=("a",), out={"a": 2})
    queues = [queue("a", 2000, feeds=6000.0), queue("b", soon=90.0), queue("c", soon=100.0)]
    assert plan(queues, [annotating, worker("w")]) == [Send(worker="w", model_key="a", chunks=2)]


def test_it_waits_for_others_answers_while_that_costs_less_than_a_load() -> None:
    annotating = worker("v", resident=("a",), out={"a": 2})
    queues = [queue("a", 200, feeds=600.0), queue("b", soon=400.0), queue("c", 100)]
    assert [each.worker for each in plan(queues, [annotating, worker(resident=("b",))])] == []
    too_long = worker(resident=("b",), idle_s=Costs().load_s + 1)
    assert plan(queues, [annotating, too_long]) == [Send(worker="w", model_key="c", chunks=2)]


def test_an_aggregator_may_come_early_when_it_has_enough_to_do_until_the_end() -> None:
    busy = worker("v", resident=("b",), out={"b": 2})
    assert plan([queue("a", 640, later=500.0), queue("b", 64), queue("c", 32)], [busy, worker()]) == [
        Send(worker="w", model_key="a", chunks=2)
    ]


def test_the_next_model_is_announced_while_the_last_chunks_of_the_present_one_run() -> None:
    last = worker(resident=("a",), out={"a": 1})
    assert everything([queue("b", 500)], [last]) == [Prefetch(worker="w", model_key="b")]
    assert everything([queue("a", 1000), queue("b", 500)], [worker(resident=("a",), out={"a": 2})]) == []


def test_small_models_share_a_device_where_they_fit() -> None:
    small = Costs(memory_bytes=4)
    roomy = worker(resident=("a",), out={"a": 1}, residents=None, memory_bytes=10)
    assert plan([queue("b", 64)], [roomy], a=small, b=small) == [Send(worker="w", model_key="b")]
    assert plan([queue("b", 64)], [roomy], a=small, b=Costs(memory_bytes=7)) == []


def test_a_model_that_needs_a_whole_device_goes_beside_no_other() -> None:
    roomy: dict[str, Any] = {"residents": 2, "whole": ("b",), "out": {"a": 1}}
    assert plan([queue("b", 64)], [worker(resident=("a",), **roomy)]) == []
    assert plan([queue("a", 64)], [worker(resident=("b",), **roomy | {"out": {"b": 1}})]) == []
    assert plan([queue("b", 64), queue("c", 9)], [worker(resident=("a",), **roomy)]) == [
        Send(worker="w", model_key="c")
    ]


def test_a_model_is_woken_where_it_sleeps_rather_than_loaded_elsewhere() -> None:
    pair = [worker("v"), worker("w", asleep=("a",))]
    costs = {"a": Costs(wake_s=1.0), "b": Costs(wake_s=1.0)}
    assert plan([queue("a", 64)], pair, **costs) == [Send(worker="w", model_key="a")]
    both = plan([queue("a", 64), queue("b", 64)], [worker("v", asleep=("b",)), worker("w", asleep=("a",))], **costs)
    assert both == [Send(worker="v", model_key="b"), Send(worker="w", model_key="a")]
    waited_for = [residency.waited_for(queue("a"), demand_s=1.0)]
    assert plan(waited_for, pair, **costs) == [Load(worker="w", model_key="a")]


def test_a_sleeping_model_is_worth_waking_for_work_that_is_not_worth_a_load() -> None:
    busy = worker("v", resident=("a",), out={"a": 2})
    slow = Costs(load_s=100.0, wake_s=1.0, decode_tps=1000.0)
    waiting = [queue("a", 100, tokens=100_000)]  # 100 seconds of work
    assert plan(waiting, [busy, worker("w")], a=slow) == []
    (woken,) = plan(waiting, [busy, worker("w", asleep=("a",))], a=slow)
    assert (woken.worker, woken.model_key) == ("w", "a")


def test_a_worker_leaves_a_model_sooner_that_it_can_wake_again() -> None:
    queues = [queue("a", soon=10.0, tokens=0), queue("b", 640, feeds=100.0), queue("c", 500)]
    present = [worker("v", resident=("b",), out={"b": 2}), worker("w", resident=("a",))]
    assert not any(action.worker == "w" for action in plan(queues, present, a=Costs(load_s=1e6)))
    assert any(action.worker == "w" for action in plan(queues, present, a=Costs(load_s=1e6, wake_s=1.0)))


def test_a_model_goes_only_where_there_are_devices_and_memory_for_it() -> None:
    big = Costs(devices=2, memory_bytes=100)
    single, group = worker("v", memory_bytes=60), worker("w", devices=2, memory_bytes=120)
    assert plan([queue("a", 10)], [single], a=big) == []
    assert plan([queue("a", 10)], [single, group], a=big) == [Send(worker="w", model_key="a")]


def test_a_group_of_devices_first_takes_what_only_a_group_can_run() -> None:
    group = worker(devices=2)
    assert plan([queue("a", 10), queue("b", 900)], [group], a=Costs(devices=2)) == [Send(worker="w", model_key="a")]


def test_overdue_units_are_served_before_newer_ones_of_the_present_model() -> None:
    old = queue("b", 1, oldest_s=residency.GRACE_S + 11.0)
    assert plan([queue("a", 900, oldest_s=20.0), old], [worker(resident=("a",))]) == [
        Send(worker="w", model_key="a", chunks=2)
    ]
    assert plan([queue("a", 900, oldest_s=10.0), old], [worker(resident=("a",))]) == [Send(worker="w", model_key="b")]
    assert plan([queue("a", 900, oldest_s=10.0), old], [worker(resident=("a",), out={"a": 1})]) == []


def test_queries_do_not_keep_a_worker_from_overdue_work_for_ever() -> None:
    old = queue("b", 1, oldest_s=residency.GRACE_S + 1.0)
    held: dict[str, Any] = {"resident": ("a",), "online_idle_s": 0.0}
    assert plan([old], [worker(bulk_idle_s=residency.BULK_TURN_S - 1, **held)]) == []
    assert plan([old], [worker(bulk_idle_s=residency.BULK_TURN_S, **held)]) == [Send(worker="w", model_key="b")]


def test_queries_that_wait_for_one_model_after_another_give_way_to_overdue_work_as_well() -> None:
    old, asked = queue("c", 1, oldest_s=residency.GRACE_S), residency.waited_for(queue("b"), demand_s=1.0)
    held: dict[str, Any] = {"resident": ("a",), "online_idle_s": 0.0}
    late, young = residency.BULK_TURN_S, queue("d", 9, oldest_s=60.0)
    assert plan([asked, old], [worker(bulk_idle_s=late - 1, **held)]) == [Load(worker="w", model_key="b")]
    assert plan([asked, old, young], [worker(bulk_idle_s=late, **held)]) == [Send(worker="w", model_key="c")]
    # Whoever is not needed for queries comes first.
    pair = [worker("v", bulk_idle_s=late, **held), worker("w", resident=("b",))]
    asked = residency.waited_for(queue("e"), demand_s=1.0)
    assert plan([asked, old], pair, e=Costs(wake_s=1.0)) == [
        Load(worker="v", model_key="e"),
        Send(worker="w", model_key="c"),
    ]


def test_queries_do_not_keep_a_worker_from_waiting_bulk_for_longer_than_a_turn() -> None:
    held: dict[str, Any] = {"resident": ("a",), "online_idle_s": 0.0}
    assert plan([queue("b", 10)], [worker(bulk_idle_s=residency.BULK_TURN_S - 1, **held)]) == []
    assert plan([queue("b", 10)], [worker(bulk_idle_s=residency.BULK_TURN_S, **held)]) == [
        Send(worker="w", model_key="b")
    ]


def test_an_overdue_suspect_gets_its_turn() -> None:
    queues = [queue("a", 900, oldest_s=1.0), queue("b", suspects=1, suspect_s=residency.GRACE_S + 2.0)]
    assert plan(queues, [worker(resident=("a",))]) == [Send(worker="w", model_key="b", alone=True)]


def test_an_engine_that_a_worker_lacks_is_not_sent_to_it() -> None:
    assert plan([queue("a", 10, engine="remote")], [worker()]) == []


def test_a_worker_without_a_device_serves_several_models_in_turn() -> None:
    hub = worker(engines=("remote",), window=4, is_unbounded=True)
    sends = plan([queue("a", 500, engine="remote"), queue("b", 100, engine="remote")], [hub])
    assert sorted(send.model_key for send in sends if isinstance(send, Send)) == ["a", "a", "b", "b"]


def test_a_draining_worker_gets_nothing() -> None:
    assert plan([queue("a", 10)], [worker(is_draining=True)]) == []


def test_a_suspect_goes_alone_and_only_to_an_empty_worker() -> None:
    suspects = [queue("a", suspects=2)]
    assert plan(suspects, [worker(resident=("a",))]) == [Send(worker="w", model_key="a", alone=True)]
    assert plan(suspects, [worker(resident=("a",), out={"a": 1})]) == []
    assert plan([queue("a", 500)], [worker(resident=("a",), out={"a": 1}, is_alone=True)]) == []


def test_a_suspect_whose_model_is_nowhere_is_not_forgotten() -> None:
    assert plan([queue("a", suspects=1)], [worker()]) == [Send(worker="w", model_key="a", alone=True)]


def test_a_model_that_queries_wait_for_is_loaded_on_an_idle_worker() -> None:
    asked = residency.waited_for(queue("b"), demand_s=1.0)
    assert plan([asked, queue("a", 500)], [worker("v", resident=("a",)), worker("w")]) == [
        Load(worker="w", model_key="b"),
        Send(worker="v", model_key="a", chunks=2),
    ]


def test_queries_get_the_worker_that_will_have_their_model_first() -> None:
    """Which is the one they were told of: what they wait for there, and the load or the waking."""
    asked = residency.waited_for(queue("b"), demand_s=1.0)
    costs = {"a": Costs(decode_tps=1000.0, prefill_tps=1000.0), "b": Costs(load_s=60.0, wake_s=1.0)}

    def waking(tokens: int) -> list[Action]:
        """One worker is idle; at the other it sleeps behind one chunk."""
        running = queue("a", CHUNK, tokens=CHUNK * tokens)
        dozing = worker("w", resident=("a",), out={"a": 1}, asleep=("b",))
        return [each for each in plan([asked, running], [worker("v"), dozing], **costs) if each.model_key == "b"]

    assert waking(tokens=500) == []  # 32 s for the chunk, then it wakes
    assert waking(tokens=1500) == [Load(worker="v", model_key="b")]


def test_a_busy_worker_finishes_its_chunks_before_it_loads_for_queries() -> None:
    asked = residency.waited_for(queue("b"), demand_s=1.0)
    busy = worker(resident=("a",), out={"a": 1})
    assert plan([asked, queue("a", 500)], [busy]) == []
    assert plan([asked, queue("a", 500)], [worker(resident=("a",))]) == [Load(worker="w", model_key="b")]


def test_a_model_loaded_for_queries_stays_for_a_while() -> None:
    served = worker(resident=("b",), online_idle_s=1.0)
    assert plan([queue("a", 500)], [served]) == []
    done = worker(resident=("b",), online_idle_s=residency.DEMAND_STAY_S + 1)
    assert plan([queue("a", 500)], [done]) == [Send(worker="w", model_key="a", chunks=2)]


def test_a_resident_model_is_not_loaded_again_for_queries() -> None:
    asked = residency.waited_for(queue("b"), demand_s=1.0)
    assert plan([asked], [worker(resident=("b",))]) == []


def test_a_model_that_a_worker_loads_beside_another_is_not_loaded_elsewhere_for_queries() -> None:
    asked = residency.waited_for(queue("b"), demand_s=1.0)
    assert plan([asked], [worker("v"), worker("w", residents=2, loading=("a", "b"))]) == []


def test_fewest_loads_share_a_model_between_stages() -> None:
    one, two, three = frozenset("a"), frozenset("ab"), frozenset("abc")
    assert residency.fewest_loads([two]) == 2
    assert residency.fewest_loads([frozenset(), two, one]) == 2
    assert residency.fewest_loads([one, three, frozenset("c")]) == 3
    assert residency.fewest_loads([one, three, one]) == 4
    assert residency.fewest_loads([two], resident="a") == 1
