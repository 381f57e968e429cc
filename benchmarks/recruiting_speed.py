"""How many questions a second are recruited for, all at once and one by one, on one core.

    OMP_NUM_THREADS=1 .venv/bin/python -m benchmarks.recruiting_speed [--experts 16] [--asks 10000]

Seconds are of the processor, so that a busy machine does not spoil them. The evidence is made up: embeddings, texts and
outcomes are random, because only their number matters here.
"""

import argparse
import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from orchestrator import recruiting
from orchestrator.recruiting.values import Ask
from skills.evidence import Evidence, Floats
from skills.question import Question

DIMENSIONS = 384
CHOICES = 10
TARGETS = {350: 10_000, 9_233: 1_500}
LOOPED = 300
"""Asks recruited for one at a time, for comparison."""


def unit(rng: np.random.Generator, n: int) -> Floats:
    rows = rng.normal(size=(n, DIMENSIONS)).astype(np.float32)
    rows[:, 0] += 10  # embeddings of questions all point much the same way
    unit_rows: Floats = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit_rows


def choices(rng: np.random.Generator) -> tuple[str, ...]:
    return tuple(f"{value} m/s, when the body has come to rest" for value in rng.integers(1000, size=CHOICES))


def evidence(rng: np.random.Generator, n: int, m: int) -> Evidence:
    letters = np.array(list("ABCDEFGHIJ"))
    questions = tuple(
        Question(id=str(row), text="How fast does it fall? " * 10, options=choices(rng), answer=letters[row % CHOICES])
        for row in range(n)
    )
    gold = np.arange(n) % CHOICES
    given = np.where(rng.random((n, m)) < 0.4, gold[:, None], rng.integers(CHOICES, size=(n, m)))
    return Evidence(
        experts=tuple(f"expert-{column}" for column in range(m)),
        questions=questions,
        embeddings=unit(rng, n),
        correct=(given == gold[:, None]).astype(np.float32),
        answers=tuple(tuple(row) for row in letters[given]),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experts", type=int, default=16)
    parser.add_argument("--asks", type=int, default=10_000)
    parser.add_argument("--k", type=int, default=3)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    vectors = unit(rng, args.asks)
    offered = [choices(rng) for _ in range(100)]
    asks = [
        Ask(text="How fast does it fall? " * 10, embedding=vector, options=CHOICES, choices=offered[row % 100])
        for row, vector in enumerate(vectors)
    ]
    seeds = list(range(args.asks))
    print(f"pool of {args.experts}, k={args.k}, {args.asks} questions, one core")
    for n, target in TARGETS.items():
        begun = time.process_time()
        recruiter = recruiting.fit("posterior", evidence(rng, n, args.experts))
        recruiter.recruit(asks[:1], k=args.k, seeds=seeds[:1])
        fit_s = time.process_time() - begun
        begun = time.process_time()
        recruiter.recruit(asks, k=args.k, seeds=seeds)
        batch = args.asks / (time.process_time() - begun)
        begun = time.process_time()
        for row in range(LOOPED):
            recruiter.recruit(asks[row : row + 1], k=args.k, seeds=seeds[row : row + 1])
        looped = LOOPED / (time.process_time() - begun)
        print(
            f"{n:6d} profile questions: {batch:8,.0f} questions/s at once (wanted {target:,}), "
            f"{looped:6,.0f} one by one; fitted in {fit_s:.1f} s"
        )


if __name__ == "__main__":
    main()
