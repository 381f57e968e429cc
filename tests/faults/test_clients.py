"""What clients meet when the API dies, is cut off or is asked too much; and how they call a run off."""

import time
from concurrent.futures import ThreadPoolExecutor
from statistics import quantiles
from typing import Any

import httpx
import pytest

from tests.faults.checker import check
from tests.faults.house import House, Run, lines
from tests.faults.ledger import Fault
from tests.faults.proxy import Proxy
from tests.faults.submissions import cut_short, moments
from tests.waiting import until
from workers.messages import PROGRESS_STREAM, Progress

CANCEL_S = 5.0
IN_FLIGHT = 4


@pytest.mark.fault("3", "API killed in mid-submission, same idempotency key")
@pytest.mark.timeout(300)
def test_a_submission_cut_short_and_sent_again_is_one_run(house: House, fault: Fault, is_full: bool) -> None:
    experts = house.pool({"ada": house.stub("one")})
    asked = lines(200)
    for number, after_s in enumerate(moments(10 if is_full else 2)):
        with fault.attempt():
            key = f"submission-{number}"
            body = {"file_id": house.upload(asked), "experts": experts, "k": 1, "fusion": "vote", "baselines": False}
            told = cut_short(house, lambda: _submit(house, body, key), after_s=after_s)  # noqa: B023
            assert told is None or after_s is not None
            ids = {_submit(house, body, key).json()["id"] for _ in range(2)}
            assert len(ids) == 1
            assert told is None or told in ids
            assert house.value("SELECT count(*) FROM run WHERE idempotency_key = :key", key=key) == 1
            run = Run(house, ids.pop(), [question.id for question in asked])
            run.wait_end()
            check(fault, run)


@pytest.mark.fault("17", "cancelled in mid-run")
def test_a_cancelled_run_ends_within_seconds_and_keeps_what_is_done(house: House, fault: Fault) -> None:
    with fault.attempt():
        run = house.submit(house.pool({"ada": house.stub("one", latency_s=0.3)}), lines(200))
        run.wait_done(20)
        cancelled_s = time.monotonic()
        house.http.post(f"/v1/benchmarks/{run.id}/cancel").raise_for_status()
        until(lambda: run.has_ended() and not any(_holds(house, worker.name) for worker in house.workers))
        assert time.monotonic() - cancelled_s < CANCEL_S
        kept = house.value("SELECT count(*) FROM instance WHERE run_id = :run AND error IS NULL", run=run.id)
        assert 0 < kept < 200
        check(fault, run, status="cancelled", failed=200 - kept)


@pytest.mark.fault("24", "ten times as many queries as there is room for")
def test_overload_is_told_at_once_and_who_is_let_in_is_served(house: House, fault: Fault) -> None:
    house.api.kill()
    house.api.start(MUSTER_QUERIES_IN_FLIGHT=str(IN_FLIGHT))
    until(house.is_ready, timeout_s=30)
    experts = house.pool({"ada": house.stub("one", latency_s=0.3)})
    house.ask("Warm? [stub:gold=7]", experts)  # loads the model

    def ask(_: int) -> tuple[httpx.Response, float]:
        began_s = time.monotonic()
        return house.ask("What is it? [stub:gold=7]", experts), time.monotonic() - began_s

    with fault.attempt(), ThreadPoolExecutor(10 * IN_FLIGHT) as threads:
        usual = [seconds for _ in range(3) for _, seconds in threads.map(ask, range(IN_FLIGHT))]
        answers = [answer for _ in range(2) for answer in threads.map(ask, range(10 * IN_FLIGHT))]
        refused = [response for response, _ in answers if response.status_code == 429]
        served = [seconds for response, seconds in answers if response.status_code == 200]
        told = [seconds for response, seconds in answers if response.status_code == 429]
        fault.note = (
            f"{len(served)} served, p95 {_p95(served):.2f} s, usually {_p95(usual):.2f} s; {len(refused)} refused,"
            f" p95 {_p95(told):.2f} s"
        )
        assert len(refused) + len(served) == len(answers)
        assert len(refused) > len(answers) / 2  # nine in ten, where all come in at once
        assert _p95(told) < 2 * _p95(usual)
        assert all(int(response.headers["retry-after"]) > 0 for response in refused)
        assert _p95(served) < 2 * _p95(usual)
        assert house.ask("And now? [stub:gold=7]", experts).status_code == 200


@pytest.mark.fault("27", "API cut off from the workers")
def test_a_query_behind_a_cut_fails_in_time_and_the_next_one_works(house: House, fault: Fault) -> None:
    with Proxy(house.valkey_port) as cable:
        house.api.kill()
        house.api.start(REDIS_URL=house.redis_url_at(cable.port))
        until(house.is_ready, timeout_s=30)
        experts = house.pool({"ada": house.stub("one", latency_s=1.0)})
        assert house.ask("Warm? [stub:gold=7]", experts).status_code == 200
        with fault.attempt(), ThreadPoolExecutor() as threads:
            run = house.submit(experts, lines(40))
            asked = threads.submit(house.ask, "What is it? [stub:gold=7]", experts, budget={"seconds": 3})
            until(lambda: any((s := house.state(w.name)) and s.online_running for w in house.workers))
            cable.cut()
            began_s = time.monotonic()
            response = asked.result()
            assert response.status_code in (503, 504), response.text
            assert time.monotonic() - began_s < 15
            cable.heal()
            until(lambda: house.ask("And now? [stub:gold=7]", experts).status_code == 200, timeout_s=30)
            run.wait_end()
            check(fault, run)
        house.api.kill()


@pytest.mark.fault("27b", "worker cut off from Valkey past its lease")
def test_a_worker_behind_a_cut_begins_nothing_that_others_have_finished(house: House, fault: Fault) -> None:
    cut, other = house.workers
    with Proxy(house.valkey_port) as cable:
        for worker in house.workers:
            worker.kill()
        cut.start("--bulk-sequences", "2", REDIS_URL=house.redis_url_at(cable.port))
        with fault.attempt():
            run = house.submit(house.pool({"ada": house.stub("one", latency_s=1.0)}), lines(60))
            run.wait_done(2)
            cable.cut()
            other.start("--bulk-sequences", "64")  # it has finished all long before the other would have
            run.wait_end()
            cut.forget()
            cable.heal()
            until(lambda: cut.says("is another's, or was given up: dropped"), timeout_s=20)
            until(lambda: not _holds(house, cut.name), timeout_s=20)
            check(fault, run)
        cut.kill()


def _submit(house: House, body: dict[str, object], key: str) -> httpx.Response:
    return house.http.post("/v1/benchmarks", json=body, headers={"Idempotency-Key": key})


def _holds(house: House, worker: str) -> bool:
    """Whether the worker's last word on the progress stream mentions a chunk."""
    entries: Any = house.redis.xrevrange(PROGRESS_STREAM, count=50)
    for _, fields in entries:
        progress = Progress.model_validate_json(fields["progress"])
        if progress.state.worker == worker:
            return bool(progress.chunks)
    return False


def _p95(seconds: list[float]) -> float:
    return quantiles(seconds, n=20)[-1]
