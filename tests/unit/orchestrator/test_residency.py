"""The residency plan: values in, actions out."""

from orchestrator import residency
from orchestrator.residency import Load, Queue, Send, Worker

CHUNK = 64


def queue(key: str, units: int = 0, *, engine: str = "vllm", **more: object) -> Queue:
    return Queue(model_key=key, engine=engine, units=units, **more)  # type: ignore[arg-type]


def worker(name: str = "w", **more: object) -> Worker:
    return Worker(**{"name": name, "engines": ("vllm", "stub"), "window": 2, **more})  # type: ignore[arg-type]


def plan(queues: list[Queue], workers: list[Worker]) -> list[residency.Action]:
    return residency.plan(queues, workers, chunk_units=CHUNK)


def test_nothing_waits_and_nothing_happens() -> None:
    assert plan([], [worker()]) == []


def test_an_empty_worker_takes_the_model_for_which_most_waits() -> None:
    assert plan([queue("a", 10), queue("b", 20)], [worker()]) == [Send(worker="w", model_key="b")]


def test_the_window_is_filled_and_no_more() -> None:
    assert plan([queue("a", 1000)], [worker()]) == [Send(worker="w", model_key="a", chunks=2)]
    assert plan([queue("a", 1000)], [worker(resident=("a",), out={"a": 1})]) == [Send(worker="w", model_key="a")]
    assert plan([queue("a", 1000)], [worker(resident=("a",), out={"a": 2})]) == []


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


def test_a_model_is_loaded_once_more_only_when_its_queue_is_worth_it() -> None:
    holder, idle = worker("v", resident=("a",), out={"a": 2}), worker("w")
    assert plan([queue("a", CHUNK * residency.REPLICATE_CHUNKS)], [holder, idle]) == []
    assert plan([queue("a", CHUNK * residency.REPLICATE_CHUNKS + 1)], [holder, idle]) == [
        Send(worker="w", model_key="a", chunks=2)
    ]


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


def test_fewest_loads_share_a_model_between_stages() -> None:
    one, two, three = frozenset("a"), frozenset("ab"), frozenset("abc")
    assert residency.fewest_loads([two]) == 2
    assert residency.fewest_loads([frozenset(), two, one]) == 2
    assert residency.fewest_loads([one, three, frozenset("c")]) == 3
    assert residency.fewest_loads([one, three, one]) == 4
    assert residency.fewest_loads([two], resident="a") == 1
