"""The report of a run: how right it was, beside what, at what cost. Built from the lines, once they have ended."""

import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlmodel import Session

from orchestrator import baselines, prompts, statistics
from orchestrator.baselines import Judged
from orchestrator.runs import aggregator_report, runs, spending
from orchestrator.runs.pinned import Pinned, seed_for
from orchestrator.storage.tables import RunRow
from orchestrator.version import VERSION

_LINES = sa.text(
    """
    SELECT position, question->>'category' AS category, correct, answers, fused->>'method' AS method,
        fused->'gain' AS gain, decision->'recruits'->0->>'expert' AS first
    FROM instance WHERE run_id = :run AND stage = 'done' ORDER BY position
    """
)

# Both sides are read once: the set is hashed, however many lines there are.
_IN_QUESTION_SET = sa.text(
    """
    SELECT count(*) FROM instance WHERE run_id = :run AND question->>'text' IN (
        SELECT text FROM labelled_question JOIN question_set ON question_set.id = question_set_id
        WHERE name = :name AND version = :version
    )
    """
)


LINES_READ = 1000
"""At once: those of a large run would take up as much memory as the orchestrator itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Told(Judged):
    """One expert's answer to a line (`staging.benchmark.answer_json`), as the report needs it."""

    finish_reason: str
    recruited: bool = True
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A line that is done, as the report needs it."""

    position: int
    category: str
    correct: bool
    method: str
    first: str
    """The first recruit."""
    gain: float | None = None
    """What fusing so was expected to gain over the first recruit, where something was known."""
    answers: Mapping[str, Told]
    """By expert."""


def build(session: Session, run_id: str) -> dict[str, Any]:
    """The report, as JSON. Raises `runs.UnknownRun`. Of a run under way: of the lines that are done."""
    run = runs.get(session, run_id)
    pinned = Pinned.model_validate(run.pinned)
    report = _head(session, run, pinned) | spending.of(session, run, pinned)
    report["warnings"] = []
    if pinned.prompts and pinned.prompts != prompts.digest():
        report["warnings"].append(
            f"it was submitted with the prompts {pinned.prompts}, and this Muster has others ({prompts.digest()}): "
            "not all of its answers were asked for in the same words"
        )
    if run.kind == "batch":  # nothing is graded
        return report
    if run.kind == "aggregator":
        return report | aggregator_report.of(session, run_id)
    lines = _lines(session, run_id)
    report |= {
        "accuracy": _json(_accuracy(lines)),
        "per_category": {name: _json(_accuracy(group)) for name, group in _by_category(lines).items()},
        "per_expert": per_expert(lines),
    }
    if run.kind == "benchmark":
        report["in_question_set"] = known = _in_question_set(session, run_id, pinned)
        if known:
            report["warnings"].append(
                f"{known} of its {report['lines']['total']} questions stand word for word in the question set that the "
                f"experts were profiled on ({_question_set(pinned)}): on those, recruiting knows who was right"
            )
        report |= {
            "baselines": compare(lines, pinned),
            "fusion": fusion_meter(lines, pinned),
        }
    return report


def compare(lines: Sequence[Line], pinned: Pinned) -> dict[str, Any]:
    """The run beside its baselines, on the lines that every expert answered.

    The best single expert was chosen on the profiles; the one that turned out best on these very lines is shown
    beside it, as hindsight.
    """
    experts = _pool(pinned)
    panel = [line for line in lines if experts and all(name in line.answers for name in experts)]
    judged = [[line.answers[name] for name in experts] for line in panel]
    seeds = [seed_for(pinned.seed, line.position, "random") for line in panel]
    drawn = [baselines.random_recruits(row, k=pinned.k, seed=seed) for row, seed in zip(judged, seeds, strict=True)]
    majority = [baselines.plurality(row) for row in judged]
    found: dict[str, Any] = {
        "lines": len(panel),
        "of": len(lines),
        "experts": len(experts),
        "extra_calls": pinned.baselines.calls if pinned.baselines else 0,
        "note": _panel_note(len(panel), len(lines), pinned),
        "muster": _json(_accuracy(panel)),
        "best_single": _single(lines, pinned.best_single) | {"chosen_on": "profile"},
        "random": _json(statistics.bootstrap(drawn, seed=pinned.seed)),
        "majority_all": _json(statistics.bootstrap(majority, seed=pinned.seed)),
        "oracle": _json(statistics.wilson(sum(int(baselines.oracle(row)) for row in judged), len(judged))),
    }
    if panel:
        hindsight = max(experts, key=lambda name: sum(_is_right(line, name) for line in panel))
        found["best_single_hindsight"] = _single(panel, hindsight) | {"chosen_on": "these lines"}
    found["versus"] = {
        "best_single": _difference(lines, pinned, lambda line: _credit(line, pinned.best_single)),
        "random": _json(_paired([line.correct for line in panel], drawn, pinned)),
        "majority_all": _json(_paired([line.correct for line in panel], majority, pinned)),
    }
    return found


def per_expert(lines: Sequence[Line]) -> dict[str, Any]:
    """Every expert's answers: as a recruit, and on all lines it was asked (baselines included)."""
    asked: dict[str, list[Told]] = defaultdict(list)
    for line in lines:
        for name, answer in line.answers.items():
            asked[name].append(answer)
    return {name: _expert(answers) for name, answers in sorted(asked.items())}


