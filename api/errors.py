"""Every error in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`, with the right status.

what happened                                   status  type                   code
the body is no JSON, or a field is wrong        400     invalid_request_error  invalid_json, invalid_value …
no or a wrong API key                           401     authentication_error   invalid_api_key
a tenant would change the pool                  403     permission_error       operator_alone
no such model, expert, file, run, route …       404     invalid_request_error  …_not_found
the method is not allowed here                  405     invalid_request_error  method_not_allowed
an expert that is not live; a name taken        409     invalid_request_error  expert_not_live, name_taken
an idempotency key used for another request     409     invalid_request_error  idempotency_key_taken
a body or file larger than the service takes    413     invalid_request_error  too_large
too many queries in flight, or waiting          429     rate_limit_error       too_many_queries
too many lines of runs open                     429     rate_limit_error       too_many_open_lines
a fault of ours                                 500     server_error           internal_error
every expert failed                             502     server_error           experts_failed
no worker, nobody live, a part is away          503     server_error           no_worker, no_expert_live …
the disk takes no file                          507     server_error           disk_full
nobody answered in the query's seconds          504     server_error           timeout
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from orchestrator import wrong_field
from orchestrator.online import deciding, gateway, pricing, queries, query, transport
from orchestrator.pool import catalogue, definition, experts, question_sets
from orchestrator.recruiting.values import NoExperts
from orchestrator.runs import named, open_lines, runs
from orchestrator.runs.batches import batches
from orchestrator.storage import files, partial
from skills.embed import EmbedderMissing

TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
CODES = {404: "not_found", 405: "method_not_allowed", 413: "too_large", 415: "unsupported_media_type"}
RETRY_AFTER_S = 5
"""A restarted worker, broker or database is back within about so long."""


class ApiError(HTTPException):
    """An error as the client gets it. A subclass of HTTPException so that it passes through FastAPI's body reading."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        headers = {"retry-after": str(retry_after_s)} if retry_after_s is not None else None
        super().__init__(status, message, headers)
        self.param = param
        self.code = code or CODES.get(status)

    def body(self) -> dict[str, Any]:
        return {
            "error": {
                "message": self.detail,
                "type": TYPES.get(self.status_code) or _type(self.status_code),
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status_code, headers=self.headers)


def _type(status: int) -> str:
    return "server_error" if status >= 500 else "invalid_request_error"


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """How an exception of the orchestrator's is told."""

    status: int
    code: str
    param: str | None = None
    retry_after_s: int | None = None


_SHOWN: Mapping[type[Exception], _Shown] = {
    experts.UnknownExpert: _Shown(status=404, code="expert_not_found"),
    experts.ExpertNotLive: _Shown(status=409, code="expert_not_live"),
    experts.NameTaken: _Shown(status=409, code="name_taken", param="name"),
    experts.IllegalMove: _Shown(status=409, code="illegal_state"),
    question_sets.UnknownQuestionSet: _Shown(status=404, code="question_set_not_found", param="question_set"),
    question_sets.BadQuestionSet: _Shown(status=400, code="invalid_question_set"),
    files.UnknownFile: _Shown(status=404, code="file_not_found"),
    partial.DiskFull: _Shown(status=507, code="disk_full"),
    queries.UnknownQuery: _Shown(status=404, code="query_not_found", param="id"),
    gateway.TooManyQueries: _Shown(status=429, code="too_many_queries", retry_after_s=gateway.RETRY_AFTER_S),
    pricing.QueueFull: _Shown(status=429, code="too_many_queries"),
    open_lines.TooManyOpenLines: _Shown(status=429, code="too_many_open_lines", retry_after_s=open_lines.RETRY_AFTER_S),
    gateway.DatabaseAway: _Shown(status=503, code="database_away", retry_after_s=RETRY_AFTER_S),
    deciding.NobodyLive: _Shown(status=503, code="no_expert_live", retry_after_s=RETRY_AFTER_S),
    NoExperts: _Shown(status=503, code="no_expert_live", retry_after_s=RETRY_AFTER_S),
    transport.NoWorker: _Shown(status=503, code="no_worker", retry_after_s=RETRY_AFTER_S),
    transport.NoBroker: _Shown(status=503, code="broker_away", retry_after_s=RETRY_AFTER_S),
    transport.LoadFailed: _Shown(status=503, code="load_failed"),
    transport.WorkerLost: _Shown(status=503, code="worker_lost", retry_after_s=RETRY_AFTER_S),
    transport.Late: _Shown(status=504, code="timeout", param="muster.budget.seconds"),
    runs.UnknownRun: _Shown(status=404, code="run_not_found"),
    runs.KeyTaken: _Shown(status=409, code="idempotency_key_taken", param="Idempotency-Key"),
    batches.CannotCancel: _Shown(status=409, code="batch_ended"),
    named.UnknownBenchmark: _Shown(status=404, code="benchmark_not_found", param="name"),
    catalogue.UnknownProfile: _Shown(status=404, code="profile_not_found"),
    EmbedderMissing: _Shown(status=503, code="embedder_missing"),
}


def told(error: Exception) -> ApiError:
    """Any exception as the client gets it; what nobody foresaw is a 500 that says nothing of our insides."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, query.QueryRefused):
        return ApiError(400, str(error), param=error.param, code=error.code or "invalid_value")
    if isinstance(error, query.QueryFailed):
        return _failed(error)
    if isinstance(error, runs.RunRefused):
        return ApiError(400, str(error), param=error.param, code="invalid_value")
    if isinstance(error, definition.DefinitionError):
        return ApiError(400, str(error), param=error.field or None, code="invalid_value")
    for kind in type(error).__mro__:
        if shown := _SHOWN.get(kind):
            own_s: int | None = getattr(error, "retry_after_s", None)
            message = error.args[0] if isinstance(error, LookupError) and error.args else str(error)
            return ApiError(
                shown.status, message, param=shown.param, code=shown.code, retry_after_s=own_s or shown.retry_after_s
            )
    return ApiError(
        500, "something went wrong on our side; the log has it under this request id", code="internal_error"
    )


def _failed(error: query.QueryFailed) -> ApiError:
    """Nobody answered: in time, or at all."""
    if error.late:
        return ApiError(504, str(error), param="muster.budget.seconds", code="timeout")
    return ApiError(502, str(error), code="experts_failed")


def install(app: FastAPI) -> None:
    """Answer every error that reaches the application in OpenAI's shape."""
    app.add_exception_handler(RequestValidationError, _answer(_invalid))
    app.add_exception_handler(HTTPException, _answer(_http))
    for kind in (*_SHOWN, query.QueryRefused, query.QueryFailed, runs.RunRefused, definition.DefinitionError):
        app.add_exception_handler(kind, _answer(told))


def _answer(tell: Callable[[Any], ApiError]) -> Callable[[Request, Exception], Response]:
    def handler(_: Request, error: Exception) -> Response:
        return tell(error).response()

    return handler


def _http(error: HTTPException) -> ApiError:
    if isinstance(error, ApiError):
        return error
    message = {404: "there is nothing at this address; /docs lists what there is", 405: "not with this method"}
    told_as = ApiError(error.status_code, message.get(error.status_code, str(error.detail)))
    told_as.headers = error.headers
    return told_as


def _invalid(error: RequestValidationError) -> ApiError:
    """The first wrong field, by its path in the body (or its name in the address)."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return _broken_json(error, first)
    wrong = wrong_field.describe(first, first["loc"][1:])
    return ApiError(400, wrong.message, param=wrong.param, code=wrong.code)


def _broken_json(error: RequestValidationError, first: Mapping[str, Any]) -> ApiError:
    body = error.body if isinstance(error.body, str) else ""
    position = int(first["loc"][-1])
    line = body.count("\n", 0, position) + 1
    column = position - (body.rfind("\n", 0, position) + 1) + 1
    reason = first.get("ctx", {}).get("error", "")
    return ApiError(400, f"the body is not JSON: {reason} at line {line}, column {column}", code="invalid_json")
