"""`GET /v1/skills`: the vocabulary, and who is good at what."""

from typing import Annotated, Any

from fastapi import APIRouter, Query

from api.state import GatewayDep, SettingsDep
from orchestrator.pool import catalogue

router = APIRouter(tags=["skills"])


@router.get("/v1/skills")
def list_skills(
    gateway: GatewayDep, settings: SettingsDep, question_set: Annotated[str | None, Query(max_length=64)] = None
) -> dict[str, Any]:
    """Each skill of a question set with every live expert's strength on it."""
    with gateway.session() as session:
        return catalogue.skills(session, question_set=question_set or settings.question_set)