def _expert(answers: Sequence[Told]) -> dict[str, Any]:
    recruited = [answer for answer in answers if answer.recruited]
    return {
        "calls": len(answers),
        "recruited": len(recruited),
        "accuracy": _json(_share_right(answers)),
        "accuracy_when_recruited": _json(_share_right(recruited)),
        "unreadable": sum(not answer.answer and answer.finish_reason in ("stop", "length") for answer in answers),
        "cut_off": sum(answer.finish_reason == "length" for answer in answers),
        "failed": sum(answer.finish_reason == "error" for answer in answers),
        "late": sum(answer.finish_reason == "late" for answer in answers),
        "prompt_tokens": sum(answer.prompt_tokens for answer in answers),
        "completion_tokens": sum(answer.completion_tokens for answer in answers),
    }


def fusion_meter(lines: Sequence[Line], pinned: Pinned) -> dict[str, Any]:
    """How answers were merged, and whether that beat taking the first recruit's answer alone."""
    return {
        "methods": dict(sorted(Counter(line.method for line in lines).items())),
        "first_recruit": _json(statistics.wilson(sum(_is_right(line, line.first) for line in lines), len(lines))),
        "gain": _difference(lines, pinned, lambda line: _credit(line, line.first)),
        "per_method": {
            method: _method([line for line in lines if line.method == method], pinned)
            for method in sorted({line.method for line in lines})
        },
    }


def _method(lines: Sequence[Line], pinned: Pinned) -> dict[str, Any]:
    """One way to fuse: how right it was beside the first recruit on the same lines, measured and as expected."""
    gain = _paired([line.correct for line in lines], [_is_right(line, line.first) for line in lines], pinned)
    expected = [line.gain for line in lines if line.gain is not None]
    return {
        "lines": len(lines),
        "accuracy": round(sum(line.correct for line in lines) / len(lines), 4),
        "first_recruit": round(sum(_is_right(line, line.first) for line in lines) / len(lines), 4),
        "gain": None if gain is None else round(gain.value, 4),
        "gain_ci95": None if gain is None else gain.as_json()["ci95"],
        "expected_gain": round(float(np.mean(expected)), 4) if expected else None,
    }


def _head(session: Session, run: RunRow, pinned: Pinned) -> dict[str, Any]:
    counts = runs.counts(session, run.id)
    return {
        "run": run.id,
        "kind": run.kind,
        "name": run.name,
        "muster": VERSION,
        "lines": {"total": counts.total, "done": counts.done, "failed": counts.failed},
        "settings": pinned.model_dump(
            mode="json",
            include={"k", "strategy", "fusion", "annotation", "annotator", "aggregator", "seed", "baselines"},
        ),
        "versions": versions(pinned),
    }


def _in_question_set(session: Session, run_id: str, pinned: Pinned) -> int:
    """How many lines have exactly the text of a question that recruiting was fitted on."""
    if pinned.pool is None:
        return 0
    name, version = pinned.pool["question_set"], pinned.pool["question_set_version"]
    return int(session.scalar(_IN_QUESTION_SET, params={"run": run_id, "name": name, "version": version}) or 0)


