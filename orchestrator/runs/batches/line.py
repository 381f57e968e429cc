"""One line of a batch's input file: read and checked, or the complaint about it, in OpenAI's codes. Pure.

A line that `/v1/chat/completions` would refuse is refused here, before anything of the batch is computed.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator import recruiting
from orchestrator.online import chat_request, deciding
from orchestrator.online.query import Query, QueryRefused

ENDPOINT = "/v1/chat/completions"
OPENAI_ENDPOINTS = frozenset(
    {ENDPOINT, "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/moderations", "/v1/images/generations"}
)
"""Addresses that a batch may have with OpenAI: a line with another of them does not fit its batch."""
MAX_ID_CHARS = 512


@dataclass(frozen=True, kw_only=True)
class Pool:
    """What a line is checked against: the experts that its batch pinned."""

    experts: Collection[str]
    context_tokens: Mapping[str, int]
    """Expert -> the longest context of its model."""


@dataclass(frozen=True, kw_only=True)
class Complaint:
    """One input error, as a batch lists it."""

    code: str
    message: str
    line: int | None
    """Counts from 1; None: it is about the file."""
    param: str | None = None

    def as_json(self) -> dict[str, Any]:
        return {"code": self.code, "message": self.message, "line": self.line, "param": self.param}


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line as read. `custom_id` is None where none could be read; `query` is None where there is a complaint."""

    custom_id: str | None
    query: Query | None
    complaint: Complaint | None


class _Wrong(ValueError):
    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code, self.param = code, param


def read(raw: bytes, number: int, pool: Pool) -> Line:
    """The line with this number. Raises nothing."""
    custom_id: str | None = None
    try:
        fields = _object(raw)
        custom_id = _custom_id(fields)
        _check_address(fields)
        return Line(custom_id=custom_id, query=_query(custom_id, fields, pool), complaint=None)
    except _Wrong as wrong:
        complaint = Complaint(code=wrong.code, message=str(wrong), line=number, param=wrong.param)
        return Line(custom_id=custom_id, query=None, complaint=complaint)


def too_long(number: int, max_bytes: int) -> Complaint:
    """The complaint about a line that is larger than any request may be."""
    message = f"This line is longer than the {max_bytes} bytes a request may have (MUSTER_MAX_BODY_BYTES)."
    return Complaint(code="request_too_large", message=message, line=number)


def duplicate(custom_id: str, number: int) -> Complaint:
    """The complaint about the second line of a custom id."""
    message = f"The custom_id {custom_id!r} occurs in an earlier line, too; each line needs one of its own."
    return Complaint(code="duplicate_custom_id", message=message, line=number, param="custom_id")


def _object(raw: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(raw.decode(), parse_constant=_refuse_constant)
        if b"\\ud" in raw or b"\\uD" in raw:  # half a surrogate pair is no text, and no database takes it
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeError:
        raise _Wrong("invalid_json_line", "This line is not UTF-8 text.") from None
    except (ValueError, RecursionError) as error:
        where = f" (column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        raise _Wrong("invalid_json_line", f"This line is not parseable as valid JSON{where}.") from None
    if not isinstance(value, dict):
        raise _Wrong("invalid_json_line", 'A line must be a JSON object: {"custom_id", "method", "url", "body"}.')
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _custom_id(fields: Mapping[str, Any]) -> str:
    value = _field(fields, "custom_id", str)
    if not value or len(value) > MAX_ID_CHARS or "\0" in value:
        raise _Wrong(
            "invalid_value", f"custom_id must have 1 to {MAX_ID_CHARS} characters, none of them NUL.", "custom_id"
        )
    return str(value)


def _check_address(fields: Mapping[str, Any]) -> None:
    method, url = _field(fields, "method", str), _field(fields, "url", str)
    if method != "POST":
        raise _Wrong("invalid_method", f"The method must be 'POST', not {method[:20]!r}.", "method")
    if url == ENDPOINT:
        return
    if url in OPENAI_ENDPOINTS:
        raise _Wrong("url_mismatch", f"The url {url!r} is not the batch's endpoint, {ENDPOINT!r}.", "url")
    raise _Wrong("invalid_url", f"The url must be {ENDPOINT!r}, not {url[:80]!r}.", "url")


def _query(custom_id: str, fields: Mapping[str, Any], pool: Pool) -> Query:
    body = _field(fields, "body", dict)
    try:
        request = chat_request.read(body)
        if request.stream:
            raise chat_request.refuse("stream", "must be false: a batch's answers are read from its output file")
        query = request.query(custom_id)
        _check_experts(query, pool)
        return query
    except QueryRefused as error:
        param = "body" if error.param is None else f"body.{error.param}"
        raise _Wrong(error.code or "invalid_value", str(error), param) from None


def _check_experts(query: Query, pool: Pool) -> None:
    """Whether the batch's experts can answer it. Raises `QueryRefused`."""
    if query.expert is not None and query.expert not in pool.experts:
        message = f"the model {query.expert[:80]!r} does not exist or was not live when the batch was submitted"
        raise QueryRefused(message, param="model", code="model_not_found")
    options = query.options
    if options.strategy is not None and options.strategy not in recruiting.STRATEGIES:
        known = ", ".join(sorted(recruiting.STRATEGIES))
        raise QueryRefused(f"there is no strategy {options.strategy!r}; there are {known}", param="muster.strategy")
    for param, names in (("muster.experts", options.experts or ()), ("muster.aggregator", (options.aggregator,))):
        for name in filter(None, names):
            if name not in pool.experts:
                message = f"the expert {name!r} does not exist or was not live when the batch was submitted"
                raise QueryRefused(message, param=param, code="expert_not_live")
    candidates = (query.expert,) if query.expert is not None else options.experts or pool.experts
    available = len(candidates)
    if options.k is not None and options.k > available:
        which = "are named in muster.experts" if options.experts else "are live"
        raise QueryRefused(f"k is {options.k}, but only {available} experts {which}", param="muster.k")
    deciding.refuse_too_long_for(query, max(pool.context_tokens[name] for name in candidates))


def _field(fields: Mapping[str, Any], name: str, kind: type[Any]) -> Any:
    value = fields.get(name)
    if value is None:
        raise _Wrong("missing_required_parameter", f"Missing required parameter: '{name}'.", name)
    if not isinstance(value, kind):
        wanted = {"str": "a string", "dict": "an object"}[kind.__name__]
        raise _Wrong("invalid_type", f"'{name}' must be {wanted}.", name)
    return value
