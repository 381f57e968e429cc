"""A running Muster, as the command line and the demo talk to it: over HTTP, like everybody else."""

from collections.abc import Mapping
from typing import Any

import httpx

from orchestrator.settings import Settings

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 600.0
"""A first answer may wait for a model to load; the service has deadlines of its own."""

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
            raise self._unreachable(error) from error
        if response.is_error:
            raise ApiError(explain(response))
        return response

    def _unreachable(self, error: httpx.HTTPError) -> ApiError:
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return ApiError(f"no Muster answers at {self.url}: start one with `muster up`, or name another with --url")
        return ApiError(f"the connection to {self.url} broke: {str(error) or type(error).__name__}")


def explain(response: httpx.Response) -> str:
    """The message of an error in OpenAI's shape, with the parameter it is about."""
    try:
        error = response.json()["error"]
        about = f" (parameter {error['param']})" if error.get("param") else ""
        return f"{error['message']}{about}"
    except (ValueError, LookupError, TypeError):
        return f"HTTP {response.status_code} from {response.request.url}: {response.text[:200]}"
