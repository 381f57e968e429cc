"""The simulation: what it must reach, and that its figures can be true."""

import itertools
import xml.etree.ElementTree as ElementTree
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.costs import costs_file
from orchestrator.costs.costs_file import CostsError, CostsFile
from orchestrator.simulation import baselines, bounds, gantt, report, simulation, workload
from orchestrator.simulation.device import LOAD
from orchestrator.simulation.workload import GENERATE, Workload

SHIPPED = costs_file.read()


def simulate(gpus: int, **more: Any) -> report.Simulated:
    return report.simulate(SHIPPED, **{"experts": 16, "instances": 2100, "k": 3, "gpus": gpus, **more})


def small(**device: Any) -> CostsFile:
    """Models of 1 s per 1,000 tokens, that load in 10 s and take 4 GB."""
    models = [
        {"name": name, "parameters_b": 1.0, "load_s": 10.0, "memory_gb": 4.0, "prefill_tps": 1000, "decode_tps": 1000,
         "decode_alone_tps": 100} for name in "abcd"
    ]  # fmt: skip
    stage = {"prompt_tokens": 500, "completion_tokens": 500}
    given = {
        **SHIPPED.model_dump(),
        "device": {"memory_gb": 6.0, **device},
        "models": models,
        "usage": {"default": "even", "even": [1, 1, 1, 1]},
        "stages": {"annotate": {**stage, "model": "a"}, "generate": stage, "fuse": {**stage, "model": "b"}},
    }
    return CostsFile.model_validate(given)


@pytest.mark.parametrize("gpus", [1, 2, 4])
def test_up_to_four_devices_end_within_a_twentieth_of_the_lower_bound(gpus: int) -> None:
    assert simulate(gpus).report["ratio"] <= 1.05


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_that_is_no_luck_of_one_draw(seed: int) -> None:
    assert simulate(4, seed=seed).report["ratio"] <= 1.05


@pytest.mark.parametrize("experts", [3, 4, 5])
def test_a_few_experts_do_not_make_it_wait(experts: int) -> None:
    assert simulate(3, experts=experts, usage="posterior").report["ratio"] <= 1.10


def test_eight_devices_end_within_a_tenth_of_it() -> None:
    assert simulate(8).report["ratio"] <= 1.10


@pytest.mark.parametrize("usage", ["paper", "posterior"])
def test_one_device_makes_the_fewest_loads_possible(usage: str) -> None:
    found = simulate(1, usage=usage).report
    assert found["loads"] == found["fewest_loads_one_worker"] == found["distinct_models"]


def test_grouping_gains_more_than_the_paper_reports() -> None:
    found = simulate(1).report
    assert found["times_faster_than_naive"] >= 7.6
    assert found["makespan_s"] < found["first_come"]["makespan_s"]
    assert found["loads"] < found["first_come"]["loads"]


def test_the_same_seed_gives_the_same_figures() -> None:
    clocks = {"plan_seconds", "seconds"}
    first, second = (simulate(8, instances=300).report for _ in range(2))
    assert {key: first[key] for key in first.keys() - clocks} == {key: second[key] for key in second.keys() - clocks}


def test_all_work_is_done_once_and_a_device_computes_one_thing_at_a_time() -> None:
    done = simulate(4, instances=500)
    assert done.outcome.work_s == pytest.approx(done.workload.work_s().sum())
    for number in range(4):
        spans = sorted((span for span in done.outcome.spans if span.device == number), key=lambda each: each.start_s)
        assert all(left.end_s <= right.start_s + 1e-6 for left, right in itertools.pairwise(spans))
        loaded = [span.model for span in spans if span.stage == LOAD]
        assert {span.model for span in spans if span.stage != LOAD} <= set(loaded)


