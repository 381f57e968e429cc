"""What the command line makes of the API's answers and silences."""

import httpx
import pytest

from orchestrator.cli.client import ApiError, Client, explain


def response(status: int, **content: object) -> httpx.Response:
    return httpx.Response(status, request=httpx.Request("GET", "http://muster/v1/models"), **content)  # type: ignore[arg-type]


def test_an_error_in_openais_shape_is_told_with_its_parameter() -> None:
    error = {"error": {"message": "k is larger than the pool", "type": "invalid_request_error", "param": "muster.k"}}
    assert explain(response(400, json=error)) == "k is larger than the pool (parameter muster.k)"


@pytest.mark.parametrize("content", [{"text": "Bad Gateway"}, {"json": {"detail": "no"}}, {"json": [1]}])
def test_any_other_error_is_told_with_its_status(content: dict[str, object]) -> None:
    assert explain(response(502, **content)).startswith("HTTP 502 from http://muster/v1/models")


def test_silence_says_how_to_start_a_muster() -> None:
    with pytest.raises(ApiError, match=r"no Muster answers at http://127\.0\.0\.1:9: start one with `muster up`"):
        Client("http://127.0.0.1:9").get("/v1/models")
