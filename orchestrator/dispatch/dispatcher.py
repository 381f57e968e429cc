"""The dispatcher: commits what workers report, takes back what was lost, plans, and sends chunks.

It alone changes the state of units that exist. Messages are sent after the commit; one that gets lost is made
good by its chunk's lease.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import celery
import kombu.exceptions
import pydantic
import redis
import sqlalchemy as sa
import structlog
from sqlmodel import Session

from orchestrator import broker, residency
from orchestrator.dispatch import chunks, forgetting, progress
from orchestrator.dispatch.backlog import Backlog, BacklogReader, Window
from orchestrator.dispatch.costs_reader import CostsReader
from orchestrator.dispatch.demands import Demands
from orchestrator.dispatch.roster import Roster
from orchestrator.runs import cancelling
from orchestrator.settings import Settings
from orchestrator.storage import database
from workers.messages import (
    BULK_TASK,
    CLAIM_TTL_S,
    LOAD_TASK,
    LOST_CLAIM,
    PREFETCH_TASK,
    PROGRESS_STREAM,
    Load,
    Model,
    Prefetch,
    Progress,
    bulk_queue,
    claim_key,
    online_queue,
)

MESSAGES = 64
"""Progress messages read at once."""
PLAN_S = 0.5
"""How often to plan when nothing was heard: the stager may have made units."""
PLAN_SOON_S = 0.05
"""How often to plan at most."""
HEARD_S = 7.0
"""After Redis was away: workers that live have found it again by then (a socket's 5 s) and spoken (a second)."""
ANNOUNCE_S = 1.0
REAP_S = 1.0
LATE_S = 5.0
TRIM_S = 10.0
SWEEP_S = 600.0
SERVED_KEPT = 1000
"""Runs whose turns are remembered: one that is not was served less recently than all of them."""

_BEGIN = sa.text("SELECT")

log = structlog.get_logger()


class Every:
    """True at most once per interval."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._next = 0.0

    def is_due(self) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._interval_s
        return True


class Dispatcher:
    """`step()` over and over, by one thread of the one orchestrator process."""

    def __init__(self, *, engine: sa.Engine, client: redis.Redis, sender: celery.Celery, settings: Settings) -> None:
        self._engine = engine
        self._redis = client
        self._sender = sender
        self._settings = settings
        self._position: str | None = None
        self._read_to = 0.0
        """The moment up to which all progress is committed, by the monotonic clock."""
        self._was_away = False
        """Redis failed us, and has not been read since."""
        self._is_heard_at = 0.0
        """From this moment on all workers that live have spoken since Redis was last away."""
        self._has_called_off = False
        """A run may have lines that are still to be ended."""
        self._backlogs = BacklogReader()
        self._costs = CostsReader()
        self._demands = Demands(client)
        self._roster = Roster(client, window_chunks=settings.window_chunks)
        self._served: dict[str, int] = {}
        """Run -> when it was last served, counted in chunks; the latest is the last."""
        self._prefetched: dict[str, str] = {}
        """Worker -> the model it was last told of: the plan names it anew each time."""
        self._late: dict[int, float] = {}
        self._has_news = True
        self._planned_at = 0.0
        self._turns: dict[Callable[[], None], Every] = {
            self._announce: Every(ANNOUNCE_S),
            self._reap: Every(REAP_S),
            self._fail_late: Every(LATE_S),
            self._trim: Every(TRIM_S),
            self._forget_workers: Every(SWEEP_S),
        }

    def step(self, *, block_s: float = 0.1) -> None:
        """One turn. Waits up to `block_s` for news. Raises what the database and Redis raise: call it again."""
        try:
            self._step(block_s)
        except redis.RedisError:
            self._was_away = True
            raise

    def _step(self, block_s: float) -> None:
        self._commit_progress(0.0 if self._has_called_off else block_s)
        for turn, every in self._turns.items():
            if every.is_due():
                turn()
        if self._has_called_off:
            self._end_lines()
        if self._is_time_to_plan():
            self._plan_and_send()

    def forget(self) -> None:
        """After an error: read the committed position, and what waits, again."""
        self._position = None
        self._backlogs.forget()

    def workers(self, windows: Mapping[str, Window]) -> list[residency.Worker]:
        """Workers heard of lately, as the plan sees them; `windows` says what is out at each."""
        return self._roster.alive(windows, loading_at=self._demands.loading_at)

    def _commit_progress(self, block_s: float) -> None:
        """Commit the messages that wait, one transaction each: so many of them at most."""
        if self._position is None:
            with database.session(self._engine) as session:
                self._position = progress.position(session)
        messages = _messages(
            self._redis.xread({PROGRESS_STREAM: self._position}, count=MESSAGES, block=max(1, int(block_s * 1000)))
        )
        read_at = time.monotonic()
        if self._was_away:
            self._was_away, self._is_heard_at = False, read_at + HEARD_S
        for position, fields in messages:
            self._commit(position, fields)
            self._position = position
        read_to = read_at if len(messages) < MESSAGES else time.monotonic() - self._age_s(messages[-1][0])
        if read_to >= self._is_heard_at:
            self._read_to = read_to

    def _age_s(self, position: str) -> float:
        """Since a message was sent."""
        seconds, micros = self._redis.time()
        return float(seconds + micros / 1e6 - int(position.partition("-")[0]) / 1e3)

    def _unread_s(self, session: Session) -> float:
        """Seconds from the moment up to which all progress is committed to this transaction's `now()`, or more.

        What took long since then, whatever it was, took none of the time that leases have.
        """
        session.execute(_BEGIN)  # `now()` stands still from here on
        return time.monotonic() - self._read_to

    def _commit(self, position: str, fields: dict[str, str]) -> None:
        try:
            message = progress.read(fields["progress"])
        except (KeyError, pydantic.ValidationError) as error:
            log.error("a progress message makes no sense and is left out", position=position, error=str(error)[:500])
            return
        try:
            with database.session(self._engine) as session:
                committed = progress.commit(
                    session,
                    message,
                    position=position,
                    lease_s=self._settings.lease_s,
                    max_attempts=self._settings.max_attempts,
                )
        except sa.exc.DataError as error:
            # Read again it would be refused again, and all behind it never read. Leases bring its units back.
            reason = str(error.orig)[:500]
            log.error("the database refuses a progress message: it is left out", position=position, error=reason)
            return
        if committed.refused:
            log.info("completions refused", worker=message.state.worker, refused=committed.refused)
        self._note(message, int(position.partition("-")[0]))

    def _note(self, message: Progress, at_ms: int) -> None:
        worker = message.state.worker
        self._roster.note(message, at_ms)
        for load in message.loads:
            log.info("load", worker=worker, model=load.model_key, s=round(load.seconds, 1), error=load.error)
            if load.error is not None:
                self._demands.failed(load.model_key, worker, load.error)
            elif self._demands.loaded(load.model_key, worker):
                self._roster.note_load_for_queries(worker)
        self._has_news = self._has_news or bool(message.finished or message.ended or message.loads)

    def _reap(self) -> None:
        with database.session(self._engine) as session:
            lost = chunks.lost(session, unread_s=self._unread_s(session))
            claimed = self._call_off([chunk.id for chunk in lost])
            chunks.take_back(session, lost, claimed=claimed, max_attempts=self._settings.max_attempts)
        if lost:
            log.warning("chunks lost: their units wait again", chunks=[chunk.id for chunk in lost])
            self._has_news = True
            self._backlogs.forget()

    def _call_off(self, lost: Sequence[int]) -> set[int]:
        """Before their units can be sent again: whoever has these chunks, or finds them in a queue, drops them.

        Returns those that a worker had claimed. It may have died too soon to mention them.
        """
        with self._redis.pipeline(transaction=False) as pipeline:
            for chunk_id in lost:
                pipeline.set(claim_key(chunk_id), LOST_CLAIM, ex=CLAIM_TTL_S, get=True)
            holders = pipeline.execute()
        return {chunk_id for chunk_id, holder in zip(lost, holders, strict=True) if holder not in (None, LOST_CLAIM)}

    def _fail_late(self) -> None:
        with database.session(self._engine) as session:
            late = chunks.fail_late(session, late_s=self._settings.late_s, unread_s=self._unread_s(session))
        now = time.monotonic()
        self._late = {unit: at for unit, at in self._late.items() if now - at < cancelling.ANNOUNCED_S}
        self._late |= dict.fromkeys(late, now)
        if late:
            log.warning("units took too long: their lines go on without them", units=len(late))

    def _announce(self) -> None:
        """Tell workers which runs are called off, before anything is done about their lines."""
        with database.session(self._engine) as session:
            for run_id in cancelling.expire_batches(session):
                log.info("batch expired", run=run_id)
            recent = cancelling.recent_runs(session)
        cancelling.announce(self._redis, run_ids=recent, late_units=self._late)
        self._has_called_off = True

    def _end_lines(self) -> None:
        """A slice a turn: progress is read in between."""
        with database.session(self._engine) as session:
            ended = cancelling.end_lines(session)
        self._has_called_off = ended is not None
        if ended is not None and ended.is_last:
            log.info("run called off", run=ended.run_id)
            self._backlogs.forget()

    def _trim(self) -> None:
        """Drop what is committed from the stream."""
        if self._position is not None and self._position != "0":
            self._redis.xtrim(PROGRESS_STREAM, minid=self._position, approximate=True)

    def _forget_workers(self) -> None:
        with database.session(self._engine) as session:
            gone = forgetting.workers(session, self._redis, unread_s=self._unread_s(session))
        self._roster.forget(gone)
        for name in gone:
            self._prefetched.pop(name, None)
        if gone:
            log.info("workers forgotten: not heard of for a day", workers=gone)

    def _is_time_to_plan(self) -> bool:
        return time.monotonic() - self._planned_at >= (PLAN_SOON_S if self._has_news else PLAN_S)

    def _plan_and_send(self) -> None:
        self._planned_at = time.monotonic()
        self._has_news = False
        demands = self._demands.waiting()
        with database.session(self._engine) as session:
            backlog = self._backlogs.read(session)
            wanted = {**self._backlogs.models, **{key: demand.model for key, demand in demands.items()}}
            costs = self._costs.read(session, wanted)
        workers = self.workers(backlog.windows)
        resident = {key for worker in workers for key in worker.resident}
        self._demands.met(resident & demands.keys())
        queues = dict(backlog.queues)
        now_s = self._redis.time()[0] if demands else 0
        for key, demand in demands.items():
            queue = queues.get(key, residency.Queue(model_key=key, engine=demand.model.engine))
            waited_s = max(0.0, now_s - demand.since_s)
            queues[key] = residency.waited_for(queue, demand_s=waited_s)
        actions = residency.plan(list(queues.values()), workers, chunk_units=self._settings.chunk_units, models=costs)
        for action in actions:
            match action:
                case residency.Load():
                    self._load(action, wanted[action.model_key], for_queries=action.model_key in demands)
                case residency.Send():
                    self._send(action, backlog)
                case residency.Prefetch() if self._prefetched.get(action.worker) != action.model_key:
                    self._prefetched[action.worker] = action.model_key
                    message = Prefetch(model=wanted[action.model_key])
                    broker.send(self._sender, PREFETCH_TASK, online_queue(action.worker), message)

    def _load(self, action: residency.Load, model: Model, *, for_queries: bool) -> None:
        log.info("loading ahead of work", model=model.source, worker=action.worker, for_queries=for_queries)
        self._demands.sent(action.model_key, action.worker, for_queries=for_queries)
        broker.send(self._sender, LOAD_TASK, online_queue(action.worker), Load(model=model))

    def _send(self, action: residency.Send, backlog: Backlog) -> None:
        """Make the chunks, commit, and only then send them."""
        self._note_stay(action, backlog.windows.get(action.worker, Window()))
        for _ in range(action.chunks):
            waiting = backlog.runs.get(action.model_key, {})
            # Runs take turns: who was served least recently comes first.
            for run_id in sorted(waiting, key=lambda each: (self._served.get(each, 0), each)):
                if self._send_chunk(run_id, action):
                    self._note_served(run_id)
                    break
            else:
                return

    def _note_stay(self, action: residency.Send, window: Window) -> None:
        """Say so where a worker takes up another model, and for how long."""
        if action.model_key not in window.chunks and not self._roster.has(action.worker, action.model_key):
            source = self._backlogs.models[action.model_key].source
            log.info("a worker takes up a model", worker=action.worker, model=source, stay_s=round(action.stay_s, 1))

    def _note_served(self, run_id: str) -> None:
        latest = next(reversed(self._served.values()), 0)
        self._served.pop(run_id, None)
        self._served[run_id] = latest + 1
        if len(self._served) > SERVED_KEPT:
            del self._served[next(iter(self._served))]

    def _send_chunk(self, run_id: str, action: residency.Send) -> bool:
        with database.session(self._engine) as session:
            chunk = chunks.create(
                session,
                run_id=run_id,
                model_key=action.model_key,
                worker=action.worker,
                size=action.units or self._settings.chunk_units,
                lease_s=self._settings.lease_s,
                alone=action.alone,
            )
            model = self._backlogs.pinned(session, run_id).models[action.model_key]
        if chunk is None or action.alone:
            self._backlogs.forget()
        else:
            self._backlogs.sent(action.model_key, run_id, len(chunk.requests))
        if chunk is None:
            return False
        message = {"id": chunk.id, "run_id": chunk.run_id, "model": model, "requests": chunk.requests}
        try:
            broker.send_json(self._sender, BULK_TASK, bulk_queue(action.worker), message)
        except kombu.exceptions.OperationalError as error:
            log.warning("a chunk was not sent; its lease will send it again", chunk=chunk.id, error=str(error))
        return True


def _messages(reply: Any) -> Sequence[tuple[str, dict[str, str]]]:
    """(position, fields) of an XREAD of one stream, whichever protocol version shaped the reply."""
    if not reply:
        return []
    if isinstance(reply, dict):
        return [entry for batch in reply.values() for entry in batch[0]]
    return [entry for _, batch in reply for entry in batch]
