"""`POST /v1/route`: the recruiting decision alone, with reasons; exactly what chat would do."""

import secrets
from typing import Any

from fastapi import APIRouter

from api.errors import ApiError
from api.state import GatewayDep
from orchestrator.online.chat_request import POOL, ChatRequest

router = APIRouter(tags=["chat"])


@router.post("/v1/route")
async def decide(body: ChatRequest, gateway: GatewayDep) -> dict[str, Any]:
    """Whom the pool would ask, and why. Takes the body of a chat completion and generates nothing."""
    if body.model != POOL:
        raise ApiError(400, f"only {POOL!r} recruits; an expert is asked directly", param="model", code="invalid_value")
    query = body.query(f"route-{secrets.token_hex(12)}")
    decision = await gateway.route(query)
    seconds = {"annotate": round(decision.annotate_s, 3), "recruit": round(decision.recruit_s, 3)}
    question = {"text": query.question.text, "options": list(query.question.options)}
    return {"object": "route", "question": question, **decision.as_json(), "calls": decision.calls, "seconds": seconds}
