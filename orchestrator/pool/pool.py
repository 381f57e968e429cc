"""The pool: its experts, what they are known to do, and the recruiter fitted on it."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlmodel import Session, col, select

from orchestrator.fusion.synthesis import NOTHING, Synthesis
from orchestrator.pool import experts, merging, question_sets
from orchestrator.pool.merging import AggregatorScores
from orchestrator.storage.tables import ExpertRow, ProfileRow, QuestionSetRow, SynthesisTrialsRow
from skills.evidence import Evidence
from skills.question import Question
from workers.messages import Model, Sampling


@dataclass(frozen=True, kw_only=True)
class Expert:
    """One version of one member of the pool."""

    id: int
    name: str
    version: int
    model: Model
    adapter: str | None = None
    system_prompt: str = ""
    sampling: Sampling = field(default_factory=Sampling)
    description: str = ""
    licence: str = ""
    state: str = "live"
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Live experts with the evidence about them: what one query, or one run, decides on. Immutable."""

    version: str
    """Changes whenever an expert, a profile or the question set does."""
    experts: Mapping[str, Expert]
    question_set: str
    question_set_version: int
    evidence: Evidence = field(repr=False)
    profile_versions: Mapping[str, int]
    """Expert name -> version of the profile in `evidence`; 0: not profiled on this question set."""
    aggregators: AggregatorScores
    """Expert name -> category ("" for all) -> (right, tried) of the synthetic aggregator test."""
    synthesis: Synthesis = NOTHING
    """What the experts, as aggregators, gained in trials on answers of this pool's experts."""
    trials: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    """Expert name -> its row of trials in `synthesis`, and the strategy that recruited for them."""


def expert_of(row: ExpertRow) -> Expert:
    """The expert that a row describes, whatever its state."""
    assert row.id is not None
    return Expert(
        id=row.id,
        name=row.name,
        version=row.version,
        model=Model.model_validate(row.model),
        adapter=row.adapter,
        system_prompt=row.system_prompt,
        sampling=Sampling.model_validate(row.sampling),
        description=row.description,
        licence=row.licence,
        state=row.state,
        reason=row.reason,
    )


def load(session: Session, *, question_set: str, names: Collection[str] | None = None) -> Pool:
    """The live experts with their newest profiles on the newest version of `question_set`.

    `names` narrows the pool to those experts. Raises `question_sets.UnknownQuestionSet`,
    `experts.UnknownExpert` or `experts.ExpertNotLive`. A pool may be empty: recruiting then raises `NoExperts`.
    """
    set_row = question_sets.newest(session, question_set)
    rows = experts.current(session, states=("live",))
    if names is not None:
        live = {row.name: row for row in rows}
        rows = [live[name] if name in live else _refuse(session, name) for name in sorted(set(names))]
    profiles = _newest_profiles(session, rows, set_row)
    trials = merging.trials(session, merging.newest_trial_ids(session, rows, set_row))
    return build(session, set_row, rows, profiles, merging.newest_scores(session, rows, set_row), trials)


def pins(pool: Pool) -> dict[str, Any]:
    """What a run must remember to decide on exactly this pool later, as JSON. `pinned` reads it."""
    return {
        "version": pool.version,
        "experts": {name: expert.id for name, expert in pool.experts.items()},
        "expert_versions": {name: expert.version for name, expert in pool.experts.items()},
        "question_set": pool.question_set,
        "question_set_version": pool.question_set_version,
        "profiles": dict(pool.profile_versions),
        "aggregators": {
            name: {category: list(score) for category, score in scores.items()}
            for name, scores in pool.aggregators.items()
        },
        "trials": {name: row_id for name, (row_id, _) in pool.trials.items()},
    }


def pinned(session: Session, pinned: Mapping[str, Any]) -> Pool:
    """The pool that `pins` described, whatever became of its experts since."""
    set_row = question_sets.get(session, pinned["question_set"], pinned["question_set_version"])
    query = select(ExpertRow).where(col(ExpertRow.id).in_(pinned["experts"].values())).order_by(ExpertRow.name)
    rows = session.exec(query).all()
    profiles = {
        row.name: profile
        for row in rows
        if (version := pinned["profiles"].get(row.name)) and (profile := _profile(session, row, set_row, version))
    }
    aggregators = {
        name: {category: (int(score[0]), int(score[1])) for category, score in scores.items()}
        for name, scores in pinned["aggregators"].items()
    }
    return build(session, set_row, rows, profiles, aggregators, merging.trials(session, pinned.get("trials", {})))


def current_version(session: Session, *, question_set: str) -> str:
    """`load(...).version` without loading: one cheap query, for caches."""
    set_row = question_sets.newest(session, question_set)
    rows = experts.current(session, states=("live",))
    ids = _newest_profile_ids(session, rows, set_row)
    trials = merging.newest_trial_ids(session, rows, set_row)
    return _version(set_row, rows, ids, merging.newest_scores(session, rows, set_row), trials)


def _refuse(session: Session, name: str) -> ExpertRow:
    row = experts.get(session, name)
    raise experts.ExpertNotLive(name, row.state, row.reason)


