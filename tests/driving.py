"""Driving stager and dispatcher in tests: by hand, so that every test sees the same order of things, or in a thread."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session

from orchestrator import broker
from orchestrator.dispatch.dispatcher import Dispatcher
from orchestrator.runs import lines
from orchestrator.runs.stager import Stager
from orchestrator.settings import Settings
from orchestrator.storage import database
from tests.seeds import WordEmbedder


class Driver:
    """Both loops of the orchestrator, a step at a time."""

    def __init__(self, engine: sa.Engine, settings: Settings) -> None:
        self.engine = engine
        self.settings = settings
        self._client, self._sender = broker.client(settings), broker.sender(settings)
        self.stager = Stager(engine=engine, settings=settings, load_embedder=WordEmbedder)
        self.dispatcher = Dispatcher(engine=engine, client=self._client, sender=self._sender, settings=settings)

    def close(self) -> None:
        self.stager.close()
        self._client.close()
        self._sender.close()

    def step(self) -> None:
        """One step of each."""
        self.stager.step()
        self.dispatcher.step(block_s=0.01)

    def until(
        self, look: Callable[[], object], *, also: Callable[[], object] = lambda: None, timeout_s: float = 20.0
    ) -> None:
        """Step (and do `also` after each step) until `look()` is true."""
        deadline = time.monotonic() + timeout_s
        while not look():
            assert time.monotonic() < deadline, f"not true after {timeout_s} s"
            self.step()
            also()

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """Steps in a thread, while the test asks queries."""
        stop = threading.Event()

        def step() -> None:
            while not stop.is_set():
                self.step()

        thread = threading.Thread(target=step)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    @contextmanager
    def session(self) -> Iterator[Session]:
        with database.session(self.engine) as session:
            yield session

    def lines(self, run_id: str) -> list[dict[str, Any]]:
        """The run's lines that are done, with their provenance."""
        return list(lines.results(self.session, run_id))

    def scalar(self, statement: str, **values: object) -> object:
        """One value of the database."""
        with self.session() as session:
            return session.execute(sa.text(statement), values).scalar()

    def execute(self, statement: str, **values: object) -> None:
        """Change the database."""
        with self.session() as session:
            session.execute(sa.text(statement), values)

    def status(self, run_id: str) -> object:
        return self.scalar("SELECT status FROM run WHERE id = :run", run=run_id)

    def is_done(self, run_id: str) -> bool:
        return self.status(run_id) in ("completed", "failed", "cancelled")
