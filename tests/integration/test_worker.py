"""A worker process on the stub engine, seen from the orchestrator's side."""

import itertools
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.local.embedded import EmbeddedValkey
from tests.waiting import until
from tests.worker_process import WorkerProcess, chunk, request
from workers import messages
from workers.messages import Load, Model

SLOW = Model(source="stub:slow?tokens_per_s=20")
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def shared_worker(valkey: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    """One worker for the tests that leave it as they found it."""
    with WorkerProcess(valkey.url_of(15), tmp_path_factory.mktemp("worker"), name="shared") as worker:
        yield worker


@pytest.fixture
def worker(shared_worker: WorkerProcess) -> WorkerProcess:
    shared_worker.redis.delete(messages.PROGRESS_STREAM)
    return shared_worker


@pytest.fixture
def own_worker(redis_url: str, tmp_path: Path) -> Iterator[WorkerProcess]:
    """A worker that may be killed."""
    with WorkerProcess(redis_url, tmp_path, "--drain-s", "1", "--bulk-sequences", "2") as worker:
        yield worker


@pytest.fixture
def number() -> int:
    """An id that no other test uses."""
    return next(_numbers) * 100


def stub(number: int, options: str = "") -> Model:
    """A model that no other test uses."""
    return Model(source=f"stub:model-{number}?{options}")


def test_a_chunk_comes_back_unit_by_unit_and_then_ends(worker: WorkerProcess, number: int) -> None:
    model = stub(number)
    worker.send(chunk(number, model, [request(f"u{i}", f"Question {i}") for i in range(64)]))
    worker.wait_ended(number)
    completions = worker.finished(number)
    assert len(completions) == 64
    assert all(each.text and each.error is None for each in completions.values())
    assert [load.model_key for load in worker.loads()] == [model.key]


def test_the_same_chunk_sent_twice_runs_once(worker: WorkerProcess, number: int) -> None:
    sent = chunk(number, stub(number), [request("u1")])
    worker.send(sent)
    worker.wait_ended(number)
    worker.send(sent)
    worker.send(chunk(number + 1, stub(number), [request("u2")]))
    worker.wait_ended(number + 1)
    assert list(worker.finished(number)) == ["u1"]


def test_a_chunk_that_was_given_up_is_not_begun(worker: WorkerProcess, number: int) -> None:
    worker.redis.set(messages.claim_key(number), messages.LOST_CLAIM)
    worker.send(chunk(number, stub(number), [request("u1")]))
    worker.send(chunk(number + 1, stub(number), [request("u2")]))
    worker.wait_ended(number + 1)
    assert worker.finished(number) == {}
    assert worker.ended() == [number + 1]


def test_each_model_loads_once_though_its_chunks_come_mixed(worker: WorkerProcess, number: int) -> None:
    first, second = stub(number, "load_s=0.3&latency_s=0.2"), stub(number + 1, "latency_s=0.1")
    ids = range(number, number + 6)
    for i in ids:
        worker.send(chunk(i, second if i % 2 else first, [request(f"u{i}")]))
    worker.wait_ended(*ids)
    assert [load.model_key for load in worker.loads()] == [first.key, second.key]
    assert all(each.error is None for each in worker.finished(*ids).values())


def test_a_model_is_not_evicted_under_running_work(worker: WorkerProcess, number: int) -> None:
    other = stub(number)
    worker.send(chunk(number, SLOW, [request("u1", max_tokens=12)]))
    until(lambda: worker.loads())
    worker.send(chunk(number + 1, other, [request("u2")]))
    worker.wait_ended(number, number + 1)
    assert worker.finished(number)["u1"].error is None
    assert worker.ended() == [number, number + 1]
    until(lambda: (state := worker.state()) is not None and state.resident == (other.key,))


def test_a_query_overtakes_bulk_work(worker: WorkerProcess, number: int) -> None:
    model = stub(number, "tokens_per_s=20")
    for i in (number, number + 1):
        worker.send(chunk(i, model, [request(f"u{j}", f"{j}") for j in range(200)], run_id=f"r{number}"))
    until(lambda: worker.loads())
    worker.ask(model, request(f"q{number}", max_tokens=3))
    assert worker.reply(f"q{number}").error is None
    assert not worker.ended()
    worker.redis.sadd(messages.CANCELLED_KEY, f"run:r{number}")
    worker.wait_ended(number, number + 1)


def test_an_answer_streams_and_its_completion_has_the_whole_text(worker: WorkerProcess) -> None:
    worker.ask(SLOW, request("streamed", max_tokens=8))
    completion = worker.reply("streamed")
    deltas = worker.deltas("streamed")
    assert len(deltas) > 3
    assert "".join(delta.text for delta in deltas) == completion.text
    assert completion.completion_tokens == 8
    assert 0 < int(str(worker.redis.ttl(messages.reply_stream("streamed")))) <= 71


def test_a_query_past_its_deadline_is_aborted(worker: WorkerProcess) -> None:
    worker.ask(SLOW, request("late", "[stub:hang]"), seconds=0.5)
    worker.ask(SLOW, request("too-late"), seconds=-1.0)
    assert worker.reply("late").finish_reason == "abort"
    assert worker.reply("too-late").finish_reason == "abort"


def test_a_demanded_load_makes_a_model_resident(worker: WorkerProcess, number: int) -> None:
    worker.send(Load(model=stub(number)))
    until(lambda: (state := worker.state()) is not None and state.resident == (stub(number).key,))


def test_cancelling_a_unit_a_query_and_a_run_aborts_them(worker: WorkerProcess, number: int) -> None:
    units = [request(f"u{number}", "[stub:hang]"), request(f"v{number}", "[stub:hang]")]
    worker.send(chunk(number, stub(number), units, run_id=f"r{number}"))
    worker.ask(stub(number), request(f"q{number}", "[stub:hang]"), seconds=60)
    until(lambda: (state := worker.state()) is not None and state.online_running)
    worker.redis.sadd(messages.CANCELLED_KEY, f"u{number}", f"q{number}")
    assert worker.reply(f"q{number}").finish_reason == "abort"
    assert until(lambda: worker.finished(number))[f"u{number}"].finish_reason == "abort"
    assert not worker.ended()
    worker.redis.sadd(messages.CANCELLED_KEY, f"run:r{number}")
    worker.wait_ended(number)
    assert worker.finished(number)[f"v{number}"].finish_reason == "abort"


def test_a_cancelled_chunk_loads_nothing(worker: WorkerProcess, number: int) -> None:
    worker.redis.sadd(messages.CANCELLED_KEY, f"run:r{number}")
    worker.send(chunk(number, stub(number), [request("u1")], run_id=f"r{number}"))
    worker.wait_ended(number)
    assert worker.finished(number)["u1"].finish_reason == "abort"
    assert worker.loads() == []


def test_a_model_that_cannot_be_loaded_fails_its_units_and_nothing_else(worker: WorkerProcess, number: int) -> None:
    worker.send(chunk(number, stub(number, "fail_load=its+file+is+broken"), [request("u1"), request("u2")]))
    worker.send(chunk(number + 1, stub(number), [request("u3")]))
    worker.wait_ended(number, number + 1)
    assert {each.fault for each in worker.finished(number).values()} == {"model"}
    assert worker.finished(number + 1)["u3"].error is None
    assert [load.error for load in worker.loads()] == ["its file is broken", None]


def test_a_model_for_another_kind_of_worker_is_refused(worker: WorkerProcess, number: int) -> None:
    worker.send(chunk(number, Model(source="https://models.example/v1", remote_name="m"), [request("u1")]))
    worker.wait_ended(number)
    completion = worker.finished(number)["u1"]
    assert completion.fault == "model"
    assert "needs remote" in (completion.error or "")


def test_a_bad_request_fails_alone(worker: WorkerProcess, number: int) -> None:
    worker.send(chunk(number, stub(number), [request("bad", "[stub:error]"), request("good")]))
    worker.wait_ended(number)
    completions = worker.finished(number)
    assert completions["bad"].fault == "request"
    assert completions["good"].error is None


def test_a_message_that_cannot_be_read_is_dropped(worker: WorkerProcess, number: int) -> None:
    worker.send_raw(messages.BULK_TASK, messages.bulk_queue(worker.name), {"id": "no number"})
    worker.send(chunk(number, stub(number), [request("u1")]))
    worker.wait_ended(number)
    assert worker.redis.llen(messages.bulk_queue(worker.name)) == 0


def test_an_engine_that_dies_fails_its_requests_and_is_loaded_again(worker: WorkerProcess, number: int) -> None:
    model = stub(number)
    worker.send(chunk(number, model, [request("u1", "[stub:hang]"), request("u2", "[stub:die]")]))
    worker.wait_ended(number)
    assert {each.fault for each in worker.finished(number).values()} == {"engine"}
    worker.send(chunk(number + 1, model, [request("u1")]))
    worker.wait_ended(number + 1)
    assert worker.finished(number + 1)["u1"].error is None
    assert len(worker.loads()) == 2


def test_held_chunks_are_mentioned_every_second(worker: WorkerProcess, number: int) -> None:
    worker.send(chunk(number, stub(number), [request("u1", "[stub:hang]")], run_id=f"r{number}"))
    until(lambda: (told := worker.progress()) and told[-1].chunks == (number,))
    seen = len(worker.progress())
    until(lambda: len(worker.progress()) >= seen + 2, timeout_s=4.0)
    assert worker.progress()[-1].chunks == (number,)
    worker.redis.sadd(messages.CANCELLED_KEY, f"run:r{number}")
    worker.wait_ended(number)


def test_a_chunk_is_begun_once_something_of_it_is_in_the_engine(own_worker: WorkerProcess) -> None:
    """Not while it waits for its model, nor for the chunk before it."""
    model = Model(source="stub:one?load_s=1.5")
    own_worker.send(chunk(1, model, [request("u1", "[stub:hang]"), request("u2", "[stub:hang]")], run_id="r1"))
    own_worker.send(chunk(2, model, [request("u3")], run_id="r2"))
    until(lambda: own_worker.progress()[-1].chunks == (1, 2))
    assert own_worker.progress()[-1].begun == ()
    until(lambda: own_worker.progress()[-1].begun == (1,))
    own_worker.redis.sadd(messages.CANCELLED_KEY, "run:r1")
    own_worker.wait_ended(1, 2)


def test_a_second_worker_of_the_same_name_is_refused(own_worker: WorkerProcess, redis_url: str, tmp_path: Path) -> None:
    again = subprocess.run(
        [sys.executable, "-m", "workers", "--name", own_worker.name],
        env={"REDIS_URL": redis_url, "MUSTER_DATA_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert again.returncode == 75
    assert "already runs" in again.stderr


def test_sigterm_finishes_what_runs_and_hands_back_the_rest(own_worker: WorkerProcess) -> None:
    fast = Model(source="stub:fast?tokens_per_s=20")
    own_worker.send(chunk(1, fast, [request(f"u{i}", f"{i}", max_tokens=10) for i in range(6)]))
    own_worker.send(chunk(2, stub(2), [request("v1")]))
    until(lambda: own_worker.loads() and 2 in own_worker.progress()[-1].chunks)
    assert own_worker.terminate() == 0
    assert len(own_worker.finished(1)) == 2
    assert own_worker.finished(2) == {}
    assert set(own_worker.ended()) == {1, 2}
    assert own_worker.state() is None


def test_sigterm_does_not_wait_for_a_hung_request(own_worker: WorkerProcess) -> None:
    own_worker.send(chunk(1, stub(1), [request("u1", "[stub:hang]")]))
    until(lambda: own_worker.loads())
    began = time.monotonic()
    assert own_worker.terminate() == 0
    assert time.monotonic() - began < 8
    assert own_worker.ended() == [1]
    assert own_worker.finished(1) == {}


def test_a_worker_killed_and_restarted_works_on(own_worker: WorkerProcess) -> None:
    own_worker.send(chunk(1, stub(1), [request("u1", "[stub:hang]")]))
    until(lambda: own_worker.loads())
    own_worker.terminate(signal.SIGKILL)
    own_worker.start()
    own_worker.send(chunk(2, stub(1), [request("u1")]))
    own_worker.wait_ended(2)
    assert own_worker.finished(2)["u1"].error is None


def test_a_worker_killed_in_a_load_tells_of_it_once_in_its_next_life(own_worker: WorkerProcess) -> None:
    model = Model(source="stub:large?load_s=60")
    own_worker.send(Load(model=model))
    until(lambda: (state := own_worker.state()) is not None and state.loading == model.key)
    own_worker.terminate(signal.SIGKILL)
    for _ in range(2):
        own_worker.start()
        (load,) = own_worker.loads()
        assert (load.model_key, load.fault, load.worker_died) == (model.key, "engine", True)
        own_worker.terminate(signal.SIGKILL)


def test_a_worker_that_was_told_to_end_in_a_load_leaves_no_mark(own_worker: WorkerProcess) -> None:
    model = Model(source="stub:large?load_s=60")
    own_worker.send(Load(model=model))
    until(lambda: (state := own_worker.state()) is not None and state.loading == model.key)
    assert own_worker.terminate() == 0
    own_worker.start()
    assert own_worker.loads() == []


def test_the_charges_of_requests_add_up_to_the_workers_busy_time(own_worker: WorkerProcess) -> None:
    models = [Model(source=f"stub:model-{i}?load_s=0.2&tokens_per_s=40") for i in range(2)]
    for number, model in enumerate(models * 2):
        own_worker.send(chunk(number, model, [request(f"{number}.{i}", f"{i}", max_tokens=6) for i in range(5)]))
    own_worker.ask(models[0], request("q", max_tokens=6), seconds=60)
    asked = own_worker.reply("q", timeout_s=30)
    own_worker.wait_ended(0, 1, 2, 3, timeout_s=30)
    ended_s = time.time()
    until(lambda: (state := own_worker.state()) is not None and state.at > ended_s)
    state = own_worker.state()
    completions = [asked, *own_worker.finished(0, 1, 2, 3).values()]
    assert state is not None
    assert state.busy_s > 0.5
    assert sum(each.device_s for each in completions) == pytest.approx(state.busy_s, abs=1e-4)
    loads = [load.seconds for load in own_worker.loads()]
    assert len(loads) == 2
    assert sum(each.load_s for each in completions) == pytest.approx(sum(loads), abs=1e-4)


def test_a_load_is_charged_whole_although_units_are_cancelled(own_worker: WorkerProcess) -> None:
    """One before the load, one while it waits for a place in the engine, two in it."""
    model = Model(source="stub:one?load_s=0.5")
    own_worker.redis.sadd(messages.CANCELLED_KEY, "u3")
    own_worker.send(chunk(1, model, [request(f"u{i}", "[stub:hang]") for i in range(4)], run_id="r1"))
    until(lambda: own_worker.progress()[-1].begun == (1,))
    own_worker.redis.sadd(messages.CANCELLED_KEY, "run:r1")
    own_worker.wait_ended(1)
    charged = {name: each.load_s for name, each in own_worker.finished(1).items()}
    (load,) = own_worker.loads()
    assert charged == {"u3": 0.0} | {f"u{i}": pytest.approx(load.seconds / 3, abs=1e-5) for i in range(3)}


def test_speeds_are_measured_from_the_work_itself(worker: WorkerProcess, number: int) -> None:
    model = stub(number, "tokens_per_s=20")
    worker.send(
        chunk(number, model, [request(f"u{i}", f"{i}", max_tokens=12) for i in range(400)], run_id=f"r{number}")
    )
    measured = until(
        lambda: [speed for each in worker.progress() for speed in each.speeds if speed.decode_tps and speed.answer_tps],
        timeout_s=15,
    )
    assert measured[-1].model_key == model.key
    assert measured[-1].decode_tps > 20  # many at once, each at 20 a second
    assert measured[-1].answer_tps == pytest.approx(20, rel=0.3)
    worker.redis.sadd(messages.CANCELLED_KEY, f"run:r{number}")
    worker.wait_ended(number)
