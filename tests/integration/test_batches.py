"""OpenAI's batches with the official client: real database, broker and worker, stub engines."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import sqlalchemy as sa

from orchestrator.runs import stager
from orchestrator.runs.batches import reading
from orchestrator.settings import PROJECT_DIR, Settings
from orchestrator.storage import database, files, partial
from tests import seeds
from tests.driving import Driver
from tests.serving import served
from tests.worker_process import WorkerProcess

Json = dict[str, Any]
SOURCES = {"ada": "stub:one?good=algebra&p=1&q=0", "bob": "stub:one?good=algebra&p=1&q=0", "cyd": "stub:two?p=1&q=1"}
SLOW = "stub:slow?latency_s=0.1"
ENDED = ("completed", "failed", "expired", "cancelled")
CHOICE = "About algebra: what is number {n}? [stub:gold=C][stub:skill=algebra]\nA. one\nB. two\nC. three\nD. four"


@pytest.fixture
def driver(engine: sa.Engine, settings: Settings, tmp_path: Path) -> Iterator[Driver]:
    quick = settings.model_copy(
        update={"question_set": seeds.SET_NAME, "experts_file": tmp_path / "none.toml", "chunk_units": 8}
    )
    driving = Driver(engine, quick)
    yield driving
    driving.close()


@pytest.fixture
def client(driver: Driver) -> Iterator[openai.OpenAI]:
    with (
        served(driver.settings) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as opened,
    ):
        yield opened


@pytest.fixture
def worker(redis_url: str, tmp_path: Path) -> Iterator[WorkerProcess]:
    with WorkerProcess(redis_url, tmp_path / "worker", "--bulk-sequences", "2", device="none") as process:
        yield process


@pytest.fixture
def pool(engine: sa.Engine) -> None:
    with database.session(engine) as session:
        seeds.live_pool(
            session, {**SOURCES, "sid": SLOW}, good={"ada": ["algebra"], "bob": ["algebra"], "cyd": ["history"]}
        )


def _request(custom_id: str, content: str = "Why is that?", *, model: str = "muster", **body: Any) -> Json:
    asked = {"model": model, "messages": [{"role": "user", "content": content}], **body}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": asked}


def _upload(client: openai.OpenAI, lines: list[Json] | bytes) -> str:
    content = lines if isinstance(lines, bytes) else b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    return client.files.create(file=("requests.jsonl", content), purpose="batch").id


def _submit(client: openai.OpenAI, lines: list[Json] | bytes, *, window: Any = "24h", **options: Any) -> Any:
    return client.batches.create(
        input_file_id=_upload(client, lines), endpoint="/v1/chat/completions", completion_window=window, **options
    )


def _end(client: openai.OpenAI, driver: Driver, batch_id: str) -> Any:
    driver.until(lambda: client.batches.retrieve(batch_id).status in ENDED)
    return client.batches.retrieve(batch_id)


def _lines(client: openai.OpenAI, file_id: str | None) -> dict[str, Json]:
    if file_id is None:
        return {}
    found = [json.loads(line) for line in client.files.content(file_id).text.splitlines()]
    by_id = {line["custom_id"]: line for line in found}
    assert len(by_id) == len(found), "a custom_id occurs twice"
    return by_id


def _counts(batch: Any) -> dict[str, int]:
    counts: dict[str, int] = batch.request_counts.to_dict()
    return counts


def _errors(batch: Any) -> list[tuple[str, int | None, str | None]]:
    assert batch.errors is not None
    return [(error.code, error.line, error.param) for error in batch.errors.data]


def test_every_line_is_answered_on_its_own_terms(
    client: openai.OpenAI, driver: Driver, pool: None, worker: WorkerProcess
) -> None:
    lines = [
        _request("vote", CHOICE.format(n=1), muster={"k": 2, "fusion": "vote", "experts": ["ada", "bob"]}),
        _request("one", CHOICE.format(n=2), muster={"k": 1, "strategy": "random", "seed": 5, "explain": True}),
        _request("merged", "Tell me.", muster={"k": 2, "fusion": "aggregate", "aggregator": "cyd"}, max_tokens=4),
        _request("paper", CHOICE.format(n=3), muster={"strategy": "paper", "k": 2, "budget": {"seconds": 5}}),
        _request("named", "Say it. [stub:say=Just so, and not otherwise.]", model="bob", max_tokens=3),
        _request("broken", "Break. [stub:error]"),
        _request("broken named", "Break. [stub:error]", model="ada"),
    ]
    made = _submit(client, lines, metadata={"team": "blue"})
    assert (made.status, made.object, made.request_counts.total, made.metadata) == (
        "validating",
        "batch",
        0,
        {"team": "blue"},
    )
    assert made.expires_at == made.created_at + 86400
    ended = _end(client, driver, made.id)
    assert (ended.status, ended.errors) == ("completed", None)
    counts = ended.request_counts
    assert (counts.total, counts.completed, counts.failed) == (7, 5, 2)
    assert ended.in_progress_at <= ended.finalizing_at <= ended.completed_at
    output, errors = _lines(client, ended.output_file_id), _lines(client, ended.error_file_id)
    assert output.keys() == {"vote", "one", "merged", "paper", "named"}
    assert errors.keys() == {"broken", "broken named"}
    assert {line["response"]["status_code"] for line in output.values()} == {200}
    bodies = {name: line["response"]["body"] for name, line in output.items()}
    for body in bodies.values():
        openai.types.chat.ChatCompletion.model_validate(body)
    assert [recruit["expert"] for recruit in bodies["vote"]["muster"]["recruits"]] == ["ada", "bob"]
    assert bodies["vote"]["muster"]["fusion"]["answer"] == "C"
    assert bodies["vote"]["muster"]["skills"]
    assert bodies["vote"]["usage"]["total_tokens"] > 0
    assert (len(bodies["one"]["muster"]["answers"]), bodies["one"]["muster"]["seed"]) == (1, 5)
    assert bodies["one"]["muster"]["answers"][0]["text"]
    assert (bodies["merged"]["muster"]["fusion"]["method"], bodies["merged"]["muster"]["fusion"]["expert"]) == (
        "aggregate",
        "cyd",
    )
    assert len(bodies["merged"]["choices"][0]["message"]["content"].split()) == 4
    assert bodies["merged"]["choices"][0]["finish_reason"] == "length"
    assert (bodies["paper"]["muster"]["strategy"], bodies["paper"]["muster"]["annotation"]) == ("paper", "llm")
    assert "completion_window" in bodies["paper"]["muster"]["note"]
    assert bodies["named"]["choices"][0]["message"]["content"] == "Just so, and"
    assert (bodies["named"]["model"], list(bodies["named"]["muster"])) == ("bob", ["charges"])
    assert errors["broken"]["response"]["status_code"] == errors["broken named"]["response"]["status_code"] == 400
    assert "stub:error" in errors["broken"]["response"]["body"]["error"]["message"]
    report = httpx.get(f"{client.base_url}benchmarks/{made.id}/report", headers={"Accept": "text/html"})
    assert "7 of 7 lines done, 2 of them failed" in report.text


@pytest.mark.parametrize(("budget", "recruits"), [({}, 2), ({"tokens": 30}, 1)])
def test_a_line_recruits_whom_chat_would(
    client: openai.OpenAI, driver: Driver, pool: None, worker: WorkerProcess, budget: Json, recruits: int
) -> None:
    options = {"k": 2, "fusion": "vote", "budget": budget}
    body = {"model": "muster", "messages": [{"role": "user", "content": CHOICE.format(n=4)}], "muster": options}
    routed = httpx.post(f"{client.base_url}route", json=body).raise_for_status().json()
    ended = _end(client, driver, _submit(client, [_request("a", CHOICE.format(n=4), muster=options)]).id)
    decided = _lines(client, ended.output_file_id)["a"]["response"]["body"]["muster"]
    assert len(decided["recruits"]) == recruits
    for recruit in (*decided["recruits"], *routed["recruits"]):
        for cost in ("tokens", "seconds"):  # a batch does not keep what its recruits were expected to cost
            recruit.pop(cost)
    for name in ("recruits", "skills", "seed", "strategy", "annotation", "versions"):
        assert decided[name] == routed[name], name


def test_the_example_of_the_documentation_works(
    client: openai.OpenAI, driver: Driver, pool: None, worker: WorkerProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    documented = (PROJECT_DIR / "docs" / "batches.md").read_text().partition("```python\n")[2].partition("```")[0]
    here = {"http://127.0.0.1:8000/v1": str(client.base_url), "smol-science": "ada"}
    for theirs, ours in here.items():
        assert theirs in documented
        documented = documented.replace(theirs, ours)
    with driver.stepping():
        exec(compile(documented, "docs/batches.md", "exec"), {})
    # Among it are the log lines of the API, which runs in this process.
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert {line["custom_id"]: line["response"]["status_code"] for line in printed} == {
        "q-1": 200,
        "q-2": 200,
        "q-3": 200,
    }


WRONG: Mapping[str, tuple[bytes, list[tuple[str, int | None, str | None]]]] = {
    "empty": (b"\n  \n", [("empty_file", None, None)]),
    "many": (
        b'{"custom_id": "a"\n\n'
        + json.dumps({**_request("b"), "method": "GET"}).encode()
        + b"\n"
        + json.dumps(_request("b")).encode()
        + b"\n"
        + json.dumps(_request("c", muster={"k": 9})).encode()
        + b"\n"
        + json.dumps(_request("c")).encode()
        + b"\n",
        [
            ("invalid_json_line", 1, None),
            ("invalid_method", 3, "method"),
            ("duplicate_custom_id", 4, "custom_id"),
            ("invalid_value", 5, "body.muster.k"),
            ("duplicate_custom_id", 6, "custom_id"),
        ],
    ),
    "endless": (b"x\n" * 200, [("invalid_json_line", number, None) for number in range(1, 101)]),
    "long": (
        b'{"custom_id": "' + b"x" * 3_000_000 + b'"}\n{}\n',
        [("request_too_large", 1, None), ("missing_required_parameter", 2, "custom_id")],
    ),
}


@pytest.mark.parametrize("which", WRONG)
def test_a_file_with_wrong_lines_fails_and_names_each(
    client: openai.OpenAI, driver: Driver, pool: None, which: str
) -> None:
    driver.settings.max_body_bytes = 1_000_000
    content, expected = WRONG[which]
    ended = _end(client, driver, _submit(client, content).id)
    assert ended.status == "failed"
    assert ended.failed_at
    assert _errors(ended) == expected
    assert (ended.output_file_id, ended.error_file_id, ended.request_counts.total) == (None, None, 0)
    assert driver.scalar("SELECT count(*) FROM instance") == 0


def test_fifty_thousand_and_one_lines_are_too_many(client: openai.OpenAI, driver: Driver, pool: None) -> None:
    line = json.dumps(_request("ID", "Hm?", model="ada")).encode() + b"\n"
    made = _submit(client, b"".join(line.replace(b"ID", b"%d" % number) for number in range(50_001)))
    driver.until(lambda: client.batches.retrieve(made.id).status == "failed", timeout_s=60)
    assert _errors(client.batches.retrieve(made.id)) == [("too_many_tasks", None, None)]


def test_as_many_lines_as_may_be_are_taken(
    client: openai.OpenAI, driver: Driver, pool: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "LINES_MAX", 3)
    made = _submit(client, [_request(f"line {number}") for number in range(3)])
    driver.until(lambda: client.batches.retrieve(made.id).status == "in_progress")
    assert _counts(client.batches.retrieve(made.id))["total"] == 3
    assert _end(client, driver, _submit(client, [_request(f"line {n}") for n in range(4)]).id).status == "failed"


def test_a_file_that_is_one_byte_too_large_is_refused_at_its_upload(client: openai.OpenAI, driver: Driver) -> None:
    assert driver.settings.max_batch_file_bytes == 200_000_000
    driver.settings.max_batch_file_bytes = 1000
    assert _upload(client, b"x" * 1000)
    with pytest.raises(openai.APIStatusError) as caught:
        _upload(client, b"x" * 1001)
    assert (caught.value.status_code, caught.value.code) == (413, "too_large")
    assert client.files.create(file=("else", b"x" * 1001), purpose="user_data").id


@pytest.mark.parametrize(
    ("changes", "status", "param"),
    [
        ({"endpoint": "/v1/embeddings"}, 400, "endpoint"),
        ({"completion_window": "soon"}, 400, "completion_window"),
        ({"input_file_id": "file-0123456789abcdef01234567"}, 404, None),
        ({"metadata": {"key": "x" * 513}}, 400, "metadata"),
        ({"extra_body": {"priority": 1}}, 400, "priority"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 60}}, 400, "output_expires_after.seconds"),
        ({"output_expires_after": {"anchor": "ended_at", "seconds": 3600}}, 400, "output_expires_after.anchor"),
    ],
)
def test_a_batch_that_cannot_be_says_why(
    client: openai.OpenAI, pool: None, changes: Json, status: int, param: str | None
) -> None:
    wanted: Json = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
    if "input_file_id" not in changes:
        wanted["input_file_id"] = _upload(client, [_request("a")])
    with pytest.raises(openai.APIStatusError) as caught:
        client.batches.create(**{**wanted, **changes})
    assert (caught.value.status_code, caught.value.param) == (status, param)


def test_a_batch_too_many_is_told_to_come_back(driver: Driver, pool: None) -> None:
    with (
        served(driver.settings.model_copy(update={"open_lines": 3})) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client,
    ):
        wanted: Json = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
        wanted["input_file_id"] = _upload(client, [_request("a")])
        key = {"Idempotency-Key": "mine"}
        made = client.batches.create(**wanted, extra_headers=key)
        # Not yet read, its file may hold two lines.
        with pytest.raises(openai.RateLimitError, match=r"up to 2 lines .*MUSTER_OPEN_LINES") as caught:
            client.batches.create(**wanted)
        assert int(caught.value.response.headers["retry-after"]) >= 1
        assert client.batches.create(**wanted, extra_headers=key).id == made.id
        driver.until(lambda: client.batches.retrieve(made.id).status == "in_progress")
        assert client.batches.create(**wanted).status == "validating"


def test_batches_are_listed_a_page_at_a_time(client: openai.OpenAI, driver: Driver, pool: None) -> None:
    ids = [_submit(client, [_request("a")]).id for _ in range(5)]
    assert [batch.id for batch in client.batches.list(limit=2)] == ids[::-1]
    first = client.batches.list(limit=3)
    assert ([batch.id for batch in first.data], first.has_more) == (ids[:1:-1], True)
    rest = client.batches.list(after=ids[2], limit=3)
    assert ([batch.id for batch in rest.data], rest.has_more) == ([ids[1], ids[0]], False)
    with pytest.raises(openai.NotFoundError):
        client.batches.retrieve("batch_none")


def _begun(driver: Driver, batch_id: str) -> Callable[[], bool]:
    """Whether some lines are done, and some are not."""
    done = "SELECT count(*) FROM instance WHERE run_id = :run AND stage = 'done'"
    return lambda: bool(driver.scalar(done, run=batch_id))


def test_a_cancelled_batch_keeps_what_is_done(
    client: openai.OpenAI, driver: Driver, pool: None, worker: WorkerProcess
) -> None:
    made = _submit(client, [_request(f"line {number}", model="sid") for number in range(40)])
    driver.until(_begun(driver, made.id))
    assert client.batches.cancel(made.id).status == "cancelling"
    ended = _end(client, driver, made.id)
    assert (ended.status, ended.completed_at) == ("cancelled", None)
    assert ended.cancelling_at <= ended.cancelled_at <= ended.cancelling_at + 5
    output, errors = _lines(client, ended.output_file_id), _lines(client, ended.error_file_id)
    assert output
    assert {line["error"]["code"] for line in errors.values()} == {"batch_cancelled"}
    assert output.keys() | errors.keys() == {f"line {number}" for number in range(40)}
    assert len(output) + len(errors) == 40
    counts = ended.request_counts
    assert (counts.total, counts.completed, counts.failed) == (40, len(output), len(errors))
    driver.until(lambda: not worker.progress()[-1].chunks, timeout_s=5)
    with pytest.raises(openai.ConflictError, match="Cannot cancel a batch with status 'cancelled'"):
        client.batches.cancel(made.id)


def test_a_batch_cancelled_before_it_began_has_no_lines(client: openai.OpenAI, driver: Driver, pool: None) -> None:
    made = _submit(client, [_request("a")])
    client.batches.cancel(made.id)
    ended = _end(client, driver, made.id)
    assert (ended.status, ended.output_file_id, ended.error_file_id) == ("cancelled", None, None)


def test_an_expired_batch_keeps_what_is_done_and_names_the_rest(
    client: openai.OpenAI, driver: Driver, pool: None, worker: WorkerProcess
) -> None:
    made = _submit(client, [_request(f"line {number}", model="sid") for number in range(60)], window="2s")
    ended = _end(client, driver, made.id)
    assert (ended.status, ended.completed_at, ended.errors) == ("expired", None, None)
    assert ended.expired_at >= ended.expires_at
    output, errors = _lines(client, ended.output_file_id), _lines(client, ended.error_file_id)
    assert output
    assert {line["error"]["code"] for line in errors.values()} == {"batch_expired"}
    assert len(output) + len(errors) == 60
    assert {line["response"] for line in errors.values()} == {None}


def test_a_key_gives_the_batch_it_gave_before_and_no_other(client: openai.OpenAI, driver: Driver, pool: None) -> None:
    body: Json = {
        "input_file_id": _upload(client, [_request("a")]),
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    headers = {"Idempotency-Key": "mine"}
    made = client.batches.create(**body, extra_headers=headers)
    client.files.delete(body["input_file_id"])
    assert client.batches.create(**body, extra_headers=headers).id == made.id
    with pytest.raises(openai.ConflictError, match="used for another request"):
        client.batches.create(**{**body, "completion_window": "1h"}, extra_headers=headers)
    assert driver.scalar("SELECT count(*) FROM run") == 1


def test_a_restarted_stager_goes_on_reading_and_writing(
    client: openai.OpenAI, driver: Driver, pool: None, worker: WorkerProcess, engine: sa.Engine, tmp_path: Path
) -> None:
    made = _submit(client, [_request(f"line {number}", "Hm?", model="ada") for number in range(1100)])
    driver.settings.chunk_units = 64
    driver.stager.step()
    read = driver.scalar("SELECT read_lines FROM batch")
    assert isinstance(read, int)
    assert 0 < read < 1100
    successor = Driver(engine, driver.settings)
    successor.until(lambda: client.batches.retrieve(made.id).status == "finalizing", timeout_s=60)
    successor.stager.step()
    assert list((driver.settings.data_dir / "files").glob(".*.part"))
    assert client.batches.retrieve(made.id).output_file_id is None
    successor.stager.close()
    successor.close()
    ended = _end(client, driver, made.id)
    assert ended.status == "completed"
    assert _lines(client, ended.output_file_id).keys() == {f"line {number}" for number in range(1100)}
    assert ended.error_file_id is None


def test_a_second_try_at_a_batchs_files_leaves_no_part_of_the_first(driver: Driver) -> None:
    file_id = files.new_id()
    first = partial.Partial(driver.settings, file_id)
    other = partial.Partial(driver.settings, files.new_id())
    second = partial.Partial(driver.settings, file_id)
    second.write(b"whole")
    folder = driver.settings.data_dir / "files"
    assert len(list(folder.iterdir())) == 2
    with pytest.raises(FileNotFoundError):
        first.keep()
    other.discard()
    second.keep()
    assert [place.read_bytes() for place in folder.iterdir()] == [b"whole"]


def test_a_batchs_files_expire_and_an_expired_input_waits_for_its_batch(
    client: openai.OpenAI, driver: Driver, pool: None, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stager, "SWEEP_S", 0.0)
    made = _submit(
        client,
        [_request("a", "Hm?", model="ada"), _request("b", "Break. [stub:error]", model="ada")],
        output_expires_after={"anchor": "created_at", "seconds": 3600},
    )
    driver.execute("UPDATE file SET expires_at = now()")
    ended = _end(client, driver, made.id)
    assert ended.status == "completed"
    written = [client.files.retrieve(file_id) for file_id in (ended.output_file_id, ended.error_file_id)]
    assert [file.expires_at for file in written] == [file.created_at + 3600 for file in written]
    driver.step()
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(made.input_file_id)
    assert {file.id for file in client.files.list()} == {file.id for file in written}


def test_a_batch_tells_its_tokens_and_the_model_that_all_its_lines_name(
    client: openai.OpenAI, driver: Driver, pool: None, worker: WorkerProcess
) -> None:
    made = _submit(client, [_request("a", "Hm?", model="ada"), _request("b", "Hm?", model="ada")])
    assert (made.model, made.usage) == (None, None)
    ended = _end(client, driver, made.id)
    bodies = [line["response"]["body"] for line in _lines(client, ended.output_file_id).values()]
    assert ended.model == "ada"
    assert ended.usage.input_tokens == sum(body["usage"]["prompt_tokens"] for body in bodies) > 0
    assert ended.usage.output_tokens == sum(body["usage"]["completion_tokens"] for body in bodies) > 0
    assert ended.usage.total_tokens == ended.usage.input_tokens + ended.usage.output_tokens
    assert (ended.usage.input_tokens_details.cached_tokens, ended.usage.output_tokens_details.reasoning_tokens) == (
        0,
        0,
    )
    assert _end(client, driver, _submit(client, [_request("a", "Hm?")]).id).model == "muster"
    mixed = _submit(client, [_request("a", "Hm?", model="ada"), _request("b", "Hm?", model="bob")])
    assert _end(client, driver, mixed.id).model is None


def test_no_file_is_seen_while_the_disk_is_full(
    client: openai.OpenAI,
    driver: Driver,
    pool: None,
    worker: WorkerProcess,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = _submit(client, [_request("a", "Hm?", model="ada")])
    room = partial.DISK_RESERVE_BYTES
    monkeypatch.setattr(partial, "DISK_RESERVE_BYTES", 2**62)
    driver.until(lambda: client.batches.retrieve(made.id).status == "finalizing")
    for _ in range(5):
        driver.step()
    assert client.batches.retrieve(made.id).status == "finalizing"
    assert len(list((driver.settings.data_dir / "files").iterdir())) == 1
    monkeypatch.setattr(partial, "DISK_RESERVE_BYTES", room)
    ended = _end(client, driver, made.id)
    assert (ended.status, len(_lines(client, ended.output_file_id))) == ("completed", 1)
