"""`POST /v1/feedback`: what became of an answer."""

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from api.errors import ApiError
from api.state import GatewayDep
from orchestrator.online import queries

router = APIRouter(tags=["chat"])


class Feedback(BaseModel):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"id": "chatcmpl-0123", "correct": True, "rating": 1}]}
    )

    id: str = Field(min_length=1, max_length=100)
    """The answer's id."""
    correct: bool | None = None
    rating: Annotated[float, Field(ge=-1, le=1)] | None = None
    """-1 for useless to 1 for what was needed."""
    answer: Annotated[str, Field(max_length=10_000)] | None = None
    """What would have been right."""
    comment: Annotated[str, Field(max_length=10_000)] | None = None


@router.post("/v1/feedback")
def give(body: Feedback, gateway: GatewayDep) -> dict[str, Any]:
    """Say whether an answer was right. The latest word on an answer counts."""
    said = body.model_dump(exclude={"id"}, exclude_none=True)
    if not said:
        raise ApiError(400, "say something: correct, rating, answer or comment", param="correct", code="invalid_value")
    with gateway.session() as session:
        queries.give_feedback(session, body.id.replace("\0", ""), said)
    return {"id": body.id, "object": "feedback", "received": True}
