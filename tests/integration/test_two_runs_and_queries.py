"""Two models on one worker, two runs and live queries at once: real processes and servers, stub engines."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa

from orchestrator import residency
from orchestrator.settings import Settings
from orchestrator.storage import database
from tests import seeds
from tests.driving import Driver
from tests.serving import served
from tests.waiting import until
from tests.worker_process import WorkerProcess

MODELS = {name: f"stub:{name}?p=1&q=1&load_s=0.5&tokens_per_s=100" for name in ("ada", "bob")}
LINES = 100
QUESTION = "About algebra: what is number 7?\nA. one\nB. two\nC. three\nD. four\n[stub:gold=C][stub:skill=algebra]"
QUERY = {
    "model": "muster",
    "messages": [{"role": "user", "content": QUESTION}],
    "muster": {"k": 1, "fusion": "vote", "budget": {"seconds": 10}},
}


def test_they_load_no_more_than_the_plan_does_and_every_line_is_answered(
    engine: sa.Engine, settings: Settings, redis_url: str, tmp_path: Path
) -> None:
    quiet = settings.model_copy(update={"question_set": seeds.SET_NAME, "experts_file": tmp_path / "none.toml"})
    with database.session(engine) as session:
        seeds.live_pool(session, MODELS, good=dict.fromkeys(MODELS, seeds.SKILLS))
    driver, stop, answered = Driver(engine, quiet), threading.Event(), []

    def step() -> None:
        while not stop.is_set():
            driver.step()

    def ask(client: httpx.Client) -> None:
        while not stop.wait(0.3):
            answered.append(client.post("/v1/chat/completions", json=QUERY).status_code)

    with (
        served(quiet) as url,
        httpx.Client(base_url=url, timeout=60) as client,
        WorkerProcess(redis_url, tmp_path / "w"),
    ):
        runs = [_submit(client, prefix) for prefix in ("first", "second")]
        threads = [threading.Thread(target=step), threading.Thread(target=ask, args=(client,))]
        for thread in threads:
            thread.start()
        try:
            until(lambda: all(_status(client, run) == "completed" for run in runs), timeout_s=90)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        results = [_results(client, run) for run in runs]
    loads = driver.scalar("SELECT count(*) FROM load WHERE error IS NULL")
    driver.close()
    assert set(answered) == {200}
    assert len(answered) > 3
    for prefix, lines in zip(("first", "second"), results, strict=True):
        assert sorted(line["id"] for line in lines) == sorted(f"{prefix}{n}" for n in range(LINES))
        assert all(line["error"] is None and len(line["completions"]) == 2 for line in lines)
    planned = residency.fewest_loads([frozenset(MODELS)])
    assert planned <= int(str(loads)) <= planned + 1


def _submit(client: httpx.Client, prefix: str) -> str:
    lines = [
        {"id": each.id, "question": each.text, "options": list(each.options), "answer": each.answer}
        for each in seeds.questions(LINES, prefix=prefix)
    ]
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    sent = client.post("/v1/files", files={"file": (f"{prefix}.jsonl", content)}, data={"purpose": "evals"})
    asked = {"file_id": sent.raise_for_status().json()["id"], "k": 2, "fusion": "vote", "baselines": False}
    return str(client.post("/v1/benchmarks", json=asked).raise_for_status().json()["id"])


def _status(client: httpx.Client, run: str) -> str:
    time.sleep(0.2)
    return str(client.get(f"/v1/benchmarks/{run}").raise_for_status().json()["status"])


def _results(client: httpx.Client, run: str) -> list[dict[str, Any]]:
    text = client.get(f"/v1/benchmarks/{run}/results").raise_for_status().text
    return [json.loads(line) for line in text.splitlines() if line]
