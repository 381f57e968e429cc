"""`python -m orchestrator`: the one process that stages runs and dispatches their units.

A second one waits for the first to end. SIGTERM and Ctrl-C end it between two steps: nothing is lost at any point.
"""

import signal
import sys
import threading
from collections.abc import Callable

import redis.exceptions
import sqlalchemy as sa
import structlog

from orchestrator import annotation, broker, logs
from orchestrator.dispatch.dispatcher import Dispatcher
from orchestrator.runs.stager import Stager
from orchestrator.settings import Settings
from orchestrator.storage import database

LOCK = "orchestrator"
LOCK_CHECK_S = 2.0
IDLE_S = 0.05
"""The stager looks again so soon when it found nothing to do."""
RETRY_MIN_S, RETRY_MAX_S = 0.2, 5.0

log = structlog.get_logger()


def main() -> int:
    settings = Settings()
    logs.configure(settings.log_level)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        engine = database.connect(settings)
    except ValueError as error:
        log.error("the orchestrator cannot start", reason=str(error))
        return 2
    while not stop.is_set():
        try:
            database.migrate(engine)
            with database.advisory_lock(engine, LOCK, keep_waiting=lambda: not stop.is_set()) as lock:
                if lock is not None:
                    _run(settings, engine, stop, lock)
        except sa.exc.DBAPIError as error:
            log.warning("the database is away; trying again", error=str(error.orig))
            stop.wait(RETRY_MAX_S)
    engine.dispose()
    log.info("ended")
    return 0


def _run(settings: Settings, engine: sa.Engine, stop: threading.Event, lock: database.AdvisoryLock) -> None:
    """Both loops, until `stop`, or until the lock is lost or a loop ends."""
    ending = threading.Event()
    client, sender = broker.client(settings), broker.sender(settings)
    stager = Stager(engine=engine, settings=settings, load_embedder=lambda: annotation.embedder(settings.packages_dir))
    dispatcher = Dispatcher(engine=engine, client=client, sender=sender, settings=settings)

    def stage() -> None:
        if not stager.step():
            ending.wait(IDLE_S)

    loops = [
        threading.Thread(target=_loop, args=("stager", stage, ending), name="stager"),
        threading.Thread(
            target=_loop, args=("dispatcher", dispatcher.step, ending, dispatcher.forget), name="dispatcher"
        ),
    ]
    for loop in loops:
        loop.start()
    log.info("running")
    while not stop.wait(LOCK_CHECK_S):
        if not lock.is_held():
            log.warning("the lock was lost with its database connection")
            break
        if not all(loop.is_alive() for loop in loops):
            log.error("a loop has ended")
            break
    ending.set()
    for loop in loops:
        loop.join()
    stager.close()
    client.close()
    sender.close()


def _loop(
    name: str, step: Callable[[], object], ending: threading.Event, after_error: Callable[[], None] = lambda: None
) -> None:
    """Step after step. What goes wrong is logged and tried again, a little later each time."""
    wait_s = RETRY_MIN_S
    while not ending.is_set():
        try:
            step()
            wait_s = RETRY_MIN_S
        except (sa.exc.DBAPIError, redis.exceptions.RedisError) as error:
            log.warning("the database or Redis is away", loop=name, error=str(error).partition("\n")[0])
            after_error()
            ending.wait(wait_s)
            wait_s = min(RETRY_MAX_S, wait_s * 2)
        except Exception:
            log.exception("a step failed", loop=name)
            after_error()
            ending.wait(wait_s)
            wait_s = min(RETRY_MAX_S, wait_s * 2)


if __name__ == "__main__":
    sys.exit(main())
