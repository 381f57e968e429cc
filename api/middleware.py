"""What every request passes through, as pure ASGI: an id, a log line, the key, a bound on the body, a last resort."""

import hmac
import re
import secrets
import time

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import ApiError, told
from api.upload import FORM_BYTES
from orchestrator.settings import Settings

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
"""Asked by supervisors and load balancers, which hold no key."""
QUIET_PATHS = OPEN_PATHS | {"/metrics"}
"""Asked every few seconds: logged for debugging alone."""
QUESTION_SET_BYTES = 64 * 2**20
"""Question sets are parsed in memory; 20,000 questions take about 10 MiB."""
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

log = structlog.get_logger("api")


class RequestLog:
    """Gives each request an id (the client's own, if it sent a sane one), logs it, and answers what nobody caught."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = Headers(scope=scope).get("x-request-id", "")
        request_id = asked if _ID.fullmatch(asked) else f"req-{secrets.token_hex(12)}"
        status, begun = 0, time.monotonic()

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_id)
            except Exception as error:
                log.exception("request failed", method=scope["method"], path=scope["path"])
                if status:
                    raise  # half an answer is out: the connection has to break
                await told(error).response()(scope, receive, send_with_id)
            finally:
                seconds = round(time.monotonic() - begun, 4)
                say = log.debug if scope["path"] in QUIET_PATHS else log.info
                say("request", method=scope["method"], path=scope["path"], status=status, seconds=seconds)


class ApiKey:
    """Lets in who carries `Authorization: Bearer <key>`; everybody, if no key is set."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._expected = f"Bearer {key}".encode() if key else b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._lets_in(scope):
            await self._app(scope, receive, send)
            return
        error = ApiError(
            401, "this Muster wants an API key: send it as `Authorization: Bearer <key>`", code="invalid_api_key"
        )
        await error.response()(scope, receive, send)

    def _lets_in(self, scope: Scope) -> bool:
        if scope["type"] != "http" or not self._expected or scope["path"] in OPEN_PATHS:
            return True
        given = dict(scope["headers"]).get(b"authorization", b"")
        return hmac.compare_digest(given, self._expected)


class BodyLimit:
    """Refuses bodies that are larger than the settings allow, by their announced length or as they come in."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._limit(scope)
        announced = Headers(scope=scope).get("content-length", "0")
        if announced.isdigit() and int(announced) > limit:
            await _too_large(limit).response()(scope, receive, send)
            return
        await self._app(scope, _counted(receive, limit), send)

    def _limit(self, scope: Scope) -> int:
        limits = {"/v1/files": self._settings.max_file_bytes + FORM_BYTES, "/v1/question-sets": QUESTION_SET_BYTES}
        return limits.get(scope["path"], self._settings.max_body_bytes)


def _counted(receive: Receive, limit: int) -> Receive:
    received = 0

    async def counted() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise _too_large(limit)
        return message

    return counted


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"the body is larger than {limit} bytes", code="too_large")
