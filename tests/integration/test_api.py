"""The HTTP API around chat: experts, profiles, question sets, files, benchmarks, events. All but weights is real."""

import io
import json
import os
import random
import resource
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import sqlalchemy as sa

from orchestrator.runs import stager
from orchestrator.settings import Settings
from orchestrator.storage import database, files, sweeping
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


def _upload(http: httpx.Client, content: bytes) -> str:
    made = http.post("/v1/files", files={"file": ("lines.jsonl", content)}, data={"purpose": "batch"})
    return str(made.raise_for_status().json()["id"])


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
    assert not any(configured.data_dir.glob("files/*"))


def test_files_are_listed_a_page_at_a_time(http: httpx.Client) -> None:
    with openai.OpenAI(base_url=f"{http.base_url}/v1", api_key="any", max_retries=0) as client:
        made = [client.files.create(file=("a", b"x"), purpose="batch").id for _ in range(3)]
        other = client.files.create(file=("b", b"x"), purpose="evals").id
        assert [file.id for file in client.files.list(limit=2)] == [other, *made[::-1]]
        assert [file.id for file in client.files.list(limit=1, order="asc", purpose="batch")] == made
        first = client.files.list(limit=3)
        assert (first.has_more, len(first.data)) == (True, 3)
        rest = client.files.list(after=made[1])
        assert (rest.has_more, [file.id for file in rest.data]) == (False, [made[0]])
        shown = http.get("/v1/files", params={"limit": 2}).json()
        assert (shown["first_id"], shown["last_id"], shown["has_more"]) == (other, made[2], True)
        with pytest.raises(openai.NotFoundError):
            client.files.list(after="file-0123456789abcdef01234567")
    for wrong in ({"limit": 10_001}, {"limit": 0}, {"order": "up"}):
        assert _error(http.get("/v1/files", params=wrong), 400)["param"] == next(iter(wrong))


def test_a_file_goes_when_it_has_expired(http: httpx.Client, driver: Driver, configured: Settings) -> None:
    with openai.OpenAI(base_url=f"{http.base_url}/v1", api_key="any", max_retries=0) as client:
        kept = client.files.create(file=("a", b"x"), purpose="batch")
        made = client.files.create(
            file=("b", b"x"), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
        )
        assert (kept.expires_at, made.expires_at) == (None, made.created_at + 3600)
        assert client.files.retrieve(made.id) == made
        driver.execute("UPDATE file SET expires_at = now() WHERE id = :id", id=made.id)
        driver.step()
        assert [file.id for file in client.files.list()] == [kept.id]
    assert [place.name for place in (configured.data_dir / "files").iterdir()] == [kept.id]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "purpose"),
        ({"purpose": "benchmark"}, "purpose"),
        ({"purpose": "batch", "expires_after[seconds]": "3600"}, "expires_after[anchor]"),
        ({"purpose": "batch", "expires_after[anchor]": "created_at"}, "expires_after[seconds]"),
        *(
            (
                {"purpose": "batch", "expires_after[anchor]": "created_at", "expires_after[seconds]": seconds},
                "expires_after[seconds]",
            )
            for seconds in ("3599", "2592001", "soon")
        ),
        ({"purpose": "batch", "colour": "red"}, "colour"),
    ],
)
def test_an_upload_that_cannot_be_names_the_field(
    http: httpx.Client, configured: Settings, fields: dict[str, str], param: str
) -> None:
    error = _error(http.post("/v1/files", files={"file": ("a", b"x")}, data=fields), 400)
    assert error["param"] == param
    if fields.get("purpose") == "benchmark":
        assert "assistants, batch, fine-tune, vision, user_data, evals" in error["message"]
    assert not any(configured.data_dir.glob("files/*"))


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (b"{}", "application/json"),
        (b"--b\r\n", "multipart/form-data"),
        (b"nothing of the kind", "multipart/form-data; boundary=b"),
        (
            b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\nx',
            "multipart/form-data; boundary=b",
        ),
        (b"--b--\r\n", "multipart/form-data; boundary=b"),
    ],
)
def test_what_is_no_form_or_half_of_one_is_no_file(
    http: httpx.Client, configured: Settings, content: bytes, content_type: str
) -> None:
    _error(http.post("/v1/files", content=content, headers={"content-type": content_type}), 400)
    assert http.get("/v1/files").json()["data"] == []
    assert not any(configured.data_dir.glob("files/*"))