def build(
    session: Session,
    set_row: QuestionSetRow,
    rows: Sequence[ExpertRow],
    profiles: Mapping[str, ProfileRow],
    aggregators: AggregatorScores,
    trials: Mapping[str, SynthesisTrialsRow],
) -> Pool:
    """A pool of just these experts with just these profiles and trials (by name), on one version of a question set.

    Of the trials, those count in which only experts of this very pool had answered.
    """
    labelled = question_sets.labelled(session, set_row)
    names = tuple(row.name for row in rows)
    evidence = Evidence(
        experts=names,
        questions=labelled.questions,
        embeddings=labelled.embeddings,
        correct=_correct(labelled.questions, [profiles.get(name) for name in names]),
        answers=_answers(labelled.questions, [profiles.get(name) for name in names]),
        tokens=_tokens(labelled.questions, [profiles.get(name) for name in names]),
        skill_names=labelled.skill_names,
        skill_embeddings=labelled.skill_embeddings,
    )
    ids = {name: profile.id for name, profile in profiles.items()}
    trial_ids = {name: row.id for name, row in trials.items() if row.id is not None}
    return Pool(
        version=_version(set_row, rows, ids, aggregators, trial_ids),
        experts={row.name: expert_of(row) for row in rows},
        question_set=set_row.name,
        question_set_version=set_row.version,
        evidence=evidence,
        profile_versions={name: profiles[name].version if name in profiles else 0 for name in names},
        aggregators=aggregators,
        synthesis=merging.learnt(rows, trials),
        trials={name: (row_id, trials[name].strategy) for name, row_id in trial_ids.items()},
    )


def _correct(questions: Sequence[Question], profiles: Sequence[ProfileRow | None]) -> np.ndarray[Any, Any]:
    """(questions, experts): 1 right, 0 wrong, NaN where there is no outcome."""
    correct = np.full((len(questions), len(profiles)), np.nan, dtype=np.float32)
    for column, profile in enumerate(profiles):
        outcomes = profile.outcomes if profile else {}
        for row, question in enumerate(questions):
            right = outcomes.get(question.id, {}).get("correct")
            if right is not None:
                correct[row, column] = right
    return correct


def _answers(questions: Sequence[Question], profiles: Sequence[ProfileRow | None]) -> tuple[tuple[str, ...], ...]:
    outcomes = [profile.outcomes if profile else {} for profile in profiles]
    return tuple(
        tuple(str(outcome.get(question.id, {}).get("answer") or "") for outcome in outcomes) for question in questions
    )


def _tokens(questions: Sequence[Question], profiles: Sequence[ProfileRow | None]) -> np.ndarray[Any, Any]:
    """(questions, experts): tokens of each completion, NaN where there is no outcome."""
    tokens = np.full((len(questions), len(profiles)), np.nan, dtype=np.float32)
    for column, profile in enumerate(profiles):
        outcomes = profile.outcomes if profile else {}
        for row, question in enumerate(questions):
            measured = outcomes.get(question.id, {}).get("tokens")
            if measured is not None:
                tokens[row, column] = measured
    return tokens


def _newest_profiles(session: Session, rows: Sequence[ExpertRow], set_row: QuestionSetRow) -> dict[str, ProfileRow]:
    ids = _newest_profile_ids(session, rows, set_row)
    found = {row.id: row for row in session.exec(select(ProfileRow).where(col(ProfileRow.id).in_(ids.values())))}
    return {name: found[profile_id] for name, profile_id in ids.items()}


def _newest_profile_ids(session: Session, rows: Sequence[ExpertRow], set_row: QuestionSetRow) -> dict[str, int]:
    names = {row.id: row.name for row in rows}
    query = (
        select(ProfileRow.expert_id, sa.func.max(ProfileRow.id))
        .where(ProfileRow.question_set_id == set_row.id, col(ProfileRow.expert_id).in_(names))
        .group_by(col(ProfileRow.expert_id))
    )
    return {names[expert_id]: profile_id for expert_id, profile_id in session.exec(query) if profile_id}


def _profile(session: Session, row: ExpertRow, set_row: QuestionSetRow, version: int) -> ProfileRow | None:
    query = select(ProfileRow).where(
        ProfileRow.expert_id == row.id, ProfileRow.question_set_id == set_row.id, ProfileRow.version == version
    )
    return session.exec(query).first()


def _version(
    set_row: QuestionSetRow,
    rows: Sequence[ExpertRow],
    profile_ids: Mapping[str, int | None],
    aggregators: AggregatorScores,
    trials: Mapping[str, int],
) -> str:
    """A short hash of all that the pool is made of."""
    parts = []
    for row in sorted(rows, key=lambda row: row.name):
        scores = sorted(aggregators.get(row.name, {}).items())
        measured = (profile_ids.get(row.name), scores, trials.get(row.name))
        parts.append((row.name, row.id, row.description, row.licence, *measured))
    return hashlib.sha256(repr((set_row.id, parts)).encode()).hexdigest()[:16]
