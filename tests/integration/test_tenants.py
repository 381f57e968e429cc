"""Tenants: what is one's is not there for another, on any route; the operator sees all. All but weights is real."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from orchestrator.settings import Settings
from orchestrator.storage import database
from tests import seeds
from tests.driving import Driver
from tests.serving import served
from tests.worker_process import WorkerProcess

Json = dict[str, Any]
KEYS = {"operator": "of-the-operator", "alice": "of-alice", "bob": "of-bob"}
CHAT = {"model": "ada", "messages": [{"role": "user", "content": "Why is that?"}]}
BATCH = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
UNKNOWN = {"file_id": f"file-{'0' * 24}", "batch_id": f"batch_{'0' * 24}", "run_id": f"bench-{'0' * 24}"}


@dataclass(frozen=True, kw_only=True)
class Clients:
    """One for each key."""

    operator: httpx.Client
    alice: httpx.Client
    bob: httpx.Client


@dataclass(frozen=True, kw_only=True)
class Things:
    """What a tenant has: files, runs that have ended, an answer."""

    questions: str
    requests: str
    output: str
    batch: str
    benchmark: str
    answer: str

    @property
    def files(self) -> list[str]:
        return [self.questions, self.requests, self.output]

    @property
    def runs(self) -> list[str]:
        return [self.batch, self.benchmark]


@pytest.fixture
def configured(settings: Settings, tmp_path: Path) -> Settings:
    keys = {"api_key": KEYS["operator"], "api_keys": f"alice={KEYS['alice']},bob={KEYS['bob']}"}
    return settings.model_copy(update={"question_set": seeds.SET_NAME, "experts_file": tmp_path / "none.toml", **keys})


@pytest.fixture
def clients(configured: Settings, engine: sa.Engine) -> Iterator[Clients]:
    with database.session(engine) as session:
        seeds.live_pool(session, {"ada": "stub:one", "bob": "stub:two"}, good={"ada": ["algebra"], "bob": ["history"]})
    with (
        served(configured) as url,
        _client(url, "operator") as operator,
        _client(url, "alice") as alice,
        _client(url, "bob") as bob,
    ):
        yield Clients(operator=operator, alice=alice, bob=bob)


@pytest.fixture
def driver(engine: sa.Engine, configured: Settings) -> Iterator[Driver]:
    driving = Driver(engine, configured)
    yield driving
    driving.close()


@pytest.fixture
def theirs(clients: Clients, driver: Driver, redis_url: str, tmp_path: Path) -> Iterator[Things]:
    """What Bob has."""
    with WorkerProcess(redis_url, tmp_path / "worker", device="none"):
        yield _things(clients.bob, driver)


def _client(url: str, who: str) -> httpx.Client:
    return httpx.Client(base_url=url, timeout=20, headers={"authorization": f"Bearer {KEYS[who]}"})


def _questions(count: int = 3) -> list[Json]:
    return [
        {"id": each.id, "question": each.text, "options": each.options, "answer": each.answer}
        for each in seeds.questions(count)
    ]


def _requests() -> list[Json]:
    return [{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": CHAT}]


def _upload(client: httpx.Client, lines: list[Json]) -> str:
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    made = client.post("/v1/files", files={"file": ("lines.jsonl", content)}, data={"purpose": "batch"})
    return str(made.raise_for_status().json()["id"])


def _id(response: httpx.Response) -> str:
    return str(response.raise_for_status().json()["id"])


def _things(client: httpx.Client, driver: Driver) -> Things:
    questions, requests = _upload(client, _questions()), _upload(client, _requests())
    batch = _id(client.post("/v1/batches", json={"input_file_id": requests, **BATCH}))
    benchmark = _id(client.post("/v1/benchmarks", json={"file_id": questions, "k": 1, "fusion": "vote"}))
    driver.until(
        lambda: all(client.get(f"/v1/runs/{run}").json()["status"] == "completed" for run in (batch, benchmark))
    )
    return Things(
        questions=questions,
        requests=requests,
        output=client.get(f"/v1/batches/{batch}").json()["output_file_id"],
        batch=batch,
        benchmark=benchmark,
        answer=_id(client.post("/v1/chat/completions", json=CHAT)),
    )


def _ids(client: httpx.Client, path: str) -> set[str]:
    return {each["id"] for each in client.get(path).raise_for_status().json()["data"]}


def _is_as_if_unknown(client: httpx.Client, method: str, path: str, own: str, unknown: str, body: Any = None) -> None:
    """What asks for `own` is answered with the very 404 that asking for `unknown` is."""
    given = client.request(method, path.replace(unknown, own), json=_swapped(body, unknown, own))
    expected = client.request(method, path, json=body)
    assert expected.status_code == 404, (method, path, expected.text)
    assert (given.status_code, given.text.replace(own, unknown)) == (404, expected.text), (method, path)


def _swapped(body: Any, old: str, new: str) -> Any:
    return None if body is None else json.loads(json.dumps(body).replace(old, new))


def test_on_every_route_with_an_id_anothers_is_as_if_it_were_not(clients: Clients, theirs: Things) -> None:
    schema = clients.operator.get("/openapi.json").json()
    found = 0
    assert clients.bob.get(f"/v1/runs/{theirs.batch}/events").is_success  # read for all who watch it, just now
    for path, methods in schema["paths"].items():
        for name, unknown in UNKNOWN.items():
            if f"{{{name}}}" not in path:
                continue
            for method in methods:
                for own in theirs.files if name == "file_id" else theirs.runs:
                    found += 1
                    _is_as_if_unknown(clients.alice, method.upper(), path.format(**{name: unknown}), own, unknown)
    assert found >= 3 * len(theirs.files) + 9 * len(theirs.runs)
    for who in (clients.bob, clients.operator):  # nothing of it was touched, and those who may see it, do
        for file in theirs.files:
            assert who.get(f"/v1/files/{file}/content").raise_for_status().content
        for run in theirs.runs:
            assert who.get(f"/v1/runs/{run}").json()["status"] == "completed"
            assert who.get(f"/v1/runs/{run}/events").is_success
        assert who.get(f"/v1/benchmarks/{theirs.benchmark}/results").text.count("\n") == 3
        assert who.get(f"/v1/batches/{theirs.batch}").json()["output_file_id"] == theirs.output


def test_what_names_anothers_id_in_its_body_or_query_finds_nothing(
    clients: Clients, theirs: Things, driver: Driver
) -> None:
    alice, file, bench = clients.alice, UNKNOWN["file_id"], UNKNOWN["run_id"]
    for own in theirs.files:  # whatever is in it: nothing of it is read
        _is_as_if_unknown(alice, "POST", "/v1/batches", own, file, {"input_file_id": file, **BATCH})
        _is_as_if_unknown(alice, "POST", "/v1/benchmarks", own, file, {"file_id": file})
        _is_as_if_unknown(alice, "GET", f"/v1/files?after={file}", own, file)
    _is_as_if_unknown(alice, "GET", f"/v1/batches?after={bench}", theirs.batch, bench)
    own_run = _id(alice.post("/v1/benchmarks", json={"file_id": _upload(alice, _questions()), "k": 1}))
    for compared in (f"{own_run},{bench}", f"{bench},{own_run}"):
        _is_as_if_unknown(alice, "GET", f"/v1/benchmarks?compare={compared}", theirs.benchmark, bench)
    said = {"id": "chatcmpl-none", "correct": False}
    _is_as_if_unknown(alice, "POST", "/v1/feedback", theirs.answer, "chatcmpl-none", said)
    feedback = "SELECT feedback->>'correct' FROM query WHERE id = :id"
    assert driver.scalar(feedback, id=theirs.answer) is None
    assert clients.bob.post("/v1/feedback", json={"id": theirs.answer, "correct": True}).is_success
    assert driver.scalar(feedback, id=theirs.answer) == "true"
    assert clients.operator.post("/v1/feedback", json={"id": theirs.answer, "correct": False}).is_success


def test_each_lists_its_own_and_the_operator_lists_all(clients: Clients, theirs: Things) -> None:
    mine = _upload(clients.alice, _requests())
    batch = _id(clients.alice.post("/v1/batches", json={"input_file_id": mine, **BATCH}))
    shared = _upload(clients.operator, _requests())
    assert _ids(clients.alice, "/v1/files") == {mine}
    assert _ids(clients.bob, "/v1/files") == set(theirs.files)
    assert _ids(clients.operator, "/v1/files") == {mine, shared, *theirs.files}
    assert (_ids(clients.alice, "/v1/batches"), _ids(clients.bob, "/v1/batches")) == ({batch}, {theirs.batch})
    assert _ids(clients.operator, "/v1/batches") == {batch, theirs.batch}
    assert (_ids(clients.alice, "/v1/benchmarks"), _ids(clients.bob, "/v1/benchmarks")) == (set(), {theirs.benchmark})
    assert _ids(clients.operator, "/v1/benchmarks") == {theirs.benchmark}
    assert clients.alice.get(f"/v1/files/{shared}").status_code == 404


@pytest.mark.parametrize("path", ["/v1/benchmarks", "/v1/batches"])
def test_two_tenants_may_use_one_idempotency_key(clients: Clients, path: str) -> None:
    key = {"idempotency-key": "mine"}

    def submit(client: httpx.Client) -> str:
        files = {"input_file_id": _upload(client, _requests())}
        body = {**files, **BATCH} if path == "/v1/batches" else {"name": seeds.SET_NAME}
        first = _id(client.post(path, json=body, headers=key))
        assert _id(client.post(path, json=body, headers=key)) == first
        other = {**body, "metadata": {"a": "b"}} if path == "/v1/batches" else {**body, "k": 1}
        refused = client.post(path, json=other, headers=key)
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "idempotency_key_taken")
        assert first in refused.json()["error"]["message"]
        return first

    assert len({submit(client) for client in (clients.alice, clients.bob, clients.operator)}) == 3


def test_a_tenant_calls_off_its_own_run(clients: Clients) -> None:
    made = _id(clients.alice.post("/v1/benchmarks", json={"name": seeds.SET_NAME}))
    assert clients.bob.post(f"/v1/runs/{made}/cancel").status_code == 404
    assert clients.bob.post(f"/v1/benchmarks/{made}/cancel").status_code == 404
    assert clients.operator.get(f"/v1/runs/{made}").json()["status"] == "in_progress"
    assert clients.alice.post(f"/v1/benchmarks/{made}/cancel").json()["status"] == "cancelling"
    batch = {"input_file_id": _upload(clients.alice, _requests()), **BATCH}
    made = _id(clients.alice.post("/v1/batches", json=batch))
    assert clients.bob.post(f"/v1/batches/{made}/cancel").status_code == 404
    assert clients.alice.post(f"/v1/batches/{made}/cancel").json()["status"] == "cancelling"


def test_the_pool_is_read_by_all_and_changed_by_the_operator(clients: Clients, driver: Driver) -> None:
    new = {"name": "new", "model": "stub:new"}
    assert clients.operator.post("/v1/experts/ada/profile").is_success
    changes: list[tuple[str, str, Any]] = [
        ("POST", "/v1/experts", new),
        ("PATCH", "/v1/experts/ada", {"description": "Mine."}),
        ("DELETE", "/v1/experts/ada", None),
        ("POST", "/v1/experts/ada/profile", None),
        ("POST", "/v1/question-sets", {"name": "ours", "questions": _questions()}),
        ("GET", "/metrics", None),
    ]
    for method, path, body in changes:
        refused = clients.alice.request(method, path, json=body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "operator_alone"), (method, path)
        assert "MUSTER_API_KEY" in refused.json()["error"]["message"]
    for path in ("experts", "experts/ada", "experts/ada/profile", "models", "models/ada", "skills", "question-sets"):
        assert clients.alice.get(f"/v1/{path}").is_success, path
    assert clients.operator.post("/v1/experts", json=new).is_success
    assert clients.operator.get("/metrics").is_success
