"""Lines of a batch's input file: what is read, and which complaint a wrong one gets."""

import json
from typing import Any

import pytest

from orchestrator.runs.batches import line
from orchestrator.runs.batches.line import Line, Pool

POOL = Pool(experts=frozenset({"ada", "bob"}), context_tokens={"ada": 100, "bob": 2000})
USER = [{"role": "user", "content": "Why?"}]


def _line(**changes: Any) -> dict[str, Any]:
    whole = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": _body()}
    return {name: value for name, value in {**whole, **changes}.items() if value is not None}


def _body(**changes: Any) -> dict[str, Any]:
    whole = {"model": "muster", "messages": USER, **changes}
    return {name: value for name, value in whole.items() if value is not None}


def _read(fields: object, number: int = 7) -> Line:
    return line.read(fields if isinstance(fields, bytes) else json.dumps(fields).encode(), number, POOL)


def test_a_line_is_read_with_its_own_options_and_model() -> None:
    body = _body(max_tokens=9, muster={"k": 2, "fusion": "vote", "experts": ["ada", "bob"], "budget": {"calls": 2}})
    read = _read(_line(body=body))
    assert read.complaint is None
    assert read.query is not None
    assert (read.custom_id, read.query.id, read.query.expert) == ("a", "a", None)
    assert (read.query.options.k, read.query.options.budget.calls, read.query.overrides) == (2, 2, {"max_tokens": 9})
    named = _read(_line(body=_body(model="bob", n=2))).query
    assert named is not None
    assert named.expert == "bob"


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        (b"{", "invalid_json_line", None),
        (b"\xff", "invalid_json_line", None),
        (b"[1]", "invalid_json_line", None),
        (b'{"custom_id": NaN}', "invalid_json_line", None),
        (b'{"custom_id": "\\ud800"}', "invalid_json_line", None),
        (b"[" * 100_000, "invalid_json_line", None),
        (b'{"custom_id": ' + b"9" * 5000 + b"}", "invalid_json_line", None),
        (_line(custom_id=None), "missing_required_parameter", "custom_id"),
        (_line(custom_id=7), "invalid_type", "custom_id"),
        (_line(custom_id=""), "invalid_value", "custom_id"),
        (_line(custom_id="x" * 513), "invalid_value", "custom_id"),
        (_line(custom_id="a\0"), "invalid_value", "custom_id"),
        (_line(method=None), "missing_required_parameter", "method"),
        (_line(method="GET"), "invalid_method", "method"),
        (_line(url=None), "missing_required_parameter", "url"),
        (_line(url="/v1/chat"), "invalid_url", "url"),
        (_line(url="/v1/embeddings"), "url_mismatch", "url"),
        (_line(body=None), "missing_required_parameter", "body"),
        (_line(body=[]), "invalid_type", "body"),
        (_line(body=_body(model=None)), "missing_required_parameter", "body.model"),
        (_line(body=_body(model="zed")), "model_not_found", "body.model"),
        (_line(body=_body(messages=None)), "missing_required_parameter", "body.messages"),
        (_line(body=_body(messages=[])), "invalid_value", "body.messages"),
        (_line(body=_body(temperature=3)), "invalid_value", "body.temperature"),
        (_line(body=_body(colour="red")), "unknown_parameter", "body.colour"),
        (_line(body=_body(stream=True)), "unsupported_value", "body.stream"),
        (_line(body=_body(n=2)), "unsupported_value", "body.n"),
        (_line(body=_body(model="ada", muster={"k": 1})), "unsupported_value", "body.muster"),
        (_line(body=_body(muster={"k": 0})), "invalid_value", "body.muster.k"),
        (_line(body=_body(muster={"k": 3})), "invalid_value", "body.muster.k"),
        (_line(body=_body(muster={"k": 2, "experts": ["ada"]})), "invalid_value", "body.muster.k"),
        (_line(body=_body(muster={"experts": ["zed"]})), "expert_not_live", "body.muster.experts"),
        (_line(body=_body(muster={"aggregator": "zed"})), "expert_not_live", "body.muster.aggregator"),
        (_line(body=_body(muster={"strategy": "luck"})), "invalid_value", "body.muster.strategy"),
        (
            _line(body=_body(model="ada", messages=[{"role": "user", "content": "x" * 801}])),
            "context_length_exceeded",
            "body.messages",
        ),
    ],
)
def test_a_wrong_line_is_told_by_its_number_field_and_code(fields: object, code: str, param: str | None) -> None:
    read = _read(fields)
    assert read.query is None
    assert read.complaint is not None
    assert (read.complaint.line, read.complaint.code, read.complaint.param) == (7, code, param)
    assert len(read.complaint.message) < 400


def test_a_wrong_line_keeps_its_custom_id_so_that_a_second_one_is_found_out() -> None:
    assert _read(_line(method="GET")).custom_id == "a"
