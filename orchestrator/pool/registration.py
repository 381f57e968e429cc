"""How an expert gets into the pool: registered, then tested and profiled by a run, then live.

`advance` is one step and safe to repeat: it looks at what is, and does what is missing. The stager calls it.
"""

import functools

import structlog
from sqlmodel import Session, col, select

from orchestrator import annotation
from orchestrator.pool import experts, experts_file, question_sets
from orchestrator.runs import runs
from orchestrator.settings import Settings
from orchestrator.storage.tables import ExpertRow, ProfileRow, QuestionSetRow, RunRow, UnitRow
from skills.embed import EmbedderMissing

log = structlog.get_logger(__name__)


def advance(session: Session, settings: Settings) -> None:
    """Follow the experts file, keep our own question set stored, and move experts on towards `live`."""
    experts_file.follow(session, settings.experts_file, allow_remote_code=settings.allow_remote_code)
    set_row = _question_set(session, settings)
    if set_row is None:
        return
    _cancel_profiles_of_the_past(session)
    for row in experts.current(session, states=("registered",)):
        profile(session, settings, row, set_row)
    for row in experts.current(session, states=("testing", "profiling")):
        _follow_run(session, row)
    for row in _live_without_profile(session, set_row):
        profile(session, settings, row, set_row)


def profile(session: Session, settings: Settings, row: ExpertRow, set_row: QuestionSetRow) -> RunRow:
    """Start a profile run, unless one is under way. The expert is `testing` until its first answer is there.

    A live expert stays live on the profiles it has.
    """
    run = runs.open_profile(session, row) or runs.submit_profile(
        session, settings=settings, expert=row, question_set=set_row
    )
    if row.state != "live":
        experts.move(row, "testing")
    session.add(row)
    session.flush()
    log.info("profiling", expert=row.name, version=row.version, run=run.id)
    return run


def _follow_run(session: Session, row: ExpertRow) -> None:
    """testing -> profiling with the first answer; parked where the run ended without moving the expert on."""
    run = runs.open_profile(session, row)
    if run is None:
        experts.move(row, "parked", f"its profile run ended without a profile; POST /v1/experts/{row.name}/profile")
    elif row.state == "testing" and _has_answered(session, run):
        experts.move(row, "profiling")
    session.add(row)


def _cancel_profiles_of_the_past(session: Session) -> None:
    """Profile runs of versions that were replaced or removed meanwhile measure nobody."""
    current = {row.id for row in experts.current(session)}
    for run in runs.open_of_kind(session, "profile"):
        if run.pinned["expert_id"] not in current and run.status != "cancelling":
            runs.cancel(session, run.id)


def _has_answered(session: Session, run: RunRow) -> bool:
    answered = select(UnitRow.id).where(UnitRow.run_id == run.id, UnitRow.state == "done").limit(1)
    return session.exec(answered).first() is not None


def _question_set(session: Session, settings: Settings) -> QuestionSetRow | None:
    """The set that queries recruit on, stored if it is ours; None (said once) where there is none."""
    name = settings.question_set
    try:
        shipped = question_sets.ensure_shipped(session, name, lambda: annotation.embedder(settings.packages_dir))
        return shipped or question_sets.newest(session, name)
    except (question_sets.UnknownQuestionSet, EmbedderMissing) as error:
        _say_once(str(error))
        return None


def _live_without_profile(session: Session, set_row: QuestionSetRow) -> list[ExpertRow]:
    """Live experts that were never profiled on this version of the set: a new release, or a new set, brought it."""
    live = experts.current(session, states=("live",))
    query = select(ProfileRow.expert_id).where(ProfileRow.question_set_id == set_row.id)
    profiled = set(session.exec(query.where(col(ProfileRow.expert_id).in_([row.id for row in live]))))
    missing = [row for row in live if row.id not in profiled]
    return [row for row in missing if not _was_tried(session, row, set_row)]


def _was_tried(session: Session, row: ExpertRow, set_row: QuestionSetRow) -> bool:
    """Whether there was a profile run at all: one that failed is not tried again without being asked for."""
    query = select(RunRow.id).where(
        RunRow.kind == "profile",
        col(RunRow.pinned)["expert_id"].as_integer() == row.id,
        col(RunRow.pinned)["question_set_id"].as_integer() == set_row.id,
    )
    return session.exec(query).first() is not None


@functools.lru_cache(maxsize=32)
def _say_once(message: str) -> None:
    log.error("no expert can be profiled", reason=message)
