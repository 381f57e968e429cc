"""Benchmarks over HTTP: by name, compared with each other, and read as JSON, Markdown or a page."""

import json
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from orchestrator.settings import Settings
from orchestrator.storage import database
from tests import seeds
from tests.driving import Driver
from tests.fake_worker import FakeWorker
from tests.serving import served
from tests.stack import command
from workers.messages import Completion, Request

Json = dict[str, Any]
KEY = {"Idempotency-Key": "mine"}


@pytest.fixture
def driver(engine: sa.Engine, settings: Settings, tmp_path: Path) -> Iterator[Driver]:
    quick = settings.model_copy(update={"question_set": seeds.SET_NAME, "experts_file": tmp_path / "none.toml"})
    driving = Driver(engine, quick)
    yield driving
    driving.close()


@pytest.fixture
def http(driver: Driver) -> Iterator[httpx.Client]:
    with database.session(driver.engine) as session:
        seeds.live_pool(session, {"ada": "stub:one", "bob": "stub:two", "cyd": "stub:three"})
    with served(driver.settings) as url, httpx.Client(base_url=url, timeout=20) as client:
        yield client


def _run(http: httpx.Client, driver: Driver, fake: FakeWorker, *, wrong: str = "", **body: Any) -> str:
    """A benchmark to its end, in which lines with the text `wrong` are answered wrongly by everybody."""
    made = http.post("/v1/benchmarks", json={"name": seeds.SET_NAME, "fusion": "vote", "k": 2, **body})
    assert made.status_code == 202, made.text

    def answer(request: Request) -> Completion:
        asked = request.messages[-1].content
        gold = asked.partition("[stub:gold=")[2][:1]
        letter = "ABCD"["ABCD".index(gold) - 1] if wrong and wrong in asked else gold
        return Completion(id=request.id, text=f"The answer is ({letter}).", prompt_tokens=9, completion_tokens=4)

    def work() -> None:
        for chunk in fake.take():
            fake.finish(chunk, answer)
        fake.say()

    run_id = str(made.json()["id"])
    driver.until(lambda: driver.is_done(run_id), also=work)
    return run_id


def test_a_benchmark_of_the_folder_is_submitted_by_its_name(http: httpx.Client, driver: Driver) -> None:
    shipped = http.post("/v1/benchmarks", json={"name": "muster-check"})
    assert (shipped.status_code, shipped.json()["request_counts"]["total"]) == (202, 48)
    unknown = http.post("/v1/benchmarks", json={"name": "../sets/muster-check"})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "benchmark_not_found")
    assert "muster-check" in unknown.json()["error"]["message"]


def test_a_key_gives_the_benchmark_it_gave_before_and_no_other(http: httpx.Client, driver: Driver) -> None:
    body = {"name": seeds.SET_NAME, "k": 2}
    made = http.post("/v1/benchmarks", json=body, headers=KEY).json()
    assert http.post("/v1/benchmarks", json=body, headers=KEY).json()["id"] == made["id"]
    other = http.post("/v1/benchmarks", json={**body, "k": 1}, headers=KEY)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_key_taken")
    assert made["id"] in other.json()["error"]["message"]


def test_a_benchmark_too_many_is_told_to_come_back(http: httpx.Client, driver: Driver) -> None:
    body = {"name": seeds.SET_NAME, "k": 2}
    with (
        served(driver.settings.model_copy(update={"open_lines": 30})) as url,
        httpx.Client(base_url=url, timeout=20) as client,
    ):
        made = client.post("/v1/benchmarks", json=body, headers=KEY).json()
        refused = client.post("/v1/benchmarks", json=body)
        assert (refused.status_code, refused.json()["error"]["type"]) == (429, "rate_limit_error")
        assert refused.json()["error"]["code"] == "too_many_open_lines"
        assert "18 lines" in refused.json()["error"]["message"]
        assert int(refused.headers["retry-after"]) >= 1
        assert client.post("/v1/benchmarks", json=body, headers=KEY).json()["id"] == made["id"]
        client.post(f"/v1/benchmarks/{made['id']}/cancel")
        driver.until(lambda: driver.is_done(made["id"]))
        assert client.post("/v1/benchmarks", json=body).status_code == 202


def test_two_benchmarks_are_compared_line_by_line(http: httpx.Client, driver: Driver, fake: FakeWorker) -> None:
    first = _run(http, driver, fake, wrong="history")
    second = _run(http, driver, fake, wrong="algebra: what is number 0", k=1)
    found = http.get("/v1/benchmarks", params={"compare": f"{first},{second}"}).json()
    assert found["lines"] == {"compared": 18, "only_in_first": 0, "only_in_second": 0}
    test = found["mcnemar"]
    assert (test["only_first_right"], test["only_second_right"], test["both_right"]) == (1, 6, 11)
    assert test["p_value"] == pytest.approx(0.125)
    assert found["difference"]["value"] == pytest.approx(5 / 18, abs=1e-6)
    assert found["per_category"]["history"]["difference"]["value"] == 1.0
    assert (found["first"]["settings"]["k"], found["second"]["settings"]["k"]) == (2, 1)
    text = http.get("/v1/benchmarks", params={"compare": f"{first},{second}", "format": "markdown"}).text
    assert "p value: 0.125" in text
    page = http.get("/v1/benchmarks", params={"compare": f"{first},{second}"}, headers={"Accept": "text/html"}).text
    assert "p = 0.125" in page
    _check_page(page)