def test_a_file_that_is_announced_too_large_is_refused_before_it_comes(
    http: httpx.Client, configured: Settings
) -> None:
    configured.max_batch_file_bytes = 1000
    form = (
        b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\nx'
    )
    head = (
        b"POST /v1/files HTTP/1.1\r\nhost: muster\r\ncontent-type: multipart/form-data; boundary=b\r\n"
        b"content-length: 90000\r\n\r\n"
    )
    assert configured.max_file_bytes > 90_000
    with socket.create_connection((http.base_url.host, http.base_url.port or 0), timeout=10) as connection:
        connection.sendall(head + form)
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


def test_an_upload_never_touches_the_folder_for_temporary_files(
    http: httpx.Client, configured: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured.max_file_bytes = 4 * 2**20
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    content = random.Random(1).randbytes(3 * 2**20)
    with openai.OpenAI(base_url=f"{http.base_url}/v1", api_key="any", max_retries=0) as client:
        made = client.files.create(file=("a", content), purpose="user_data")
        assert (made.bytes, client.files.content(made.id).read()) == (len(content), content)


def test_a_full_disk_is_told_and_leaves_nothing_behind(http: httpx.Client, configured: Settings) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with openai.OpenAI(base_url=f"{http.base_url}/v1", api_key="any", max_retries=0) as client:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
        try:
            with pytest.raises(openai.InternalServerError) as caught:
                client.files.create(file=("a", b"x" * 90_000), purpose="batch")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (caught.value.status_code, caught.value.code) == (507, "disk_full")
    assert "MUSTER_DATA_DIR" in caught.value.message
    assert not any(configured.data_dir.glob("files/*"))


def test_an_upload_that_the_database_does_not_take_leaves_nothing_behind(
    http: httpx.Client, configured: Settings, engine: sa.Engine
) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE file ADD CHECK (filename <> 'bad')"))
    assert http.post("/v1/files", files={"file": ("bad", b"x")}, data={"purpose": "batch"}).status_code == 500
    assert not any(configured.data_dir.glob("files/*"))


def test_a_deletion_that_is_not_committed_keeps_the_bytes(
    http: httpx.Client, configured: Settings, engine: sa.Engine
) -> None:
    file_id = _upload(http, b"x")
    with engine.begin() as connection:  # refused at the commit, and no sooner
        connection.execute(sa.text("CREATE TABLE holder (id text REFERENCES file DEFERRABLE INITIALLY DEFERRED)"))
        connection.execute(sa.text("INSERT INTO holder VALUES (:id)"), {"id": file_id})
    assert http.delete(f"/v1/files/{file_id}").status_code == 500
    assert http.get(f"/v1/files/{file_id}/content").content == b"x"


def test_what_killed_processes_left_behind_is_swept_while_muster_runs(
    http: httpx.Client, driver: Driver, configured: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stager, "SWEEP_S", 0.0)
    driver.step()
    folder = configured.data_dir / "files"
    kept = _upload(http, b"x")
    old_s = time.time() - sweeping.ROWLESS_S - 60
    left, new, part, foreign = files.new_id(), files.new_id(), f".{files.new_id()}.00000000.part", files.new_id()
    for name in (left, new, part, foreign, "notes"):
        (folder / name).write_bytes(b"x")
    for name in (kept, left, part, "notes"):
        os.utime(folder / name, (old_s, old_s))
    older_s = time.time() - sweeping.PART_S - 60
    os.utime(folder / foreign, (older_s, older_s))  # another database may know it
    driver.step()
    assert {place.name for place in folder.iterdir()} == {kept, new, part, foreign, "notes"}
    os.utime(folder / part, (older_s, older_s))
    driver.step()
    assert {place.name for place in folder.iterdir()} == {kept, new, foreign, "notes"}


def test_a_file_that_is_too_large_leaves_nothing_behind(http: httpx.Client, configured: Settings) -> None:
    big = {"file": ("big", io.BytesIO(b"x" * 100_001))}
    assert _error(http.post("/v1/files", files=big, data={"purpose": "batch"}), 413)["code"] == "too_large"
    assert not any(configured.data_dir.glob("files/*"))
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


def test_with_nobody_live_everything_that_asks_experts_says_come_back(http: httpx.Client, engine: sa.Engine) -> None:
    with database.session(engine) as session:
        seeds.question_set(session)
    body: Json = {"input_file_id": _upload(http, b"{}"), "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    for path, asked in (
        ("/v1/chat/completions", {"model": "muster", "messages": [{"role": "user", "content": "Why?"}]}),
        ("/v1/benchmarks", {"name": seeds.SET_NAME}),
        ("/v1/batches", body),
    ):
        response = http.post(path, json=asked)
        assert _error(response, 503)["code"] == "no_expert_live", path
        assert int(response.headers["retry-after"]) > 0


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
