"""A running Muster, as the command line and the demo talk to it: over HTTP, like everybody else."""

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from orchestrator.settings import Settings

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 600.0
"""A first answer may wait for a model to load; the service has deadlines of its own."""

RECONNECT_S = 1.0
RECONNECTS_MAX = 30
"""A restarted Muster is back well within so many seconds."""

Json = dict[str, Any]


class ApiError(RuntimeError):
    """Muster refused, failed or cannot be reached. The message is one line for the terminal."""


class Client:
    """Requests to one Muster. Every method raises `ApiError`."""

    def __init__(self, url: str, api_key: str = "") -> None:
        self.url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        timeout = httpx.Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=timeout)

    @classmethod
    def for_settings(cls, settings: Settings, url: str | None = None) -> "Client":
        return cls(url or f"http://127.0.0.1:{settings.port}", settings.api_key)

    def get(self, path: str, **parameters: Any) -> Any:
        return self._json("GET", path, params=parameters)

    def text(self, path: str, **parameters: Any) -> str:
        return self._send("GET", path, params=parameters).text

    def events(self, path: str) -> Iterator[Json]:
        """Server-sent events until the server ends the stream.

        A connection that breaks is taken up where it broke; so is one that a server answers which is not ready (5xx):
        it, its database or what stands before it may be starting again.
        """
        last_id, failures = "", 0
        while True:
            try:
                with self._http.stream("GET", path, headers={"Last-Event-ID": last_id} if last_id else {}) as response:
                    if response.is_error:
                        response.read()
                        if not response.is_server_error:
                            raise ApiError(explain(response))
                        response.raise_for_status()
                    for name, value in _fields(response.iter_lines()):
                        if name == "id":
                            last_id = value
                        elif name == "data":
                            failures = 0
                            yield json.loads(value)
                return
            except httpx.HTTPError as error:
                failures += 1
                if failures > RECONNECTS_MAX:
                    raise self._told(error) from error
                time.sleep(RECONNECT_S)

    def blocks(self, path: str, **parameters: Any) -> Iterator[str]:
        """A long text, as it comes."""
        try:
            with self._http.stream("GET", path, params=parameters) as response:
                if response.is_error:
                    response.read()
                    raise ApiError(explain(response))
                yield from response.iter_text()
        except httpx.HTTPError as error:
            raise self._told(error) from error

    def is_ready(self) -> bool:
        """Whether a question can be answered now."""
        try:
            return self._http.get("/readyz").is_success
        except httpx.HTTPError:
            return False

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        return self._json("POST", path, json=body or {})

    def delete(self, path: str) -> Any:
        return self._json("DELETE", path)

    def upload(self, name: str, content: bytes, *, purpose: str) -> Json:
        """A file for a run; its "id" is what the run is submitted with."""
        uploaded: Json = self._json("POST", "/v1/files", data={"purpose": purpose}, files={"file": (name, content)})
        return uploaded

    def _json(self, method: str, path: str, **arguments: Any) -> Any:
        response = self._send(method, path, **arguments)
        return response.json() if response.content else {}

    def _send(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **arguments)
        except httpx.HTTPError as error:
            raise self._told(error) from error
        if response.is_error:
            raise ApiError(explain(response))
        return response

    def _told(self, error: httpx.HTTPError) -> ApiError:
        if isinstance(error, httpx.HTTPStatusError):
            return ApiError(explain(error.response))
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return ApiError(f"no Muster answers at {self.url}: start one with `muster up`, or name another with --url")
        return ApiError(f"the connection to {self.url} broke: {str(error) or type(error).__name__}")


def _fields(lines: Iterator[str]) -> Iterator[tuple[str, str]]:
    """Name and value of each line of an event stream; blank lines and comments left out."""
    for line in lines:
        name, colon, value = line.partition(":")
        if name and colon:
            yield name, value.removeprefix(" ")


def explain(response: httpx.Response) -> str:
    """The message of an error in OpenAI's shape, with the parameter it is about."""
    try:
        error = response.json()["error"]
        about = f" (parameter {error['param']})" if error.get("param") else ""
        return f"{error['message']}{about}"
    except (ValueError, LookupError, TypeError):
        return f"HTTP {response.status_code} from {response.request.url}: {response.text[:200]}"
