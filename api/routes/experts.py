"""`/v1/experts`: the pool's members and their profiles."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Query
from pydantic import BaseModel, ConfigDict, Field

from api.state import OPERATOR_ALONE, GatewayDep, SettingsDep
from orchestrator.pool import catalogue, definition, experts, question_sets, registration
from orchestrator.runs import runs

router = APIRouter(prefix="/v1/experts", tags=["experts"])

_EXAMPLES = [
    {"name": "qwen-small", "model": "hub:Qwen/Qwen2.5-0.5B-Instruct"},
    {
        "name": "far-away",
        "model": {"source": "https://models.example.com/v1", "remote_name": "big", "api_key_env": "FAR_AWAY_KEY"},
        "system_prompt": "You are a careful chemist.",
        "sampling": {"temperature": 0.2, "max_tokens": 256},
    },
]
Json = dict[str, Any]


class ProfileRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    question_set: Annotated[str, Field(max_length=64)] | None = None
    """The question set to profile on; the one that queries recruit on if left out."""


@router.get("")
def list_experts(gateway: GatewayDep) -> Json:
    """Every expert, its state, why it is in it, and how far its profiling is."""
    with gateway.session() as session:
        return {"object": "list", "data": catalogue.listed(session)}


@router.post("", status_code=202, dependencies=[OPERATOR_ALONE])
def register(body: Annotated[Json, Body(examples=_EXAMPLES)], gateway: GatewayDep, settings: SettingsDep) -> Json:
    """Take a new expert in. A run tests and profiles it, then it is live; `GET /v1/experts/{name}` shows how far it is.

    The fields are those of `experts.toml`: `name` and `model` are required; `adapter`, `system_prompt`, `sampling`,
    `description` and `licence` are not.
    """
    written = definition.parse(body, allow_remote_code=settings.allow_remote_code)
    with gateway.session() as session:
        row = experts.register(session, written)
        session.refresh(row)
        return catalogue.expert(session, row)


@router.get("/{name}")
def get_expert(name: str, gateway: GatewayDep) -> Json:
    """One expert, with the versions it had."""
    with gateway.session() as session:
        row = experts.get(session, name)
        versions = [
            {"version": each.version, "state": each.state, "created_at": int(each.created_at.timestamp())}
            for each in experts.versions(session, name)
        ]
        return {**catalogue.expert(session, row, runs.open_profile(session, row)), "versions": versions}


@router.patch("/{name}", status_code=202, dependencies=[OPERATOR_ALONE])
def change(name: str, body: Annotated[Json, Body()], gateway: GatewayDep, settings: SettingsDep) -> Json:
    """Change an expert: a new version, tested and profiled anew, unless only its description or licence changes.

    `model` and `sampling` given as objects are merged into what is there.
    """
    with gateway.session() as session:
        row = experts.patch(session, name, body, allow_remote_code=settings.allow_remote_code)
        session.refresh(row)
        return catalogue.expert(session, row, runs.open_profile(session, row))


@router.delete("/{name}", dependencies=[OPERATOR_ALONE])
def remove(name: str, gateway: GatewayDep) -> Json:
    """Take an expert out of the pool. Its versions, profiles and answers stay as history."""
    with gateway.session() as session:
        row = experts.remove(session, name)
        return {"object": "expert", "name": name, "state": row.state, "deleted": True}


@router.post("/{name}/profile", status_code=202, dependencies=[OPERATOR_ALONE])
def build_profile(
    name: str, gateway: GatewayDep, settings: SettingsDep, body: Annotated[ProfileRequest | None, Body()] = None
) -> Json:
    """Profile an expert: a run in which it answers a question set. A live expert stays live meanwhile."""
    with gateway.session() as session:
        row = experts.get(session, name)
        wanted = body.question_set if body and body.question_set else settings.question_set
        run = registration.profile(session, settings, row, question_sets.newest(session, wanted))
        return {"id": run.id, "object": "run", "kind": run.kind, "status": run.status, "expert": name}


@router.get("/{name}/profile")
def get_profile(
    name: str,
    gateway: GatewayDep,
    settings: SettingsDep,
    version: Annotated[int | None, Query(ge=1, le=2**31 - 1)] = None,
    question_set: Annotated[str | None, Query(max_length=64)] = None,
) -> Json:
    """What the expert is good at: right answers, tries and strength per skill."""
    with gateway.session() as session:
        return catalogue.profile(session, name, question_set=question_set or settings.question_set, version=version)
