"""The HTTP application, wired from lists: middleware, routers, error handlers."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable
from typing import Any

import structlog
from fastapi import FastAPI

from api import errors
from api.middleware import ApiKey, BodyLimit, RequestLog
from api.routes import (
    batches,
    benchmarks,
    chat,
    experts,
    feedback,
    files,
    health,
    models,
    question_sets,
    route,
    runs,
    skills,
)
from api.state import State
from api.watching import Watching
from orchestrator.online.gateway import Gateway
from orchestrator.pool.question_sets import TextEmbedder
from orchestrator.runs import events
from orchestrator.settings import Settings
from orchestrator.version import VERSION

ROUTERS = (
    chat.router,
    models.router,
    route.router,
    experts.router,
    skills.router,
    question_sets.router,
    files.router,
    batches.router,
    benchmarks.router,
    runs.router,
    feedback.router,
    health.router,
)
FORGET_EVERY_S = 3600.0
ABOUT = (
    "A pool of expert LLMs behind one API: every question goes to the few experts that are good at what it needs, "
    'and their answers become one. Chat is OpenAI\'s: any of its clients works with `model: "muster"`.'
)

log = structlog.get_logger(__name__)


def create_app(settings: Settings, *, load_embedder: Callable[[], TextEmbedder] | None = None) -> FastAPI:
    """The application. Connections open with its lifespan, not before.

    `load_embedder`: in place of the installed one.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[State]:
        gateway = Gateway(settings, load_embedder=load_embedder)
        forgetting = asyncio.create_task(_forget_old_queries(gateway))
        try:
            yield {"gateway": gateway, "watching": Watching(functools.partial(_snapshot, gateway))}
        finally:
            forgetting.cancel()
            await asyncio.gather(forgetting, return_exceptions=True)
            await gateway.close()

    app = FastAPI(title="Muster", description=ABOUT, version=VERSION, lifespan=lifespan, redirect_slashes=False)
    for router in ROUTERS:
        app.include_router(router)
    errors.install(app)
    # The last one added is the outermost.
    app.add_middleware(BodyLimit, settings=settings)
    app.add_middleware(ApiKey, settings=settings)
    app.add_middleware(RequestLog)
    return app


def _snapshot(gateway: Gateway, run_id: str) -> dict[str, Any]:
    with gateway.session() as session:
        return events.snapshot(session, run_id.replace("\0", ""))


async def _forget_old_queries(gateway: Gateway) -> None:
    while True:
        try:
            await gateway.forget_old_queries()
        except Exception as error:
            log.warning("old queries not forgotten; tried again in an hour", error=str(error))
        await asyncio.sleep(FORGET_EVERY_S)
