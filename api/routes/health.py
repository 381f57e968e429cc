"""Alive, able to serve, and measured."""

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from api.state import OPERATOR_ALONE, GatewayDep

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def alive() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz", response_model=None)
async def ready(gateway: GatewayDep) -> JSONResponse:
    """Whether a question can be answered now: database, broker, a live expert, and a worker for it. 503 if not."""
    readiness = await gateway.readiness()
    status = {"status": "ok" if readiness.is_ready else "not ready", "checks": readiness.checks}
    return JSONResponse(status, 200 if readiness.is_ready else 503)


@router.get("/metrics", response_class=Response, dependencies=[OPERATOR_ALONE])
async def metrics(gateway: GatewayDep) -> Response:
    """For Prometheus."""
    text = await run_in_threadpool(gateway.metrics)
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")