def versions(pinned: Pinned) -> dict[str, Any]:
    """What a run pinned, by the names and numbers that people know."""
    if pinned.pool is None:
        return {
            "expert_id": pinned.expert_id,
            "question_set_id": pinned.question_set_id,
            "prompts": pinned.prompts or None,
        }
    return {
        "pool": pinned.pool["version"],
        "experts": pinned.pool["expert_versions"],
        "profiles": pinned.pool["profiles"],
        "question_set": _question_set(pinned),
        "prompts": pinned.prompts or None,
    }


def _question_set(pinned: Pinned) -> str:
    assert pinned.pool is not None
    return f"{pinned.pool['question_set']}@{pinned.pool['question_set_version']}"


def _lines(session: Session, run_id: str) -> list[Line]:
    return [
        Line(
            position=row.position,
            category=sys.intern(row.category or ""),
            correct=bool(row.correct),
            method=sys.intern(row.method or "none"),
            first=sys.intern(row.first or ""),
            gain=row.gain,
            answers={sys.intern(expert): _told(answer) for expert, answer in (row.answers or {}).items()},
        )
        for row in session.execute(_LINES, {"run": run_id}, execution_options={"yield_per": LINES_READ})
    ]


def _told(answer: Mapping[str, Any]) -> Told:
    """As it is kept with its line. What many lines have in common is in memory once."""
    return Told(
        answer=sys.intern(answer.get("answer") or ""),
        correct=bool(answer.get("correct")),
        finish_reason=sys.intern(answer["finish_reason"]),
        recruited=answer.get("recruited", True),
        prompt_tokens=answer["prompt_tokens"],
        completion_tokens=answer["completion_tokens"],
    )


def _single(lines: Sequence[Line], expert: str | None) -> dict[str, Any]:
    asked = [line for line in lines if expert in line.answers]
    estimate = statistics.wilson(sum(_is_right(line, expert) for line in asked), len(asked))
    return {"expert": expert} | (_json(estimate) or {})


def _difference(lines: Sequence[Line], pinned: Pinned, other: Callable[[Line], float | None]) -> Any:
    """The run's accuracy minus another's, on the lines where the other is known."""
    pairs = [(line.correct, credit) for line in lines if (credit := other(line)) is not None]
    return _json(_paired([own for own, _ in pairs], [credit for _, credit in pairs], pinned))


def _paired(own: Sequence[bool], other: Sequence[float], pinned: Pinned) -> statistics.Estimate | None:
    differences = np.asarray(own, dtype=np.float64) - np.asarray(other, dtype=np.float64)
    return statistics.bootstrap(differences, seed=pinned.seed)


def _credit(line: Line, expert: str | None) -> float | None:
    return float(_is_right(line, expert)) if expert in line.answers else None


def _is_right(line: Line, expert: str | None) -> bool:
    answer = line.answers.get(expert or "")
    return answer is not None and answer.correct


def _accuracy(lines: Sequence[Line]) -> statistics.Estimate | None:
    return statistics.wilson(sum(line.correct for line in lines), len(lines))


def _share_right(answers: Sequence[Told]) -> statistics.Estimate | None:
    return statistics.wilson(sum(answer.correct for answer in answers), len(answers))


def _by_category(lines: Sequence[Line]) -> dict[str, list[Line]]:
    groups: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        groups[line.category or "(none)"].append(line)
    return dict(sorted(groups.items()))


def _pool(pinned: Pinned) -> list[str]:
    return sorted(pinned.pool["experts"]) if pinned.pool else []


def _panel_note(panel: int, lines: int, pinned: Pinned) -> str:
    if pinned.baselines is None:
        return "submitted without baselines: only what the recruits answered is known"
    if panel < lines:
        return f"random, majority_all and oracle are taken on {panel} lines, drawn with the run's seed, to bound calls"
    return "every expert answered every line"


def _json(estimate: statistics.Estimate | None) -> Any:
    return None if estimate is None else estimate.as_json()
