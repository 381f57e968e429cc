"""The HTTP API around chat: experts, profiles, question sets, files, benchmarks, events. All but weights is real."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import sqlalchemy as sa

from orchestrator.settings import Settings
from orchestrator.storage import database
from tests import seeds
from tests.driving import Driver
from tests.serving import served
from tests.worker_process import WorkerProcess

Json = dict[str, Any]


@pytest.fixture
def configured(settings: Settings, tmp_path: Path) -> Settings:
    return settings.model_copy(
        update={"question_set": seeds.SET_NAME, "experts_file": tmp_path / "none.toml", "max_file_bytes": 100_000}
    )


@pytest.fixture
def http(configured: Settings, engine: sa.Engine) -> Iterator[httpx.Client]:
    with served(configured) as url, httpx.Client(base_url=url, timeout=20) as client:
        yield client


@pytest.fixture
def driver(engine: sa.Engine, configured: Settings) -> Iterator[Driver]:
    driving = Driver(engine, configured)
    yield driving
    driving.close()


@pytest.fixture
def worker(redis_url: str, tmp_path: Path) -> Iterator[WorkerProcess]:
    with WorkerProcess(redis_url, tmp_path / "worker", device="none") as process:
        yield process


@pytest.fixture
def pool(engine: sa.Engine) -> None:
    with database.session(engine) as session:
        seeds.live_pool(session, {"ada": "stub:one", "bob": "stub:two"}, good={"ada": ["algebra"], "bob": ["history"]})


def _lines(count: int) -> str:
    return "".join(
        json.dumps({"id": q.id, "question": q.text, "options": q.options, "answer": q.answer, "category": q.category})
        + "\n"
        for q in seeds.questions(count)
    )


def _error(response: httpx.Response, status: int) -> Json:
    assert response.status_code == status, response.text
    found: Json = response.json()["error"]
    return found


def test_an_expert_is_registered_profiled_and_goes_live(
    http: httpx.Client, driver: Driver, worker: WorkerProcess, engine: sa.Engine
) -> None:
    with database.session(engine) as session:
        seeds.question_set(session)
    made = http.post("/v1/experts", json={"name": "eve", "model": "stub:one?good=algebra&p=1&q=0"})
    assert (made.status_code, made.json()["state"]) == (202, "registered")
    driver.until(lambda: http.get("/v1/experts/eve").json()["state"] not in ("registered", "testing", "profiling"))
    shown = http.get("/v1/experts/eve").json()
    assert shown["state"] == "live"
    assert shown["profile"]["tried"] == seeds.PER_SKILL * len(seeds.SKILLS)
    profile = http.get("/v1/experts/eve/profile").json()
    best = profile["skills"][0]
    assert (best["skill"], best["right"], best["tried"]) == ("algebra", seeds.PER_SKILL, seeds.PER_SKILL)
    skills = {item["skill"]: item for item in http.get("/v1/skills").json()["data"]}
    assert skills["algebra"]["experts"]["eve"]["strength"] > skills["history"]["experts"]["eve"]["strength"]


def test_a_changed_expert_is_profiled_anew(
    http: httpx.Client, driver: Driver, pool: None, worker: WorkerProcess
) -> None:
    described = http.patch("/v1/experts/ada", json={"description": "Knows algebra."}).json()
    assert (described["version"], described["state"]) == (1, "live")
    changed = http.patch("/v1/experts/ada", json={"system_prompt": "You are Ada."}).json()
    assert (changed["version"], changed["state"]) == (2, "registered")
    driver.until(lambda: http.get("/v1/experts/ada").json()["state"] == "live")
    assert [each["version"] for each in http.get("/v1/experts/ada").json()["versions"]] == [2, 1]


def test_profiling_can_be_asked_for_and_the_expert_stays_live(
    http: httpx.Client, driver: Driver, pool: None, worker: WorkerProcess
) -> None:
    run = http.post("/v1/experts/ada/profile").json()
    assert http.post("/v1/experts/ada/profile", json={}).json()["id"] == run["id"]
    (ada,) = [each for each in http.get("/v1/experts").json()["data"] if each["name"] == "ada"]
    assert (ada["state"], ada["profiling"]["run"]) == ("live", run["id"])
    driver.until(lambda: driver.is_done(run["id"]))
    assert http.get("/v1/experts/ada/profile").json()["version"] == 2
    assert http.get("/v1/experts/ada/profile", params={"version": 1}).json()["version"] == 1
    assert _error(http.get("/v1/experts/ada/profile", params={"version": 9}), 404)["code"] == "profile_not_found"


def test_removing_an_expert_keeps_its_history(http: httpx.Client, pool: None) -> None:
    assert http.delete("/v1/experts/ada").json()["deleted"]
    assert _error(http.get("/v1/experts/ada"), 404)["code"] == "expert_not_found"
    assert _error(http.delete("/v1/experts/ada"), 404)["code"] == "expert_not_found"
    assert http.post("/v1/experts", json={"name": "ada", "model": "stub:x"}).json()["version"] == 2


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"name": "ada", "model": "stub:x"}, 409, "name"),
        ({"name": "muster", "model": "stub:x"}, 400, "name"),
        ({"name": "new"}, 400, "model"),
        ({"name": "new", "model": "stub:x", "colour": 1}, 400, "colour"),
        ({"name": "new", "model": {"source": "a/b", "trust_remote_code": True}}, 400, "model.trust_remote_code"),
        ([], 400, None),
    ],
)
def test_a_registration_that_cannot_be_names_the_field(
    http: httpx.Client, pool: None, body: object, status: int, param: str | None
) -> None:
    assert _error(http.post("/v1/experts", json=body), status)["param"] == param


def test_question_sets_are_versioned_by_content(http: httpx.Client) -> None:
    as_lines = http.post("/v1/question-sets", params={"name": "ours"}, content=_lines(3))
    assert (as_lines.status_code, as_lines.json()["version"], as_lines.json()["questions"]) == (201, 1, 3)
    questions = [json.loads(line) for line in _lines(3).splitlines()]
    as_json = http.post("/v1/question-sets", json={"name": "ours", "questions": questions})
    assert as_json.json() == as_lines.json()
    assert http.post("/v1/question-sets", params={"name": "ours"}, content=_lines(4)).json()["version"] == 2
    assert [each["version"] for each in http.get("/v1/question-sets").json()["data"]] == [1, 2]


def test_a_wrong_line_is_told_by_its_number(http: httpx.Client) -> None:
    broken = _lines(2) + '{"id": "x", "question": "Why?"\n'
    error = _error(http.post("/v1/question-sets", params={"name": "ours"}, content=broken), 400)
    assert error["message"].startswith("line 3:")
    assert "line 1:" in _error(http.post("/v1/question-sets", json={"name": "a", "questions": [{}]}), 400)["message"]
    assert _error(http.post("/v1/question-sets", content=_lines(1)), 400)["param"] == "name"
    assert http.get("/v1/question-sets").json()["data"] == []


def test_files_are_openais(http: httpx.Client, configured: Settings) -> None:
    with openai.OpenAI(base_url=f"{http.base_url}/v1", api_key="any", max_retries=0) as client:
        made = client.files.create(file=("lines.jsonl", b"{}\n"), purpose="batch")
        assert (made.bytes, made.filename, made.status) == (3, "lines.jsonl", "processed")
        assert client.files.retrieve(made.id) == made
        assert client.files.content(made.id).read() == b"{}\n"
        assert [file.id for file in client.files.list()] == [made.id]
        assert client.files.delete(made.id).deleted
        with pytest.raises(openai.NotFoundError):
            client.files.retrieve(made.id)
    assert list((configured.data_dir / "files").iterdir()) == []


def test_a_file_that_is_too_large_leaves_nothing_behind(http: httpx.Client, configured: Settings) -> None:
    files = {"file": ("big", io.BytesIO(b"x" * 100_001))}
    assert _error(http.post("/v1/files", files=files, data={"purpose": "batch"}), 413)["code"] == "too_large"
    assert list((configured.data_dir / "files").iterdir()) == []
    assert _error(http.post("/v1/files", files={"file": ("a", b"x")}), 400)["param"] == "purpose"
    assert _error(http.get("/v1/files/..%2f..%2fetc%2fpasswd"), 404)
    assert _error(http.get("/v1/files/file-0123/content"), 404)["code"] == "file_not_found"


def test_a_benchmark_runs_from_a_file_to_its_report(
    http: httpx.Client, driver: Driver, pool: None, worker: WorkerProcess
) -> None:
    file_id = http.post(
        "/v1/files", files={"file": ("q.jsonl", _lines(12).encode())}, data={"purpose": "batch"}
    ).json()["id"]
    body = {"file_id": file_id, "name": "mine", "k": 2, "fusion": "vote", "annotation": "embedding", "seed": 3}
    made = http.post("/v1/benchmarks", json=body, headers={"idempotency-key": "once"})
    assert made.status_code == 202
    run_id = made.json()["id"]
    assert http.post("/v1/benchmarks", json=body, headers={"idempotency-key": "once"}).json()["id"] == run_id
    driver.until(lambda: http.get(f"/v1/benchmarks/{run_id}").json()["status"] == "completed")
    shown = http.get(f"/v1/benchmarks/{run_id}").json()
    assert shown["request_counts"] == {"total": 12, "completed": 12, "failed": 0}
    assert shown["settings"]["seed"] == 3
    assert http.get(f"/v1/benchmarks/{run_id}/report").json()["accuracy"]
    assert http.get(f"/v1/benchmarks/{run_id}/report", params={"format": "markdown"}).text.startswith("# ")
    results = http.get(f"/v1/benchmarks/{run_id}/results").text.splitlines()
    assert len(results) == 12
    assert len(http.get(f"/v1/benchmarks/{run_id}/results", params={"after": 9}).text.splitlines()) == 2
    assert http.get("/v1/benchmarks").json()["data"][0]["id"] == run_id


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({}, 400, "name"),
        ({"name": "nothing"}, 404, "name"),
        ({"file_id": "file-none"}, 404, None),
        ({"name": seeds.SET_NAME, "k": 9}, 400, "k"),
        ({"name": seeds.SET_NAME, "experts": ["nobody"]}, 404, None),
        ({"name": seeds.SET_NAME, "strategy": "luck"}, 400, "strategy"),
        ({"name": seeds.SET_NAME, "speed": 1}, 400, "speed"),
    ],
)
def test_a_benchmark_that_cannot_be_says_why(
    http: httpx.Client, pool: None, body: Json, status: int, param: str | None
) -> None:
    assert _error(http.post("/v1/benchmarks", json=body), status)["param"] == param


def test_a_benchmark_line_without_an_answer_is_told_by_its_number(http: httpx.Client, pool: None) -> None:
    lines = _lines(1) + '{"id": "no", "question": "Why?"}\n'
    file_id = http.post("/v1/files", files={"file": ("q", lines.encode())}, data={"purpose": "batch"}).json()["id"]
    error = _error(http.post("/v1/benchmarks", json={"file_id": file_id}), 400)
    assert "line 2" in error["message"]
    assert error["param"] == "file_id"


def test_progress_is_streamed_until_the_end_and_resumed(
    http: httpx.Client, driver: Driver, pool: None, worker: WorkerProcess
) -> None:
    run_id = http.post("/v1/benchmarks", json={"name": seeds.SET_NAME, "fusion": "vote", "k": 1}).json()["id"]
    driver.until(lambda: driver.is_done(run_id))
    text = http.get(f"/v1/runs/{run_id}/events").text
    fields = dict(line.split(": ", 1) for line in text.strip().splitlines())
    assert fields["event"] == "progress"
    assert json.loads(fields["data"])["status"] == "completed"
    assert http.get(f"/v1/runs/{run_id}/events", headers={"last-event-id": fields["id"]}).text == ""
    assert _error(http.get("/v1/runs/none/events"), 404)["code"] == "run_not_found"


def test_a_benchmark_can_be_cancelled(http: httpx.Client, driver: Driver, pool: None) -> None:
    run_id = http.post("/v1/benchmarks", json={"name": seeds.SET_NAME}).json()["id"]
    assert http.post(f"/v1/benchmarks/{run_id}/cancel").json()["status"] == "cancelling"
    driver.until(lambda: driver.is_done(run_id))
    assert http.get(f"/v1/benchmarks/{run_id}").json()["status"] == "cancelled"


def test_metrics_and_readiness_tell_what_is(http: httpx.Client, pool: None, worker: WorkerProcess) -> None:
    assert 'muster_experts{state="live"} 2.0' in http.get("/metrics").text
    ready = http.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["checks"]["experts"]["live"] == 2


def test_the_experts_file_is_followed_while_muster_runs(
    http: httpx.Client, driver: Driver, worker: WorkerProcess, engine: sa.Engine, configured: Settings
) -> None:
    with database.session(engine) as session:
        seeds.question_set(session)
    entry = '[[expert]]\nname = "fay"\nmodel = "stub:one?p=1&q=1"\n'
    configured.experts_file.write_text(entry, encoding="utf-8")

    def fay() -> Json:
        found: Json = http.get("/v1/experts/fay").json()
        return found

    driver.until(lambda: fay().get("state") == "live")
    configured.experts_file.write_text(entry + 'system_prompt = "Be fay."\n', encoding="utf-8")
    driver.until(lambda: (fay()["version"], fay()["state"]) == (2, "live"))
    configured.experts_file.write_text("", encoding="utf-8")
    driver.until(lambda: fay()["state"] == "parked")
    assert "experts file" in fay()["reason"]


def test_a_version_that_is_replaced_is_not_profiled_to_its_end(
    http: httpx.Client, driver: Driver, engine: sa.Engine
) -> None:
    with database.session(engine) as session:
        seeds.question_set(session)
    http.post("/v1/experts", json={"name": "eve", "model": "stub:one"})
    driver.until(lambda: http.get("/v1/experts/eve").json()["profiling"])
    run_id = http.get("/v1/experts/eve").json()["profiling"]["run"]
    http.patch("/v1/experts/eve", json={"model": "stub:two"})
    driver.until(lambda: driver.status(run_id) == "cancelled")
    assert http.get("/v1/experts/eve").json()["profiling"]["run"] != run_id


@pytest.mark.parametrize("path", ["/v1/experts/%00", "/v1/skills?question_set=%00", "/v1/runs/%00", "/v1/models/%00"])
def test_a_nul_finds_nothing_and_breaks_nothing(http: httpx.Client, path: str) -> None:
    _error(http.get(path), 404)