@settings(max_examples=25)
@given(
    experts=st.integers(2, 6),
    instances=st.integers(1, 200),
    gpus=st.integers(1, 5),
    memory_gb=st.sampled_from([4.0, 9.0, 13.0]),
    seed=st.integers(0, 9),
)
def test_nothing_beats_the_lower_bound(experts: int, instances: int, gpus: int, memory_gb: float, seed: int) -> None:
    costs = small(memory_gb=memory_gb)
    work = workload.build(costs, experts=experts, instances=instances, k=2, usage=None, seed=seed)
    least = bounds.bounds(work, workers=gpus, memory_bytes=int(memory_gb * 1e9)).lower_bound_s
    assert simulation.planned(work, costs, workers=gpus).makespan_s >= least - 1e-6
    assert baselines.first_come(work, costs, workers=gpus).makespan_s >= least - 1e-6


def test_small_models_stay_together_where_they_fit() -> None:
    apart = report.simulate(small(memory_gb=6.0), experts=4, instances=50, k=2, gpus=1).report
    together = report.simulate(small(memory_gb=16.0), experts=4, instances=50, k=2, gpus=1).report
    assert together["loads"] == 4
    assert together["makespan_s"] < apart["makespan_s"]


def test_one_question_after_another_by_hand() -> None:
    """a annotates (6 s beside its load of 10), b answers (load, 5.5 s), b fuses (5.5 s)."""
    costs = small()
    work = Workload(
        models=workload.build(costs, experts=2, instances=1, k=1, usage=None, seed=0).models,
        experts=2,
        annotator=0,
        aggregator=1,
        recruits=np.array([[1]]),
        stages=(costs.stages.annotate, costs.stages.generate, costs.stages.fuse),
    )
    alone_s = 500 / 1000 + 500 / 100
    expected = baselines.Plain(makespan_s=2 * 10 + 3 * alone_s, loads=2)
    assert baselines.one_by_one(work, costs, workers=1) == expected
    assert baselines.fixed_order(work, workers=1).makespan_s == pytest.approx(expected.makespan_s)
    assert bounds.bounds(work, workers=1, memory_bytes=int(6e9)).path_s == pytest.approx(10 + 3 * alone_s)


@pytest.mark.parametrize("experts", [4, 16, 200])
@pytest.mark.parametrize("usage", ["paper", "posterior"])
def test_recruits_are_distinct_and_as_skewed_as_measured(experts: int, usage: str) -> None:
    work = workload.build(SHIPPED, experts=experts, instances=4000, k=3, usage=usage, seed=0)
    assert all(len(set(row)) == 3 for row in work.recruits.tolist())
    counts = np.sort(work.units()[:, GENERATE])[::-1]
    assert counts.sum() == 12_000
    if experts == 16:
        assert counts[:16] / 12_000 == pytest.approx(SHIPPED.shares(usage), abs=0.004)


def test_models_that_no_worker_can_hold_are_named() -> None:
    with pytest.raises(CostsError, match=r"a needs 4\.0 GB, but a worker has 3\.0 GB"):
        report.simulate(small(memory_gb=3.0), experts=2, instances=5, k=1, gpus=1)
    with pytest.raises(CostsError, match="3 GPUs do not make groups of 2"):
        report.simulate(small(group=2), experts=2, instances=5, k=1, gpus=3)


def test_a_group_of_devices_runs_what_needs_several() -> None:
    costs = small(group=2)
    wide = costs.model_copy(update={"models": tuple(each.model_copy(update={"devices": 2}) for each in costs.models)})
    assert report.simulate(wide, experts=4, instances=20, k=2, gpus=4).report["workers"] == 2
    narrow = wide.model_copy(update={"device": costs.device.model_copy(update={"group": 1})})
    with pytest.raises(CostsError, match="needs 2 devices"):
        report.simulate(narrow, experts=4, instances=20, k=2, gpus=4)


def test_the_picture_has_a_row_for_each_worker_and_a_name_for_each_model() -> None:
    done = simulate(2, instances=200)
    made = gantt.svg(done.outcome.spans, workers=2, makespan_s=done.outcome.makespan_s, title="a < b")
    texts = [each.text for each in ElementTree.fromstring(made).iter() if each.text]
    assert {"a < b", "worker 0", "worker 1", "seconds"} <= set(texts)
    assert {span.model for span in done.outcome.spans} <= set(texts)
