"""One ended line of a batch as a line of its output or error file, in OpenAI's shape. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.fusion import fusion
from orchestrator.fusion.fusion import Fused
from orchestrator.online import chat_completion, explanation
from orchestrator.online.charges import charges
from orchestrator.online.fusing import within_limits
from orchestrator.online.generating import refused
from orchestrator.online.query import Answer, Query, Usage
from orchestrator.runs.cancelling import CANCELLED, EXPIRED
from orchestrator.runs.pinned import Pinned
from orchestrator.runs.staging.work import Unit
from orchestrator.storage import stored
from workers.messages import Completion

STAGES = ("annotate", "generate", "fuse")
SECONDS_NOTE = "budget.seconds is for queries: a batch has its completion_window"


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A line that has ended."""

    id: int
    custom_id: str
    query: Query
    decision: Mapping[str, Any] | None
    fused: Mapping[str, Any] | None
    error: str | None
    ended_s: int
    """Unix time."""
    units: Sequence[Unit]


@dataclass(frozen=True, kw_only=True)
class OutputLine:
    """What is written."""

    is_error: bool
    """It belongs into the error file."""
    fields: dict[str, Any]


def of(line: Ended, *, batch_id: str, pinned: Pinned) -> OutputLine:
    """The line as it is written: an answer with status 200, an error with its status, or why it never ran."""
    number = f"{batch_id.removeprefix('batch_')}-{line.id}"
    head = {"id": f"batch_req_{number}", "custom_id": line.custom_id}
    if line.error in (CANCELLED, EXPIRED):
        code = "batch_cancelled" if line.error == CANCELLED else "batch_expired"
        return OutputLine(
            is_error=True, fields={**head, "response": None, "error": {"code": code, "message": _why(code)}}
        )
    if line.error is not None:
        response = {"status_code": _status(line), "request_id": f"req-{number}", "body": {"error": _error(line)}}
        return OutputLine(is_error=True, fields={**head, "response": response, "error": None})
    answer = _direct(line) if line.query.expert is not None else _fused(line, pinned)
    body = chat_completion.completion(
        answer, query_id=f"chatcmpl-{number}", model=line.query.expert or "muster", created=line.ended_s
    )
    response = {"status_code": 200, "request_id": f"req-{number}", "body": body}
    return OutputLine(is_error=False, fields={**head, "response": response, "error": None})


def _why(code: str) -> str:
    return {
        "batch_cancelled": "This batch was cancelled before the request was executed.",
        "batch_expired": "This request could not be executed before the completion window expired.",
    }[code]


def _status(line: Ended) -> int:
    faults = [unit.completion.get("fault") for unit in line.units if unit.stage == "generate"]
    if faults and all(fault == "request" for fault in faults):
        return 400
    reasons = [unit.completion.get("finish_reason") for unit in line.units if unit.stage == "generate"]
    return 504 if reasons and all(reason == "late" for reason in reasons) else 502 if reasons else 503


def _error(line: Ended) -> dict[str, Any]:
    message, status = line.error or "", _status(line)
    if status == 400:
        told = refused(message)
        return {
            "message": message,
            "type": "invalid_request_error",
            "param": told.param,
            "code": told.code or "invalid_value",
        }
    code = {502: "experts_failed", 503: "no_expert_live", 504: "timeout"}[status]
    return {"message": message, "type": "server_error", "param": None, "code": code}


def _direct(line: Ended) -> Answer:
    """What the named expert said, as it said it."""
    (unit,) = line.units
    completion = _completion(unit)
    return Answer(
        text=completion.text,
        finish_reason=completion.finish_reason,
        usage=Usage.of(completion),
        choices=completion.choices,
        charges=_charges(line),
    )


def _fused(line: Ended, pinned: Pinned) -> Answer:
    fused = stored.fused_of(line.fused or {})
    text, finish_reason = _within_limits(line, fused)
    usage = _usage(line.units)
    return Answer(
        text=text,
        finish_reason="length" if finish_reason == "length" else "stop",
        usage=sum(usage.values(), Usage()),
        explanation=_explanation(line, fused, usage, pinned),
        charges=_charges(line),
    )


def _charges(line: Ended) -> dict[str, Any]:
    return charges((unit.expert, _completion(unit)) for unit in line.units)


def _within_limits(line: Ended, fused: Fused) -> tuple[str, str]:
    """A text that was written before anybody knew it would win is brought within the client's limits."""
    stage = "fuse" if fused.method == "aggregate" else "generate"
    written = [_completion(unit) for unit in line.units if unit.expert == fused.expert and unit.stage == stage]
    if not written or stage == "fuse":
        return fused.text, written[0].finish_reason if written else "stop"
    overrides = line.query.overrides
    return within_limits(fused.text, written[0], stop=overrides.get("stop", ()), max_tokens=overrides.get("max_tokens"))


def _explanation(line: Ended, fused: Fused, usage: Mapping[str, Usage], pinned: Pinned) -> dict[str, Any]:
    assert line.decision is not None
    assert pinned.pool is not None
    decided = explanation.decided(
        stored.recruitment_of(line.decision),
        annotation="llm" if line.decision.get("annotated") else "embedding",
        note=line.decision.get("annotation_note", ""),
        seed=line.decision["seed"],
        versions={
            "pool": pinned.pool["version"],
            "question_set": f"{pinned.pool['question_set']}@{pinned.pool['question_set_version']}",
            "experts": pinned.pool["expert_versions"],
            "profiles": pinned.pool["profiles"],
        },
    )
    return explanation.explained(
        decided,
        answers=[_answer(unit, line.query) for unit in line.units if unit.stage == "generate"],
        fused=fused,
        notes=(SECONDS_NOTE,) if line.query.options.budget.seconds is not None else (),
        seconds={
            stage: sum(float(unit.completion.get("engine_s", 0.0)) for unit in line.units if unit.stage == stage)
            for stage in STAGES
        },
        tokens=usage,
    )


def _answer(unit: Unit, query: Query) -> dict[str, Any]:
    answered = unit.answered(query.question)
    failed = not fusion.is_usable(answered) and unit.state != "done"
    found: dict[str, Any] = {
        "expert": unit.expert,
        "answer": answered.answer,
        "finish_reason": answered.finish_reason,
        "error": str(unit.completion.get("error") or "it was stopped before it had answered") if failed else None,
        "seconds": round(float(unit.completion.get("engine_s", 0.0)), 3),
        "tokens": unit.completion.get("completion_tokens", 0),
    }
    return {**found, "text": answered.text} if query.options.explain else found


def _usage(units: Sequence[Unit]) -> dict[str, Usage]:
    return {stage: Usage.of(*(_completion(unit) for unit in units if unit.stage == stage)) for stage in STAGES}


def _completion(unit: Unit) -> Completion:
    return Completion.model_validate({"id": "", **unit.completion} if unit.state == "done" else {"id": ""})
