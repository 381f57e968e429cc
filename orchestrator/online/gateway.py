"""What the API process works with, wired once: the database, the transport, the embedder, and queries in flight."""

import contextlib
import copy
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.to_thread
import sqlalchemy as sa
import structlog
from sqlmodel import Session

from orchestrator import annotation, metrics
from orchestrator.online import online, queries
from orchestrator.online.deciding import Decider, Decision, refuse_too_long
from orchestrator.online.pricing import refuse_if_full
from orchestrator.online.queries import Record
from orchestrator.online.query import Event, Query
from orchestrator.online.transport import BrokerTransport
from orchestrator.pool import experts, pool
from orchestrator.pool.pool import Expert
from orchestrator.pool.question_sets import TextEmbedder
from orchestrator.settings import Settings
from orchestrator.storage import database
from workers.messages import Model

DATABASE_CONNECTIONS = 10
RETRY_AFTER_S = 2
"""What a client that found no room is told: most queries end within seconds."""

log = structlog.get_logger(__name__)


class DatabaseAway(RuntimeError):
    """The database cannot be reached."""


class TooManyQueries(RuntimeError):
    """As many queries are in flight as the service takes."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} queries are being answered already (MUSTER_QUERIES_IN_FLIGHT); try again shortly")


@dataclass(frozen=True, kw_only=True)
class Readiness:
    """What a question needs to be answered, and whether each part is there."""

    checks: Mapping[str, Mapping[str, Any]]

    @property
    def is_ready(self) -> bool:
        return all(check["ok"] for check in self.checks.values())


class _InFlight:
    """Queries being answered, everybody's together."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.count = 0

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Room for one query. Raises `TooManyQueries` at once: a client can wait better than we can queue."""
        if self.count >= self._limit:
            raise TooManyQueries(self._limit)
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1


class Gateway:
    """One per API process. `close` ends its connections."""

    def __init__(self, settings: Settings, *, load_embedder: Callable[[], TextEmbedder] | None = None) -> None:
        self.settings = settings
        self._load_embedder = load_embedder or (lambda: annotation.embedder(settings.packages_dir))
        self.transport = BrokerTransport.connect(settings)
        self._database = database.connect(settings, pool_size=DATABASE_CONNECTIONS, overflow=DATABASE_CONNECTIONS)
        self._in_flight = _InFlight(settings.queries_in_flight)
        self._owner: str | None = None
        self._decider = Decider(
            settings=settings, open_session=self.session, load_embedder=self.embedder, transport=self.transport
        )

    async def close(self) -> None:
        await self.transport.aclose()
        self._database.dispose()

    def of(self, owner: str | None) -> "Gateway":
        """The same gateway as a tenant has it: its sessions are the tenant's (`storage.owners`). None: the operator."""
        own = copy.copy(self)
        own._owner = owner
        return own

    @contextlib.contextmanager
    def session(self) -> Iterator[Session]:
        """One transaction, committed at the end. Raises `DatabaseAway`."""
        try:
            with database.session(self._database, owner=self._owner) as session:
                yield session
        except (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError) as error:
            log.error("database away", error=str(error))
            raise DatabaseAway(
                "the database (DATABASE_URL) cannot be reached just now; `muster up` restarts it, or look at its log"
            ) from error

    def embedder(self) -> TextEmbedder:
        """The process's embedder. Raises `skills.embed.EmbedderMissing`."""
        return self._load_embedder()

    async def readiness(self) -> Readiness:
        """Whether a question could be answered now. Raises nothing."""
        states: Counter[str] = Counter()
        models: list[Model] = []

        def look() -> None:
            with self.session() as session:
                for row in experts.current(session):
                    states[row.state] += 1
                    if row.state == "live":
                        models.append(pool.expert_of(row).model)

        async def workers() -> dict[str, Any]:
            alive = await self.transport.workers()
            can_run = any(worker.can_run(model) for worker in alive for model in models)
            return {"ok": can_run or (not models and bool(alive)), "alive": len(alive)}

        async def database_answers() -> dict[str, Any]:
            await anyio.to_thread.run_sync(look)
            return {"ok": True}

        async def broker_answers() -> dict[str, Any]:
            await self.transport.ping()
            return {"ok": True}

        checks = {
            "database": await _checked(database_answers),
            "broker": await _checked(broker_answers),
            "workers": await _checked(workers),
        }
        checks["experts"] = {"ok": states["live"] > 0, **states}
        return Readiness(checks=checks)

    def metrics(self) -> bytes:
        """All that is measured, in Prometheus' text form. Raises `DatabaseAway`."""
        with self.session() as session:
            stored = metrics.collect(session)
        flying = "# HELP muster_queries_in_flight Queries being answered\n# TYPE muster_queries_in_flight gauge\n"
        return stored + f"{flying}muster_queries_in_flight {self._in_flight.count}\n".encode()

    async def route(self, query: Query) -> Decision:
        """The recruiting decision alone: what `answer` would decide. Raises as `Decider.decide`."""
        query = query.fused_by(self.settings.fusion)
        with self._in_flight.one():
            return await self._decider.decide(query, deadline_s=self._deadline_s(query))

    async def answer(self, query: Query, request: Mapping[str, Any]) -> AsyncGenerator[Event, None]:
        """Decide, answer, and keep the query with what became of it. `request` is what the client sent.

        The first event comes once somebody was recruited. Raises as `Decider.decide` and `online.answer`.
        """
        query = query.fused_by(self.settings.fusion)
        deadline_s = self._deadline_s(query)
        async with self._keeping(query, request) as kept:
            decision = await self._decider.decide(query, deadline_s=deadline_s)
            running = online.answer(query, decision, self.transport, deadline_s=deadline_s)
            async with contextlib.aclosing(running) as events:
                async for event in events:
                    kept.see(event)
                    yield event

    async def answer_from(
        self, query: Query, expert: Expert, request: Mapping[str, Any]
    ) -> AsyncGenerator[Event, None]:
        """One expert's own answer; kept, too. Raises as `online.answer_from`, and `QueueFull`."""
        refuse_too_long(query, [expert])
        async with self._keeping(query, request) as kept:
            if (supply := await self._decider.supply()) is not None:
                refuse_if_full(expert.model, supply)
            running = online.answer_from(query, expert, self.transport, deadline_s=self._deadline_s(query))
            async with contextlib.aclosing(running) as events:
                async for event in events:
                    kept.see(event)
                    yield event

    @contextlib.asynccontextmanager
    async def _keeping(self, query: Query, request: Mapping[str, Any]) -> AsyncGenerator[Record, None]:
        """A slot for the query, which is kept with what became of it, however it ends."""
        kept = Record(request)
        with self._in_flight.one():
            try:
                yield kept
            except BaseException as error:
                kept.failed(error)
                raise
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(self._keep, query.id, kept)

    def live_expert(self, name: str) -> Expert:
        """Raises `experts.UnknownExpert` or `experts.ExpertNotLive`."""
        with self.session() as session:
            row = experts.get(session, name)
            if row.state != "live":
                raise experts.ExpertNotLive(name, row.state, row.reason)
            return pool.expert_of(row)

    async def forget_old_queries(self) -> int:
        """Delete the queries that are older than the settings keep them; returns how many."""

        def forget() -> int:
            with self.session() as session:
                return queries.forget_old(session, days=self.settings.keep_queries_days)

        return await anyio.to_thread.run_sync(forget)

    def _deadline_s(self, query: Query) -> float:
        seconds = query.options.budget.seconds
        return time.time() + (seconds if seconds is not None else self.settings.query_seconds)

    def _keep(self, query_id: str, kept: Record) -> None:
        """A query that cannot be kept is still answered: the loss is logged."""
        if not kept.is_worth_keeping:
            return
        try:
            with self.session() as session:
                queries.keep(session, query_id=query_id, **kept.columns())
        except Exception:
            log.exception("query not kept", query=query_id)


async def _checked(check: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
    """What the check finds; what it raises becomes its error."""
    try:
        return await check()
    except Exception as error:
        return {"ok": False, "error": str(error)}
