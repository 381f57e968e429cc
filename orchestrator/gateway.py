"""What the API process works with, wired once: the database, the transport, the embedder, and queries in flight."""

import contextlib
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any

import anyio
import anyio.to_thread
import sqlalchemy as sa
import structlog
from sqlmodel import Session

from orchestrator import annotation, database, experts, online, pool, queries
from orchestrator.deciding import Decider, Decision
from orchestrator.pool import Expert
from orchestrator.query import Answer, Event, Query, QueryFailed, Stage
from orchestrator.settings import Settings
from orchestrator.transport import BrokerTransport
from skills.embed import Embedder

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


class Gateway:
    """One per API process. `close` ends its connections."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.transport = BrokerTransport.connect(settings)
        self._database = database.connect(settings, pool_size=DATABASE_CONNECTIONS, overflow=DATABASE_CONNECTIONS)
        self._in_flight = 0
        self._decider = Decider(
            settings=settings, open_session=self.session, load_embedder=self.embedder, transport=self.transport
        )

    async def close(self) -> None:
        await self.transport.aclose()
        self._database.dispose()

    @contextlib.contextmanager
    def session(self) -> Iterator[Session]:
        """One transaction, committed at the end. Raises `DatabaseAway`."""
        try:
            with database.session(self._database) as session:
                yield session
        except (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError) as error:
            log.error("database away", error=str(error))
            raise DatabaseAway(
                "the database (DATABASE_URL) cannot be reached just now; `muster up` restarts it, or look at its log"
            ) from error

    def embedder(self) -> Embedder:
        """The process's embedder. Raises `skills.embed.EmbedderMissing`."""
        return annotation.embedder(self.settings.packages_dir)

    def ping_database(self) -> None:
        """Raises `DatabaseAway`."""
        with self.session() as session:
            session.connection().execute(sa.text("SELECT 1"))

    @contextlib.contextmanager
    def slot(self) -> Iterator[None]:
        """Room for one query. Raises `TooManyQueries` at once: a client can wait better than we can queue."""
        if self._in_flight >= self.settings.queries_in_flight:
            raise TooManyQueries(self.settings.queries_in_flight)
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1

    async def route(self, query: Query) -> Decision:
        """The recruiting decision alone: what `answer` would decide. Raises as `Decider.decide`."""
        with self.slot():
            return await self._decider.decide(query, deadline_s=self._deadline_s(query))

    async def answer(self, query: Query, request: Mapping[str, Any]) -> AsyncGenerator[Event, None]:
        """Decide, answer, and keep the query with what became of it. `request` is what the client sent.

        The first event comes once somebody was recruited. Raises as `Decider.decide` and `online.answer`.
        """
        kept = _Kept(request=request)
        deadline_s = self._deadline_s(query)
        with self.slot():
            try:
                decision = await self._decider.decide(query, deadline_s=deadline_s)
                running = online.answer(query, decision, self.transport, deadline_s=deadline_s)
                async with contextlib.aclosing(running) as events:
                    async for event in events:
                        kept.see(event)
                        yield event
            except BaseException as error:
                kept.failed(error)
                raise
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(self._keep, query.id, kept)

    async def answer_from(
        self, query: Query, expert: Expert, request: Mapping[str, Any]
    ) -> AsyncGenerator[Event, None]:
        """One expert's own answer; kept, too."""
        kept = _Kept(request=request)
        with self.slot():
            try:
                running = online.answer_from(query, expert, self.transport, deadline_s=self._deadline_s(query))
                async with contextlib.aclosing(running) as events:
                    async for event in events:
                        kept.see(event)
                        yield event
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

    def _deadline_s(self, query: Query) -> float:
        seconds = query.options.budget.seconds
        return time.time() + (seconds if seconds is not None else self.settings.query_seconds)

    def _keep(self, query_id: str, kept: "_Kept") -> None:
        """A query that cannot be kept is still answered: the loss is logged."""
        if not kept.is_worth_keeping:
            return
        try:
            with self.session() as session:
                queries.keep(session, query_id=query_id, **kept.columns())
        except Exception:
            log.exception("query not kept", query=query_id)


class _Kept:
    """What is remembered of a query while its events pass by."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        self._request = request
        self._decision: Mapping[str, Any] | None = None
        self._answers: list[Mapping[str, Any]] = []
        self._answer: Answer | None = None
        self._error: BaseException | None = None

    def see(self, event: Event) -> None:
        if isinstance(event, Answer):
            self._answer = event
        elif isinstance(event, Stage) and event.stage == "recruited":
            self._decision = event.detail
        elif isinstance(event, Stage) and event.stage == "answered":
            self._answers.append(event.detail)

    def failed(self, error: BaseException) -> None:
        self._error = error

    @property
    def is_worth_keeping(self) -> bool:
        """What was refused before anybody was asked says nothing about experts."""
        return self._answer is not None or self._decision is not None or isinstance(self._error, QueryFailed)

    def columns(self) -> dict[str, Any]:
        explanation = self._answer.explanation if self._answer else None
        answers = explanation["answers"] if explanation else self._answers
        return {
            "request": self._request,
            "decision": self._decision,
            "answers": {"answers": answers},
            "fused": self._fused(explanation),
            "status": self._status(answers),
        }

    def _fused(self, explanation: Mapping[str, Any] | None) -> dict[str, Any] | None:
        if self._answer is None:
            return {"error": str(self._error)} if isinstance(self._error, Exception) else None
        found = {"text": self._answer.text, "usage": self._answer.usage.as_json()}
        return {**found, **explanation["fusion"], "votes": explanation["votes"]} if explanation else found

    def _status(self, answers: list[Mapping[str, Any]]) -> str:
        if self._answer is not None:
            return "degraded" if any(answer["error"] for answer in answers) else "ok"
        return "failed" if isinstance(self._error, Exception) else "cancelled"
