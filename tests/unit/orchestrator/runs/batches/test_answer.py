"""Ended lines of a batch as lines of its files."""

from typing import Any

import pytest

from orchestrator.online import chat_request
from orchestrator.runs.batches import answer
from orchestrator.runs.batches.answer import Ended
from orchestrator.runs.pinned import Pinned
from orchestrator.runs.staging.work import Unit

PINNED = Pinned(
    lines=1,
    pool={
        "version": "v",
        "question_set": "tiny",
        "question_set_version": 1,
        "experts": {"ada": 1, "bob": 2},
        "expert_versions": {"ada": 3, "bob": 1},
        "profiles": {"ada": 2, "bob": 1},
    },
)
DECISION: dict[str, Any] = {
    "strategy": "random",
    "recruits": [
        {"expert": name, "suitability": 0.5, "weight": 1.0, "probability": None, "why": ""} for name in ("ada", "bob")
    ],
    "skills": [],
    "off_domain": False,
    "note": "",
    "seed": 7,
    "annotated": [],
}
FUSED: dict[str, Any] = {
    "method": "vote",
    "answer": "42",
    "text": "The answer is 42.",
    "expert": "ada",
    "confidence": 1.0,
    "votes": {"42": 2.0},
    "note": "",
}


def _unit(expert: str, *, state: str = "done", **completion: Any) -> Unit:
    said = {"text": "The answer is 42.", "finish_reason": "stop", "prompt_tokens": 3, "completion_tokens": 5}
    return Unit(stage="generate", round=0, expert=expert, sample=0, state=state, completion={**said, **completion})


def _line(error: str | None = None, *, units: tuple[Unit, ...] = (), model: str = "muster", **body: Any) -> Ended:
    asked = {"model": model, "messages": [{"role": "user", "content": "6 * 7?"}], **body}
    return Ended(
        id=9,
        custom_id="a",
        query=chat_request.read(asked).query("a"),
        decision=DECISION,
        fused=FUSED,
        error=error,
        ended_s=1_700_000_000,
        units=units,
    )


def _written(line: Ended) -> answer.OutputLine:
    return answer.of(line, batch_id="batch_ab", pinned=PINNED)


def test_a_fused_line_is_a_chat_completion_with_its_provenance() -> None:
    written = _written(_line(units=(_unit("ada"), _unit("bob", state="failed", error="it broke"))))
    assert not written.is_error
    assert written.fields["error"] is None
    body = written.fields["response"]["body"]
    assert (body["model"], body["choices"][0]["message"]["content"]) == ("muster", "The answer is 42.")
    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
    told = body["muster"]
    assert told["versions"]["experts"] == {"ada": 3, "bob": 1}
    assert [each["error"] for each in told["answers"]] == [None, "it broke"]
    assert (told["votes"], told["seed"]) == ({"42": 2.0}, 7)
    assert "bob: it broke" in told["note"]


def test_a_voted_text_is_brought_within_the_client_s_limits() -> None:
    body = _written(_line(units=(_unit("ada"),), max_tokens=2)).fields["response"]["body"]
    assert body["choices"][0]["finish_reason"] == "length"
    assert len(body["choices"][0]["message"]["content"]) < len(FUSED["text"])


def test_a_named_expert_s_line_says_what_it_said() -> None:
    choices = ({"index": 0, "message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"},)
    body = _written(_line(units=(_unit("ada", choices=choices),), model="ada")).fields["response"]["body"]
    assert (body["model"], body["choices"]) == ("ada", list(choices))
    assert list(body["muster"]) == ["charges"]


@pytest.mark.parametrize(("error", "code"), [("cancelled", "batch_cancelled"), ("expired", "batch_expired")])
def test_a_line_that_never_ended_says_why_and_has_no_response(error: str, code: str) -> None:
    written = _written(_line(error, units=(_unit("ada"),)))
    assert written.is_error
    assert (written.fields["response"], written.fields["error"]["code"]) == (None, code)


@pytest.mark.parametrize(
    ("units", "status", "code"),
    [
        ((), 503, "no_expert_live"),
        (({"error": "it broke", "fault": "engine"},), 502, "experts_failed"),
        (({"error": "no answer", "finish_reason": "late"},), 504, "timeout"),
        (({"error": "a bad mark", "fault": "request"},), 400, "invalid_value"),
        (({"error": "longer than the context", "fault": "request"},), 400, "context_length_exceeded"),
    ],
)
def test_a_line_that_nobody_answered_has_the_status_chat_would_give(
    units: tuple[dict[str, Any], ...], status: int, code: str
) -> None:
    failed = tuple(_unit("ada", state="failed", **unit) for unit in units)
    why = units[0]["error"] if units else "nobody"
    response = _written(_line(f"no expert answered: {why}", units=failed)).fields["response"]
    assert (response["status_code"], response["body"]["error"]["code"]) == (status, code)
    assert set(response["body"]["error"]) == {"message", "type", "param", "code"}
