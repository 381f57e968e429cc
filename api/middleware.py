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
    """Lets in who carries `Authorization: Bearer <key>`; everybody, if no key is set.

    `scope["owner"]` is then the tenant whose key it is; None: the operator's, or none is wanted.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        owners: dict[str, str | None] = {key: name for name, key in settings.tenants.items()}
        if settings.api_key:
            owners[settings.api_key] = None
        self._owners = {f"Bearer {key}".encode(): owner for key, owner in owners.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["owner"] = None
        if scope["type"] == "http" and self._owners and scope["path"] not in OPEN_PATHS:
            given = dict(scope["headers"]).get(b"authorization", b"")
            # Compared with every key, so that the time it takes does not tell which one is near.
            fitting = [owner for expected, owner in self._owners.items() if hmac.compare_digest(given, expected)]
            if not fitting:
                await _no_key().response()(scope, receive, send)
                return
            scope["owner"] = fitting[0]
        await self._app(scope, receive, send)


def _no_key() -> ApiError:
    message = "this Muster wants an API key: send it as `Authorization: Bearer <key>`"
    return ApiError(401, message, code="invalid_api_key")


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
