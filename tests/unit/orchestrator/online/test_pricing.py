"""What experts cost a query, by where their models are."""

import pytest

from orchestrator.online.pricing import Prices, QueueFull, Supply, prices, refuse_if_full
from orchestrator.pool.measured_costs import ModelCost
from orchestrator.pool.pool import Expert
from workers.messages import Model, Sampling, WorkerState

A, B, C = (Model(source=f"stub:{name}") for name in "abc")


def expert(name: str, model: Model, *, max_tokens: int = 500) -> Expert:
    return Expert(id=1, name=name, version=1, model=model, sampling=Sampling(max_tokens=max_tokens))


def worker(name: str, *resident: Model, running: int = 0, slots: int = 4, loading: Model | None = None) -> WorkerState:
    return WorkerState(
        worker=name,
        at=0.0,
        device="cuda:0",
        engines=("stub",),
        resident=tuple(model.key for model in resident),
        loading=None if loading is None else loading.key,
        online_slots=slots,
        online_running=running,
    )


def priced(*workers: WorkerState, experts: dict[str, Model], bulk_out: dict[str, int] | None = None) -> Prices:
    measured = {
        A.key: ModelCost(load_s=10.0, query_tps=100.0, answer_tps=1.0),
        B.key: ModelCost(load_s=20.0, wake_s=2.0, answer_tps=12.5),
        C.key: ModelCost(load_s=30.0, query_tps=100 / 3),
    }
    return prices(
        {name: expert(name, model) for name, model in experts.items()},
        prompt_chars=400,
        completion_tokens=dict.fromkeys(experts, 100.0),
        supply=Supply(workers=workers, measured=measured, bulk_out=bulk_out or {}, waiting_max=8),
    )


def test_a_resident_expert_costs_its_tokens_at_its_speed() -> None:
    cost = priced(worker("w", A), experts={"a": A}).costs["a"]
    assert cost.load_s == 0
    assert cost.answer_s == pytest.approx(1)
    assert cost.tokens == pytest.approx(200)


def test_an_answer_is_no_longer_than_the_expert_may_make_it() -> None:
    supply = Supply(workers=[worker("w", A)], waiting_max=8)
    found = prices({"a": expert("a", A, max_tokens=7)}, prompt_chars=0, completion_tokens={"a": 100.0}, supply=supply)
    assert found.costs["a"].tokens == 7


def test_a_queue_at_the_worker_is_waited_for_in_turns() -> None:
    assert priced(worker("w", A, running=9), experts={"a": A}).costs["a"].answer_s == pytest.approx(3.0)
    least = priced(worker("w", A, running=9), worker("v", A), experts={"a": A}).costs["a"]
    assert least.device == "v"
    assert least.answer_s == pytest.approx(1)


def test_loads_are_spread_over_the_workers_and_wait_for_what_runs_there() -> None:
    found = priced(worker("v", A), worker("w"), experts={"a": A, "b": B, "c": C}, bulk_out={"v": 8}).costs
    assert [found[name].device for name in "bc"] == ["w", "v"]
    assert [found[name].load_s for name in "bc"] == pytest.approx([20, 32])
    busy = priced(worker("w", loading=A), experts={"a": A, "b": B}).costs
    assert busy["a"].load_s == pytest.approx(10.0)
    assert busy["b"].load_s == pytest.approx(30.0)


def test_experts_that_nothing_can_run_or_that_have_no_room_are_left_out() -> None:
    remote = Model(source="https://host/v1")
    found = priced(worker("w", A, running=12), worker("v", B), experts={"a": A, "b": B, "far": remote})
    assert set(found.costs) == {"b"}
    assert found.full == {"a": pytest.approx(3.0)}
    assert found.left_out(["a", "b", "far"]) == (
        "a was left out: too many wait for it; far was left out: no worker can run its model"
    )


def test_a_model_is_waited_for_where_it_is_loaded_even_beside_another() -> None:
    several = worker("w", loading=A).model_copy(update={"also_loading": (B.key,)})
    cost = priced(worker("v"), several, experts={"b": B}).costs["b"]
    assert (cost.device, cost.load_s) == ("w", 20.0)


def test_a_model_for_a_group_of_devices_is_loaded_by_a_large_enough_group_or_not_at_all() -> None:
    large = A.model_copy(update={"tensor_parallel": 2})
    group = worker("w").model_copy(update={"device": "cuda:0,1"})
    assert priced(worker("v"), group, experts={"a": large}).costs["a"].device == "w"
    found = priced(worker("v"), experts={"a": large, "b": B})
    assert set(found.costs) == {"b"}
    assert found.left_out(["a"]) == "a was left out: no worker can run its model"


def test_a_full_worker_is_told_with_the_seconds_until_it_has_room() -> None:
    measured = {A.key: ModelCost(query_tps=1 / 0.045)}
    supply = Supply(workers=[worker("w", A, running=12)], measured=measured, waiting_max=8)
    with pytest.raises(QueueFull) as caught:
        refuse_if_full(A, supply)
    assert caught.value.retry_after_s == 14
    refuse_if_full(A, Supply(workers=[worker("w", A, running=11)], measured=measured, waiting_max=8))


def test_a_worker_with_room_goes_before_a_full_one_with_more_places() -> None:
    workers = [worker("many", A, running=16, slots=8), worker("few", A, running=9, slots=4)]
    found = priced(*workers, experts={"a": A})
    assert (found.costs["a"].device, found.full) == ("few", {})
    refuse_if_full(A, Supply(workers=workers, waiting_max=8))


def test_requests_that_wait_for_a_load_are_counted_where_it_will_be() -> None:
    supply = Supply(workers=[worker("w", A, running=2)], awaited={B.key: 10}, waiting_max=8)
    with pytest.raises(QueueFull):
        refuse_if_full(B, supply)
    refuse_if_full(A, supply)
    refuse_if_full(B, Supply(workers=[*supply.workers, worker("v")], awaited={B.key: 11}, waiting_max=8))


def test_a_model_that_sleeps_wakes_sooner_than_it_loads() -> None:
    dozing = worker("w").model_copy(update={"asleep": (B.key,)})
    cost = priced(worker("v"), dozing, experts={"b": B}).costs["b"]
    assert (cost.device, cost.load_s) == ("w", 2.0)
