"""Every error in OpenAI's shape, with its status and the field to blame: the real application, its parts away."""

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from api.app import create_app
from api.errors import _SHOWN, told
from orchestrator.online import gateway, transport
from orchestrator.pool import experts, question_sets
from orchestrator.runs import runs
from orchestrator.settings import Settings
from orchestrator.storage import files

NOWHERE = Settings(
    database_url="postgresql://nobody@127.0.0.1:1/none",
    redis_url="redis://127.0.0.1:1/0",
    api_key="key",
    api_keys="alice=alices",
    max_body_bytes=500,
)


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(create_app(NOWHERE), headers={"authorization": "Bearer key"}) as client:
        yield client


def test_a_wrong_key_is_refused_but_health_is_open(client: TestClient) -> None:
    refused = client.get("/v1/models", headers={"authorization": "Bearer other"})
    assert refused.status_code == 401
    assert refused.json()["error"]["type"] == "authentication_error"
    assert client.get("/healthz", headers={"authorization": ""}).status_code == 200


def test_with_tenants_alone_a_key_is_wanted_as_well() -> None:
    with TestClient(create_app(NOWHERE.model_copy(update={"api_key": ""}))) as client:
        for given in ({}, {"authorization": "Bearer "}, {"authorization": "Bearer key"}):
            assert client.get("/docs", headers=given).status_code == 401
        assert client.get("/docs", headers={"authorization": "Bearer alices"}).status_code == 200


def test_a_tenant_may_not_change_the_pool(client: TestClient) -> None:
    refused = client.post("/v1/experts", json={}, headers={"authorization": "Bearer alices"})
    assert (refused.status_code, refused.json()["error"]["type"]) == (403, "permission_error")
    assert client.post("/v1/experts", json={}).status_code == 400


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [("GET", "/v1/nothing", 404, "not_found"), ("DELETE", "/v1/models", 405, "method_not_allowed")],
)
def test_what_is_not_there_is_told_in_openais_shape(
    client: TestClient, method: str, path: str, status: int, code: str
) -> None:
    response = client.request(method, path)
    assert response.status_code == status
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert response.json()["error"]["code"] == code


def test_broken_json_is_told_with_line_and_column(client: TestClient) -> None:
    body = '{"model": "muster",\n "messages": [,]}'
    response = client.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert "line 2, column 15" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": [{"role": "user", "content": "x"}]}, "model"),
        ({"model": "muster", "messages": [{"role": "user", "content": 3}]}, "messages.0.content"),
        ({"model": "muster", "messages": [{"role": "user", "content": "x"}], "muster": {"kk": 1}}, "muster.kk"),
        (
            {"model": "muster", "messages": [{"role": "user", "content": "x"}], "muster": {"budget": {"seconds": 0}}},
            "muster.budget.seconds",
        ),
    ],
)
def test_a_wrong_field_is_a_400_that_names_it(client: TestClient, body: dict[str, object], param: str) -> None:
    response = client.post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_that_is_too_large_is_refused(client: TestClient, announced: bool) -> None:
    body = b'{"model": "' + b"x" * 1000 + b'"}'
    response = client.post(
        "/v1/chat/completions",
        content=body if announced else iter([body]),
        headers={"content-type": "application/json"},
    )
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "too_large"


def test_a_part_that_is_away_is_a_503_that_says_when_to_come_back(client: TestClient) -> None:
    response = client.get("/v1/models")
    assert response.status_code == 503
    assert response.headers["retry-after"]
    assert response.json()["error"]["code"] == "database_away"


def test_readiness_tells_what_is_missing(client: TestClient) -> None:
    response = client.get("/readyz")
    assert response.status_code == 503
    checks = response.json()["checks"]
    assert {name for name, check in checks.items() if not check["ok"]} == {"database", "broker", "workers", "experts"}


def test_every_answer_carries_a_request_id(client: TestClient) -> None:
    assert client.get("/healthz").headers["x-request-id"].startswith("req-")
    assert client.get("/v1/nothing", headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    assert client.get("/healthz", headers={"x-request-id": "not sane"}).headers["x-request-id"].startswith("req-")


def test_the_message_of_a_lookup_error_is_not_quoted_twice() -> None:
    assert told(experts.UnknownExpert("x")).detail.startswith("there is no expert 'x'")


def test_every_error_that_orchestrator_modules_raise_at_clients_has_a_status() -> None:
    raised = [
        each
        for module in (experts, files, gateway, question_sets, runs, transport)
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, Exception) and each.__module__ == module.__name__
    ]
    # What others are kinds of is not raised itself.
    assert {each for each in raised if not each.__subclasses__()} <= set(_SHOWN)
