"""Whatever fits the OpenAPI schema, or nearly does, is never answered with a 500: a bounded smoke."""

from collections.abc import Iterator
from typing import Any

import httpx
import hypothesis
import pytest
import schemathesis
import sqlalchemy as sa
from schemathesis.core.result import Ok

from orchestrator.settings import Settings
from orchestrator.storage import database
from tests import seeds
from tests.serving import served

EXAMPLES = 15
"""Per operation: enough to meet NULs, lone surrogates, huge numbers and wrong types."""
AWAY = {503}
"""There is no worker here, and says so."""


@pytest.fixture
def url(settings: Settings, engine: sa.Engine) -> Iterator[str]:
    with database.session(engine) as session:
        seeds.live_pool(session, {"ada": "stub:one", "bob": "stub:two"})
    with served(settings.model_copy(update={"question_set": seeds.SET_NAME})) as base:
        yield base


def test_nothing_that_fits_the_schema_breaks_it(url: str) -> None:
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    broken = []
    for result in schema.get_all_operations():
        assert isinstance(result, Ok)
        operation = result.ok()

        @hypothesis.given(case=operation.as_strategy())
        @hypothesis.settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(hypothesis.HealthCheck),
            phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
        )
        def attempt(case: schemathesis.Case[Any]) -> None:
            response = case.call(base_url=url, timeout=20)
            if response.status_code >= 500 and response.status_code not in AWAY:
                broken.append((case.method, case.formatted_path, response.status_code, response.text[:300]))
            if response.status_code >= 400 and case.path != "/readyz":
                assert set(response.json()["error"]) == {"message", "type", "param", "code"}

        attempt()
    assert broken == []


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"model": "muster", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "muster", "messages": [{"role": "user", "content": "a\\u0000b"}], "seed": 1e400}',
        b'{"model": NaN}',
        b"\xff\xfe",
        b"",
    ],
)
def test_a_nasty_body_is_a_400(url: str, body: bytes) -> None:
    response = httpx.post(f"{url}/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["type"] == "invalid_request_error"
