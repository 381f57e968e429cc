"""Workers that die, drain, freeze, come back, and read the wrong time."""

import os
import random
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import kombu.connection
import pytest

from tests.faults import batch
from tests.faults.checker import check, check_undisturbed, judge
from tests.faults.house import LEASE_S, LONG_LEASE, House, lines, points
from tests.faults.ledger import Fault
from tests.waiting import until
from workers.celery_app import EXIT_DEVICE_LOST
from workers.messages import VISIBILITY_TIMEOUT_S, bulk_queue

SKEW_S = 300
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
static time_t skew(void) { const char *by = getenv("CLOCK_SKEW_S"); return by ? atol(by) : 0; }
int clock_gettime(clockid_t id, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(id, now);
    if (!failed && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) now->tv_sec += skew();
    return failed;
}
int gettimeofday(struct timeval *now, void *zone) {
    struct timespec at;
    int failed = clock_gettime(CLOCK_REALTIME, &at);
    now->tv_sec = at.tv_sec; now->tv_usec = at.tv_nsec / 1000;
    return failed;
}
time_t time(time_t *out) {
    struct timespec at;
    clock_gettime(CLOCK_REALTIME, &at);
    if (out) *out = at.tv_sec;
    return at.tv_sec;
}
"""
"""What libfaketime does, as far as it is needed: another wall clock for one process, by the C library."""


@pytest.mark.fault("1", "worker killed at a random point")
@pytest.mark.timeout(900)
def test_a_worker_killed_at_random_points_loses_no_line(house: House, fault: Fault, is_full: bool) -> None:
    """In turn: caught in the middle of some units, and at any moment, be it of a load, a claim or a message."""
    draw = random.Random(1)
    usual = house.submit(house.mixed_pool(0), lines(60))
    usual.wait_end()
    for number, point in enumerate(points(20 if is_full else 2, units=120), 1):
        with fault.attempt():
            run = house.submit(house.mixed_pool(number), lines(60))
            if is_caught := bool(number % 2):
                run.wait_done(point)
                run.kill_holder()
            else:
                run.kill_somebody(draw, within_s=usual.took_s)
            house.keep_running(run, timeout_s=40)
            assert check(fault, run).starts > run.units() or not is_caught


@pytest.mark.fault("2", "SIGTERM: what runs ends, the rest is handed back")
def test_a_drained_worker_costs_no_unit_anything(house: House, fault: Fault) -> None:
    slow = house.stub("one", latency_s=0.2)
    house.orchestrator.stop()
    house.orchestrator.start(**LONG_LEASE)
    with fault.attempt():
        run = house.submit(house.pool({"ada": slow}), lines(120))
        run.wait_done(10)
        for worker in house.workers:
            assert worker.stop() == 0
            worker.start()
        run.wait_end()
        check_undisturbed(fault, run)


@pytest.mark.fault("6", "task outlives the visibility timeout")
def test_a_message_delivered_again_while_it_runs_is_dropped(house: House, fault: Fault) -> None:
    house.redis.delete("unacked", "unacked_index")  # what was given out to workers that were killed since
    with fault.attempt():
        run = house.submit(house.pool({"ada": house.stub("one", latency_s=1.2)}), lines(64))
        until(lambda: house.redis.zcard("unacked_index") == 2)
        # In the broker's own books: given out half a day ago.
        age_s = VISIBILITY_TIMEOUT_S + 60
        tags: Any = house.redis.zrange("unacked_index", 0, -1)
        for tag in tags:
            house.redis.zincrby("unacked_index", -age_s, tag)
        # What every consumer does once in a hundred seconds.
        options = {"visibility_timeout": VISIBILITY_TIMEOUT_S, "priority_steps": [0]}
        with kombu.connection.Connection(house.valkey.url, transport_options=options) as broker:  # type: ignore[no-untyped-call]
            broker.default_channel.qos.restore_visible(interval=1)
        # Given out again, dropped and acknowledged, while the first delivery still runs.
        queues = [bulk_queue(worker.name) for worker in house.workers]
        until(lambda: not house.redis.zcard("unacked_index") and not house.redis.exists(*queues))
        assert run.units("state = 'sent'")
        run.wait_end()
        assert check(fault, run).starts <= 64 + run.losses()


@pytest.mark.fault("7", "frozen past its lease, then thawed")
def test_a_frozen_worker_comes_back_too_late_for_everything(house: House, fault: Fault) -> None:
    frozen, other = house.workers
    other.stop()
    with fault.attempt():
        run = house.submit(house.pool({"ada": house.stub("one", latency_s=0.3)}), lines(60))
        run.wait_done(8)
        frozen.freeze()
        other.start()
        run.wait_end()
        starts = judge(run).starts
        house.orchestrator.forget()
        frozen.forget()
        frozen.thaw()
        until(lambda: frozen.says("is another's, or was given up: dropped"))
        until(lambda: house.orchestrator.says("completions refused"))
        assert check(fault, run).starts == starts


@pytest.mark.fault("10", "a line that kills its engine")
@pytest.mark.parametrize("dies", ["engine", "worker"])
@pytest.mark.timeout(240)
def test_a_poisonous_line_is_isolated_and_the_rest_is_answered(house: House, fault: Fault, dies: str) -> None:
    model = house.stub("one", child=int(dies == "engine"), latency_s=0.05)
    with fault.attempt():
        run = house.submit(house.pool({"ada": model}), [*lines(40), *lines(1, prefix="bad", marks="[stub:poison]")])
        house.keep_running(run, timeout_s=120)
        check(fault, run, failed=1)
        (bad,) = [line for line in run.results() if line["error"]]
        assert bad["id"] == "bad0"
        assert run.units("state = 'failed'") == 1


@pytest.mark.fault("11", "an engine hangs while its health is green")
def test_a_line_that_hangs_its_engine_is_isolated(house: House, fault: Fault) -> None:
    for worker in house.workers:
        worker.kill()
        worker.start("--stall-s", "1")
    with fault.attempt():
        model = house.stub("one", child=1)
        run = house.submit(house.pool({"ada": model}), [*lines(20), *lines(1, prefix="bad", marks="[stub:hang]")])
        run.wait_end()
        check(fault, run, failed=1)
        assert "computed nothing" in next(line["error"] for line in run.results() if line["error"])


@pytest.mark.fault("11b", "an engine hangs again and again, health green")
def test_an_engine_that_hangs_is_killed_and_its_work_is_tried_again(house: House, fault: Fault) -> None:
    for worker in house.workers:
        worker.kill()
        worker.start("--stall-s", "0.5")
    with fault.attempt():
        run = house.submit(house.pool({"ada": house.stub("one", child=1, hang_at=30, latency_s=0.05)}), lines(70))
        run.wait_end()
        check(fault, run)
        loads = house.value("SELECT count(*) FROM load WHERE run_id = :run AND error IS NULL", run=run.id)
        assert loads > len(house.workers)


@pytest.mark.fault("22", "an engine that wakes up saying other things")
def test_an_engine_that_wakes_up_wrong_is_loaded_anew(house: House, fault: Fault) -> None:
    house.workers[1].kill()  # one device for two models: each sleeps in turn
    sources = {name: house.stub(name, child=1, sleep=1, memory_bytes=9, wake="wrong") for name in ("one", "two")}
    experts = house.pool(sources)
    with fault.attempt():
        first, second = (_texts(house, fault, experts) for _ in range(2))
        wrong = "SELECT count(*) FROM load WHERE failed_wake LIKE '%canary%' AND error IS NULL AND NOT woken"
        assert house.value(wrong) > 0
        assert first == second


def _texts(house: House, fault: Fault, experts: list[str]) -> list[list[str]]:
    """What the experts say to each line of a run."""
    run = house.submit(experts, lines(20), seed=7)
    run.wait_end()
    check(fault, run)
    return [sorted(each["text"] for each in line["completions"]) for line in run.results()]


@pytest.mark.fault("23", "device lost")
def test_a_worker_without_its_device_ends_and_others_take_its_share(house: House, fault: Fault, tmp_path: Path) -> None:
    gone, tool = tmp_path / "gone", tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\ntest ! -e {gone} && echo GPU-0 && exit\necho GPU is lost.\nexit 15\n")
    tool.chmod(0o755)
    worker, other = house.workers

    def start() -> None:
        worker.start("--device", "cuda:0", PATH=f"{tmp_path}:{os.environ['PATH']}", GONE=str(gone))

    worker.kill()
    start()
    models = {name: house.stub(name, child=1, lost="GONE", latency_s=0.1) for name in ("one", "two")}
    experts = house.pool(models)
    done_there = "SELECT count(*) FROM load WHERE run_id = :run AND worker = :worker"
    with fault.attempt():
        run = house.submit(experts, lines(100))
        until(lambda: house.value(done_there, run=run.id, worker=worker.name))
        run.wait_done(20)
        gone.touch()
        until(lambda: worker.exit_status is not None)
        assert worker.exit_status == EXIT_DEVICE_LOST
        start()  # whoever starts it again learns why it cannot be
        until(lambda: worker.exit_status is not None)
        assert worker.exit_status == EXIT_DEVICE_LOST
        run.wait_end()
        check(fault, run)
        assert run.units("attempts > 0") == 0
        assert house.value("SELECT count(*) FROM load WHERE run_id = :run AND error IS NOT NULL", run=run.id) == 0
        states = house.rows("SELECT DISTINCT state FROM expert WHERE name = ANY(:names)", names=experts)
        assert [row.state for row in states] == ["live"]
        gone.unlink()
        start()
        other.kill()
        again = house.submit(experts, lines(20))
        again.wait_end()
        check(fault, again)


@pytest.fixture
def shim(tmp_path: Path) -> Path:
    """A library that moves the wall clock of the process it is loaded into."""
    if (compiler := shutil.which("cc")) is None:
        pytest.skip("no C compiler to build the clock shim with")
    source, library = tmp_path / "clock.c", tmp_path / "clock.so"
    source.write_text(SHIM)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    return library


@pytest.mark.fault("26", "clocks five minutes ahead and behind")
@pytest.mark.timeout(120)
def test_only_the_clocks_of_the_servers_count(house: House, fault: Fault, shim: Path, is_full: bool) -> None:
    early, late = (_clock(shim, skew_s) for skew_s in (-SKEW_S, SKEW_S))
    first, second = house.workers
    model = house.stub("one", latency_s=0.2)
    for one, other in ((late, early), (early, late))[: 2 if is_full else 1]:
        for part, clock in {house.orchestrator: one, house.api: other, first: one, second: other}.items():
            part.kill()
            part.start(**clock)
        until(house.is_ready, timeout_s=30)
        for worker in house.workers:
            until(lambda name=worker.name: (state := house.state(name)) and abs(state.at - time.time()) < LEASE_S)  # type: ignore[misc]
        experts = house.pool({"ada": model, "bob": model})
        with fault.attempt():
            runs = house.submit(experts, lines(40)), batch.submit(house, batch.requests(40), window="60s")
            runs[0].wait_done(5)
            second.kill()
            second.start(**one)
            for run in runs:
                run.wait_end()
                check(fault, run)
            for _ in range(4):  # either worker may be asked
                assert house.ask("What is it? [stub:gold=7]", experts, budget={"seconds": 10}).status_code == 200


def _clock(shim: Path, skew_s: int) -> dict[str, Any]:
    """What to start a part with, so that its clock is wrong by so much."""
    return {"LD_PRELOAD": str(shim), "CLOCK_SKEW_S": str(skew_s)}
