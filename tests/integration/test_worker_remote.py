"""A worker without a device, and a server of the OpenAI kind on a real socket."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import until
from tests.worker_process import WorkerProcess, chunk, request
from workers import messages
from workers.messages import Model

WORDS = ["Light", " is", " fast", "."]


class Handler(BaseHTTPRequestHandler):
    """Answers by what the user says: "slow" waits between words, "break" hangs up, "busy" refuses once."""

    protocol_version = "HTTP/1.1"
    server: "ModelServer"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        said = body["messages"][-1]["content"]
        if said == "busy" and not self.server.refused.is_set():
            self.server.refused.set()
            self._send(429, {"error": {"message": "busy"}}, {"retry-after": "0"})
        elif body.get("stream"):
            self._stream(said)
        else:
            message = {"role": "assistant", "content": "".join(WORDS)}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            self._send(200, {"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}, {})

    def _send(self, status: int, answer: dict[str, Any], headers: dict[str, str]) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {**headers, "content-type": "application/json"}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _stream(self, said: str) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        try:
            for number in range(1000 if said == "slow" else 1):
                for word in WORDS:
                    self._event({"choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]})
                if said == "break":
                    return
                time.sleep(0.05 if number else 0)
            self._event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
            self.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            self.server.hung_up.set()

    def _event(self, data: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(data)}\n\n".encode())
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        pass


class ModelServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.refused = threading.Event()
        self.hung_up = threading.Event()

    @property
    def model(self) -> Model:
        return Model(source=f"http://127.0.0.1:{self.server_port}/v1", remote_name="light")


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer() as made:
        thread = threading.Thread(target=made.serve_forever, daemon=True)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def worker(redis_url: str, tmp_path: Path) -> Iterator[WorkerProcess]:
    with WorkerProcess(redis_url, tmp_path, device="none") as started:
        yield started


def test_a_remote_model_serves_chunks_and_queries(worker: WorkerProcess, server: ModelServer) -> None:
    worker.send(chunk(1, server.model, [*(request(f"u{i}") for i in range(64)), request("b", "busy")]))
    worker.wait_ended(1)
    found = worker.finished(1)
    assert len(found) == 65
    assert {(each.text, each.completion_tokens, each.error) for each in found.values()} == {("Light is fast.", 4, None)}

    worker.ask(server.model, request("q1"))
    assert worker.reply("q1").text == "Light is fast."


def test_a_stream_that_breaks_off_is_the_engines_fault(worker: WorkerProcess, server: ModelServer) -> None:
    worker.ask(server.model, request("q1", "break"))
    completion = worker.reply("q1")
    assert completion.fault == "engine"
    assert "broke off" in (completion.error or "")


def test_cancelling_a_query_hangs_up_on_the_server(worker: WorkerProcess, server: ModelServer) -> None:
    worker.ask(server.model, request("q1", "slow"), seconds=60)
    until(lambda: worker.deltas("q1"))
    worker.redis.sadd(messages.CANCELLED_KEY, "q1")
    assert worker.reply("q1").finish_reason == "abort"
    assert server.hung_up.wait(timeout=5)


def test_a_server_that_is_not_there_is_the_engines_fault(worker: WorkerProcess, server: ModelServer) -> None:
    nobody = server.model.model_copy(update={"source": "http://127.0.0.1:9/v1"})
    worker.send(chunk(1, nobody, [request("u1")]))
    worker.wait_ended(1, timeout_s=20)
    assert worker.finished(1)["u1"].fault == "engine"
