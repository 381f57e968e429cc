"""`GET /v1/models`: the pool and every live expert, as OpenAI lists models."""

from typing import Any

from fastapi import APIRouter

from api.errors import ApiError
from api.state import GatewayDep
from orchestrator.online.chat_request import POOL
from orchestrator.pool import experts
from orchestrator.storage.tables import ExpertRow

router = APIRouter(tags=["models"])
POOL_SINCE = 1735689600
"""The pool's "created": OpenAI's clients want a number; 2025-01-01 stands for "always"."""


@router.get("/v1/models")
def list_models(gateway: GatewayDep) -> dict[str, Any]:
    """`muster` and the experts that can be asked by name."""
    with gateway.session() as session:
        live = experts.current(session, states=("live",))
    return {"object": "list", "data": [_pool(), *(_expert(row) for row in live)]}


@router.get("/v1/models/{name}")
def get_model(name: str, gateway: GatewayDep) -> dict[str, Any]:
    """One of them."""
    if name == POOL:
        return _pool()
    with gateway.session() as session:
        for row in experts.current(session, states=("live",)):
            if row.name == name:
                return _expert(row)
    raise ApiError(404, f"the model {name[:80]!r} does not exist or is not live", param="model", code="model_not_found")


def _pool() -> dict[str, Any]:
    return {"id": POOL, "object": "model", "created": POOL_SINCE, "owned_by": "muster"}


def _expert(row: ExpertRow) -> dict[str, Any]:
    created = int(row.created_at.timestamp())
    about = {"description": row.description, "version": row.version}
    return {"id": row.name, "object": "model", "created": created, "owned_by": "muster", **about}
