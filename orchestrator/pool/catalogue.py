"""What clients are told about the pool: experts with their states, profiles, and who is good at what."""

from typing import Any

from sqlmodel import Session, col, select

from orchestrator.pool import experts, pool, question_sets
from orchestrator.runs import runs
from orchestrator.storage.tables import ExpertRow, ProfileRow, QuestionSetRow, RunRow
from skills import profile as profiles
from skills.profile import Profiles


class UnknownProfile(LookupError):
    """The expert has no such profile (yet)."""

    def __init__(self, name: str, question_set: str, version: int | None) -> None:
        which = "no profile" if version is None else f"no profile version {version}"
        super().__init__(
            f"expert {name!r} has {which} on question set {question_set!r}; POST /v1/experts/{name}/profile makes one"
        )


def listed(session: Session) -> list[dict[str, Any]]:
    """Every expert of the pool, whatever its state, by name."""
    under_way = {run.pinned["expert_id"]: run for run in runs.open_of_kind(session, "profile")}
    return [expert(session, row, under_way.get(row.id)) for row in experts.current(session)]


def expert(session: Session, row: ExpertRow, run: RunRow | None = None) -> dict[str, Any]:
    """One expert as it is; `run`: its profile run under way, if any."""
    newest = next(iter(experts.profiles(session, row)), None)
    return {
        "object": "expert",
        "name": row.name,
        "version": row.version,
        "state": row.state,
        "reason": row.reason,
        "description": row.description,
        "licence": row.licence,
        "model": row.model,
        "model_key": row.model_key,
        "adapter": row.adapter,
        "system_prompt": row.system_prompt,
        "sampling": row.sampling,
        "origin": row.origin,
        "created_at": int(row.created_at.timestamp()),
        "profile": _summary(session, newest) if newest else None,
        "profiling": _progress(session, run) if run else None,
    }


def _summary(session: Session, row: ProfileRow) -> dict[str, Any]:
    set_row = session.get_one(QuestionSetRow, row.question_set_id)
    judged = [outcome for outcome in row.outcomes.values() if outcome.get("correct") is not None]
    right = sum(bool(outcome["correct"]) for outcome in judged)
    return {
        "version": row.version,
        "question_set": set_row.name,
        "question_set_version": set_row.version,
        "right": right,
        "tried": len(judged),
        "accuracy": round(right / len(judged), 4) if judged else None,
    }


def _progress(session: Session, run: RunRow) -> dict[str, Any]:
    counts = runs.counts(session, run.id)
    return {"run": run.id, "done": counts.done, "total": counts.total}


def profile(session: Session, name: str, *, question_set: str, version: int | None = None) -> dict[str, Any]:
    """An expert's strength per skill, the strongest first. `version`: of the profile; the newest if left out.

    Raises `experts.UnknownExpert`, `question_sets.UnknownQuestionSet` or `UnknownProfile`.
    """
    row = experts.get(session, name)
    sets = select(QuestionSetRow.id).where(QuestionSetRow.name == question_sets.newest(session, question_set).name)
    query = select(ProfileRow).where(ProfileRow.expert_id == row.id, col(ProfileRow.question_set_id).in_(sets))
    if version is not None:
        query = query.where(ProfileRow.version == version)
    found = session.exec(query.order_by(col(ProfileRow.id).desc())).first()
    if found is None:
        raise UnknownProfile(name, question_set, version)
    set_row = session.get_one(QuestionSetRow, found.question_set_id)
    alone = pool.build(session, set_row, [row], {name: found}, aggregators={}, trials={})
    counted = profiles.profiles(alone.evidence)
    strengths = [{"skill": skill, **_strength(counted, n, 0)} for n, skill in enumerate(counted.skills)]
    return {
        "object": "profile",
        "expert": name,
        "expert_version": row.version,
        "run": found.run_id,
        "created_at": int(found.created_at.timestamp()),
        **_summary(session, found),
        "skills": sorted(strengths, key=lambda strength: (-float(strength["strength"]), strength["skill"])),
        "aggregator": {
            category or "all": {"right": right, "tried": tried}
            for category, (right, tried) in _aggregator_scores(session, row, set_row).items()
        },
    }


def _aggregator_scores(session: Session, row: ExpertRow, set_row: QuestionSetRow) -> dict[str, tuple[int, int]]:
    """Newest score per category."""
    scores: dict[str, tuple[int, int]] = {}
    for score in experts.aggregator_scores(session, row):
        if score.question_set_id == set_row.id:
            scores.setdefault(score.category, (score.right, score.tried))
    return scores


def skills(session: Session, *, question_set: str) -> dict[str, Any]:
    """The vocabulary, each skill with every live expert's strength. Raises `question_sets.UnknownQuestionSet`."""
    loaded = pool.load(session, question_set=question_set)
    counted = profiles.profiles(loaded.evidence)
    needed = [int((counted.needs[:, 1] == row).sum()) for row in range(len(counted.skills))]
    return {
        "object": "list",
        "question_set": loaded.question_set,
        "question_set_version": loaded.question_set_version,
        "data": [
            {
                "object": "skill",
                "skill": skill,
                "questions": needed[row],
                "experts": {name: _strength(counted, row, column) for column, name in enumerate(counted.experts)},
            }
            for row, skill in enumerate(counted.skills)
        ],
    }


def _strength(counted: Profiles, skill: int, column: int) -> dict[str, float]:
    """Counts, and the accuracy that few tries prove little about."""
    return {
        "right": float(counted.right[skill, column]),
        "tried": float(counted.tried[skill, column]),
        "strength": round(float(counted.accuracy()[skill, column]), 4),
    }


def question_set(row: QuestionSetRow, questions: int) -> dict[str, Any]:
    """One version of a question set."""
    return {
        "object": "question_set",
        "name": row.name,
        "version": row.version,
        "digest": row.digest,
        "questions": questions,
        "created_at": int(row.created_at.timestamp()),
    }
