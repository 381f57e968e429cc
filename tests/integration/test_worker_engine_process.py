"""Engines in a process of their own, by the stub: what dies with what, and what comes back."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.waiting import until
from tests.worker_process import WorkerProcess, chunk, request
from workers.engines import leftovers
from workers.messages import Model

CHILD = Model(source="stub:child?child=1&tokens_per_s=100")


@pytest.fixture
def worker(redis_url: str, tmp_path: Path) -> Iterator[WorkerProcess]:
    with WorkerProcess(redis_url, tmp_path, "--stall-s", "1") as started:
        yield started


def engine_pid(data_dir: Path) -> int:
    """The engine process that the worker wrote down."""
    notes = until(lambda: list((data_dir / "workers" / "w1").glob("*.json")))
    return int(json.loads(notes[0].read_text())["pid"])


def test_a_child_engine_answers_and_streams_like_any_other(worker: WorkerProcess) -> None:
    worker.send(chunk(1, CHILD, [request(f"u{i}", f"{i}") for i in range(8)]))
    worker.ask(CHILD, request("q1", max_tokens=12))
    completion = worker.reply("q1")
    worker.wait_ended(1)
    assert all(each.text and each.error is None for each in worker.finished(1).values())
    assert "".join(delta.text for delta in worker.deltas("q1")) == completion.text
    assert len(worker.deltas("q1")) > 2
    assert worker.loads()[0].memory_bytes > 1_000_000


def test_a_killed_engine_fails_its_requests_and_is_loaded_for_the_next(worker: WorkerProcess, tmp_path: Path) -> None:
    worker.send(chunk(1, CHILD, [request("u1", "[stub:wait=60]")]))
    until(lambda: worker.loads())
    first = engine_pid(tmp_path)
    os.kill(first, signal.SIGKILL)
    worker.wait_ended(1)
    completion = worker.finished(1)["u1"]
    assert completion.fault == "engine"
    assert "signal 9" in (completion.error or "")
    worker.send(chunk(2, CHILD, [request("u1")]))
    worker.wait_ended(2)
    assert worker.finished(2)["u1"].error is None
    assert engine_pid(tmp_path) != first


def test_poison_kills_the_engine_and_not_the_worker(worker: WorkerProcess) -> None:
    worker.send(chunk(1, CHILD, [request("u1", "[stub:poison]")]))
    worker.wait_ended(1)
    assert worker.finished(1)["u1"].fault == "engine"
    assert worker.process.poll() is None


def test_an_engine_that_computes_nothing_is_killed(worker: WorkerProcess, tmp_path: Path) -> None:
    worker.send(chunk(1, CHILD, [request("u1", "[stub:wait=60]")]))
    until(lambda: worker.loads())
    hung = engine_pid(tmp_path)
    os.kill(hung, signal.SIGSTOP)
    worker.wait_ended(1)
    assert "computed nothing" in (worker.finished(1)["u1"].error or "")
    until(lambda: not leftovers.members(hung))


def test_an_evicted_engine_gives_its_process_back(worker: WorkerProcess, tmp_path: Path) -> None:
    worker.send(chunk(1, CHILD, [request("u1")]))
    worker.wait_ended(1)
    evicted = engine_pid(tmp_path)
    worker.send(chunk(2, Model(source="stub:other"), [request("u2")]))
    worker.wait_ended(2)
    assert not leftovers.members(evicted)


def test_a_killed_worker_leaves_no_engine_behind(worker: WorkerProcess, tmp_path: Path) -> None:
    worker.send(chunk(1, CHILD, [request("u1", "[stub:wait=60]")]))
    until(lambda: worker.loads())
    engine = engine_pid(tmp_path)
    worker.terminate(signal.SIGKILL)
    until(lambda: not leftovers.members(engine))


def test_a_worker_ends_the_engines_of_its_former_life(redis_url: str, tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True) as left:
        leftovers.remember(tmp_path, "w1", left.pid)
        with WorkerProcess(redis_url, tmp_path):
            assert left.wait(timeout=5) == -signal.SIGKILL


def test_a_process_that_only_has_the_pid_of_a_former_engine_is_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True) as other:
        note = leftovers.remember(tmp_path, "w1", other.pid)
        note.write_text(json.dumps(json.loads(note.read_text()) | {"start_ticks": 1}))
        assert leftovers.reap(tmp_path, "w1") == []
        assert other.poll() is None
        assert not note.exists()
        other.kill()


def test_an_engine_that_stands_still_is_killed_for_bulk_and_for_a_query(worker: WorkerProcess, tmp_path: Path) -> None:
    standing = Model(source="stub:standing?child=1&hang_at=3")
    worker.send(chunk(1, standing, [request(f"u{i}", f"{i}") for i in range(4)]))
    first = engine_pid(tmp_path)
    worker.wait_ended(1)
    faults = sorted(str(each.fault) for each in worker.finished(1).values())
    assert faults == ["None", "None", "engine", "engine"]
    for number in (1, 2):  # its second life has two requests before it stands still
        worker.ask(standing, request(f"q{number}", f"{number}"))
        assert worker.reply(f"q{number}").error is None
    assert engine_pid(tmp_path) != first
    worker.ask(standing, request("q3"))
    assert "computed nothing" in (worker.reply("q3").error or "")


def test_a_child_engine_sleeps_and_wakes_in_the_process_it_had(worker: WorkerProcess, tmp_path: Path) -> None:
    sleepy, other = Model(source="stub:sleepy?child=1&sleep=1&memory_bytes=9"), Model(source="stub:other")
    worker.send(chunk(1, sleepy, [request("u1")]))
    worker.wait_ended(1)
    slept = engine_pid(tmp_path)
    worker.send(chunk(2, other, [request("u2")]))
    worker.wait_ended(2)
    until(lambda: (state := worker.state()) is not None and state.asleep == (sleepy.key,))
    worker.send(chunk(3, sleepy, [request("u3")]))
    worker.wait_ended(3)
    assert engine_pid(tmp_path) == slept
    assert [load.woken for load in worker.loads()] == [False, False, True]
    assert worker.finished(3)["u3"].text == worker.finished(1)["u1"].text


def test_a_child_engine_that_wakes_up_wrong_is_replaced(worker: WorkerProcess, tmp_path: Path) -> None:
    odd = Model(source="stub:odd?child=1&sleep=1&memory_bytes=9&wake=wrong")
    for number, model in enumerate((odd, Model(source="stub:other"), odd), start=1):
        worker.send(chunk(number, model, [request("u")]))
        worker.wait_ended(number)
    assert "canary" in (worker.loads()[-1].failed_wake or "")
    assert worker.finished(3)["u"].text == worker.finished(1)["u"].text


def test_queries_that_give_up_before_a_stall_is_over_do_not_hide_it(worker: WorkerProcess, tmp_path: Path) -> None:
    standing = Model(source="stub:standing?child=1&hang_at=1")
    worker.ask(standing, request("q0"), seconds=0.8)
    hung = engine_pid(tmp_path)
    assert worker.reply("q0").finish_reason == "abort"
    assert leftovers.members(hung)
    worker.ask(standing, request("q1"), seconds=0.8)
    assert "computed nothing" in (worker.reply("q1").error or "")
    until(lambda: not leftovers.members(hung))
