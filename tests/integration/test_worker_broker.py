"""A worker whose broker goes away and comes back."""

import signal
from pathlib import Path

import pytest

from orchestrator.local.embedded import EmbeddedValkey
from tests.waiting import until
from tests.worker_process import WorkerProcess, chunk, request
from workers.messages import Model

MODEL = Model(source="stub:m")


@pytest.mark.parametrize("death", [signal.SIGTERM, signal.SIGKILL])
def test_a_chunk_that_runs_while_the_broker_restarts_is_reported_once(tmp_path: Path, death: signal.Signals) -> None:
    server = EmbeddedValkey(tmp_path / "valkey").start()
    try:
        with WorkerProcess(server.url, tmp_path) as worker:
            worker.send(chunk(1, MODEL, [request("u1", "[stub:wait=1]"), request("u2", "[stub:wait=3]")]))
            until(lambda: worker.loads())
            assert server.process is not None
            server.process.send_signal(death)
            server.process.wait()
            server.start()
            worker.wait_ended(1, timeout_s=20)
            assert set(worker.finished(1)) == {"u1", "u2"}
            worker.send(chunk(2, MODEL, [request("u3")]))
            worker.wait_ended(2, timeout_s=20)
            assert worker.process.poll() is None
    finally:
        server.stop()


def test_a_worker_may_start_before_its_broker(tmp_path: Path) -> None:
    server = EmbeddedValkey(tmp_path / "valkey").start()
    try:
        with WorkerProcess(server.url, tmp_path) as worker:
            worker.terminate(signal.SIGKILL)
            worker.redis.flushall()
            server.stop()
            worker.begin()
            server.start()
            until(lambda: worker.state(), timeout_s=20)
            worker.send(chunk(1, MODEL, [request("u1")]))
            worker.wait_ended(1, timeout_s=20)
    finally:
        server.stop()
