"""`/v1/question-sets`: the labelled questions that profiles are made on."""

import io
import json
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from api.errors import ApiError
from api.state import OPERATOR_ALONE, GatewayDep
from orchestrator.online.gateway import Gateway
from orchestrator.pool import catalogue, question_sets
from skills.question import Question

router = APIRouter(prefix="/v1/question-sets", tags=["skills"])

_LINE = {"id": "q1", "question": "Which?", "options": ["this", "that"], "answer": "A", "category": "logic"}
_BODY = {
    "requestBody": {
        "required": True,
        "description": "JSON, or JSONL (one question a line) with the set's name in the query.",
        "content": {
            "application/json": {
                "schema": {"type": "object", "required": ["name", "questions"]},
                "example": {"name": "our-questions", "questions": [_LINE]},
            },
            "application/jsonl": {"schema": {"type": "string"}, "example": json.dumps(_LINE)},
        },
    }
}
Json = dict[str, Any]


@router.get("")
def list_sets(gateway: GatewayDep) -> Json:
    """Every version of every question set."""
    with gateway.session() as session:
        return {"object": "list", "data": [catalogue.question_set(*entry) for entry in question_sets.listed(session)]}


@router.post("", status_code=201, openapi_extra=_BODY, dependencies=[OPERATOR_ALONE])
async def upload(
    request: Request, gateway: GatewayDep, name: Annotated[str | None, Query(max_length=64)] = None
) -> Json:
    """Bring a question set. The same questions under the same name are the same version.

    A line is `{"id", "question", "options"?, "answer", "category"?, "skills"?}`; errors name the line.
    """
    body = await request.body()
    return await run_in_threadpool(_store, gateway, name, body, request.headers.get("content-type", ""))


def _store(gateway: Gateway, name: str | None, body: bytes, content_type: str) -> Json:
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ApiError(400, f"the body is not UTF-8 text (byte {error.start})", code="invalid_encoding") from None
    if content_type.partition(";")[0].strip() == "application/json":
        name, lines = _from_json(text, name)
    else:
        lines = io.StringIO(text)
    if not name:
        raise ApiError(400, "name is missing: in the JSON, or as ?name= beside JSONL", param="name")
    questions: list[Question] = question_sets.parse(lines)
    embedder = gateway.embedder()
    with gateway.session() as session:
        row = question_sets.store(session, name, questions, embedder)
        session.refresh(row)
        return catalogue.question_set(row, len(questions))


def _from_json(text: str, name: str | None) -> tuple[str | None, io.StringIO | list[str]]:
    """The set's name and its questions as lines, so that errors count them alike."""
    try:
        body = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ApiError(400, f"the body is not JSON: {error}", code="invalid_json") from None
    if not isinstance(body, dict) or not isinstance(body.get("questions"), list):
        raise ApiError(400, "questions is missing: a list of questions", param="questions")
    given = body.get("name", name)
    if given is not None and not isinstance(given, str):
        raise ApiError(400, "name: must be a string", param="name", code="invalid_value")
    return given, [json.dumps(question) for question in body["questions"]]