@pytest.mark.parametrize(
    ("compare", "status"), [("one", 400), ("a,b,c", 400), ("a,", 400), ("bench-none,bench-none", 404)]
)
def test_what_cannot_be_compared_says_why(http: httpx.Client, compare: str, status: int) -> None:
    assert http.get("/v1/benchmarks", params={"compare": compare}).status_code == status


def test_a_report_is_read_as_json_markdown_or_a_page(http: httpx.Client, driver: Driver, fake: FakeWorker) -> None:
    address = f"/v1/benchmarks/{_run(http, driver, fake, wrong='history', name=seeds.SET_NAME)}/report"
    whole = http.get(address).json()
    assert whole["status"] == "completed"
    assert http.get(address, headers={"Accept": "text/markdown"}).text.startswith("# benchmark")
    browsers = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
    page = http.get(address, headers={"Accept": browsers})
    assert page.headers["content-type"].startswith("text/html")
    assert page.text == http.get(address, params={"format": "html"}).text
    assert f"{100 * whole['accuracy']['value']:.1f} %" in page.text
    for words in ("oracle: somebody was right", "history", "ada", "completion tokens", "posterior"):
        assert words in page.text, words
    _check_page(page.text)


def test_the_command_line_watches_and_compares(http: httpx.Client, driver: Driver, fake: FakeWorker) -> None:
    run_id, url = _run(http, driver, fake), str(http.base_url)

    def said(*arguments: str) -> str:
        ran = subprocess.run(command("bench", *arguments, "--url", url), capture_output=True, text=True, timeout=30)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    assert f"{run_id} is completed" in said("watch", run_id)
    listed = said("list").splitlines()
    assert listed[1].split()[:4] == [run_id, seeds.SET_NAME, "completed", "18/18"]
    assert [run["id"] for run in json.loads(said("list", "--json"))] == [run_id]
    lines = [json.loads(line) for line in said("results", run_id).splitlines()]
    assert [line["position"] for line in lines] == list(range(18))
    assert len(said("results", run_id, "--after", "15").splitlines()) == 2
    made = json.loads(said("submit", seeds.SET_NAME, "--aggregator", "cyd", "--no-baselines", "--json"))
    assert (made["settings"]["aggregator"], made["status"]) == ("cyd", "in_progress")
    assert driver.scalar("SELECT pinned->>'baselines' FROM run WHERE id = :run", run=made["id"]) is None
    assert f"{made['id']} is cancelling" in said("cancel", made["id"])
    assert json.loads(said("compare", run_id, run_id, "--json"))["difference"]["value"] == 0.0
    assert "mcnemar" in said("compare", run_id, run_id)


def _states(response: httpx.Response) -> Iterator[tuple[str, Json]]:
    """Ids and states as they are streamed."""
    event_id = ""
    for line in response.iter_lines():
        if line.startswith("id: "):
            event_id = line.removeprefix("id: ")
        elif line.startswith("data: "):
            yield event_id, json.loads(line.removeprefix("data: "))


def test_a_stream_that_breaks_in_mid_run_goes_on_where_it_broke(
    http: httpx.Client, driver: Driver, fake: FakeWorker
) -> None:
    driver.settings.chunk_units = 8
    body = {"name": seeds.SET_NAME, "fusion": "vote", "k": 1, "baselines": False}
    run_id = http.post("/v1/benchmarks", json=body).json()["id"]

    def stream(last_id: str = "") -> AbstractContextManager[httpx.Response]:
        headers = {"Last-Event-ID": last_id} if last_id else {}
        return http.stream("GET", f"/v1/runs/{run_id}/events", headers=headers)

    with stream() as response:  # which breaks it at the end
        first_id, first = next(_states(response))
    assert first["lines"]["done"] == 0
    driver.until(lambda: fake.take() or fake.held)
    fake.load(fake.held[0].model, chunk_id=fake.held[0].id)
    fake.finish(fake.held[0])
    done = "SELECT count(*) FROM instance WHERE stage = 'done'"
    driver.until(lambda: driver.scalar(done))
    with stream(first_id) as response:
        second_id, second = next(_states(response))
    assert second_id != first_id
    assert 0 < second["lines"]["done"] < 18
    assert second["lines"]["done"] == driver.scalar(done)
    with stream(second_id) as response, ThreadPoolExecutor(1) as thread:  # where nothing has changed meanwhile
        driving = thread.submit(driver.until, lambda: driver.is_done(run_id), also=fake.work)
        rest = list(_states(response))
        driving.result()
    ids = [first_id, second_id, *(event_id for event_id, _ in rest)]
    assert len(set(ids)) == len(ids) > 2
    counts = [state["lines"]["done"] for state in (first, second, *(state for _, state in rest))]
    assert counts == sorted(counts)
    assert (rest[-1][1]["status"], counts[-1]) == ("completed", 18)


class _Structure(HTMLParser):
    """Whether every element is closed in order, and what the page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br"):
            self.open.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def _check_page(text: str) -> None:
    structure = _Structure()
    structure.feed(text)
    assert (structure.open, structure.fetched) == ([], [])
    assert text.count("<h1>") == 1
    assert text.count("<table ") == text.count("<caption>")
    assert not re.search(r"url\(|@import|<script", text)
