"""What the command line makes of the API's answers and silences."""

import contextlib
import http.server
import threading
from collections.abc import Iterator

import httpx
import pytest

from orchestrator.cli import client
from orchestrator.cli.client import ApiError, Client, explain


def response(status: int, **content: object) -> httpx.Response:
    return httpx.Response(status, request=httpx.Request("GET", "http://muster/v1/models"), **content)  # type: ignore[arg-type]


def test_an_error_in_openais_shape_is_told_with_its_parameter() -> None:
    error = {"error": {"message": "k is larger than the pool", "type": "invalid_request_error", "param": "muster.k"}}
    assert explain(response(400, json=error)) == "k is larger than the pool (parameter muster.k)"


@pytest.mark.parametrize("content", [{"text": "Bad Gateway"}, {"json": {"detail": "no"}}, {"json": [1]}])
def test_any_other_error_is_told_with_its_status(content: dict[str, object]) -> None:
    assert explain(response(502, **content)).startswith("HTTP 502 from http://muster/v1/models")


AWAY = (503, '{"error": {"message": "the database is away"}}', 0)


@contextlib.contextmanager
def server(*answers: tuple[int, str, int]) -> Iterator[tuple[str, list[str | None]]]:
    """Gives these answers (status, body, bytes that never come), one a GET. Its URL, and the Last-Event-ID of each."""
    asked: list[str | None] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body, missing = answers[len(asked)]
            asked.append(self.headers["Last-Event-ID"])
            self.send_response(status)
            self.send_header("content-length", str(len(body) + missing))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as serving:
        thread = threading.Thread(target=serving.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{serving.server_port}", asked
        finally:
            serving.shutdown()
            thread.join()


def test_events_go_on_where_they_broke_once_the_server_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "RECONNECT_S", 0.0)
    broken, last = (200, 'id: 1\ndata: {"n": 1}\n\n', 1), (200, 'id: 2\ndata: {"n": 2}\n\n', 0)
    with server(broken, AWAY, AWAY, last) as (url, asked):
        assert [event["n"] for event in Client(url).events("/v1/runs/r/events")] == [1, 2]
    assert asked == [None, "1", "1", "1"]


def test_events_of_a_server_that_never_comes_back_end_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "RECONNECT_S", 0.0)
    monkeypatch.setattr(client, "RECONNECTS_MAX", 2)
    with server(AWAY, AWAY, AWAY) as (url, asked), pytest.raises(ApiError, match="the database is away"):
        list(Client(url).events("/v1/runs/r/events"))
    assert len(asked) == 3
    with (
        server((404, '{"error": {"message": "no such run"}}', 0)) as (url, asked),
        pytest.raises(ApiError, match="no such"),
    ):
        list(Client(url).events("/v1/runs/r/events"))
    assert len(asked) == 1


def test_silence_says_how_to_start_a_muster() -> None:
    with pytest.raises(ApiError, match=r"no Muster answers at http://127\.0\.0\.1:9: start one with `muster up`"):
        Client("http://127.0.0.1:9").get("/v1/models")
