"""How fast a run goes when engines cost nothing: lines a second, and the CPU seconds of every process.

    .venv/bin/python -m benchmarks.runs_throughput [--lines 1000 10000] [--k 3] [--experts 4]

Real PostgreSQL, Valkey, orchestrator, worker process and embedder; stub engines; embedding annotation, vote, full
provenance, no baselines. CPU seconds tell more than wall time where others use the machine, too.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import sqlalchemy as sa

from orchestrator.local.embedded import EmbeddedPostgres, EmbeddedValkey
from orchestrator.pool.pool import Pool
from orchestrator.runs import runs
from orchestrator.settings import Settings
from orchestrator.storage import database
from skills.embed import Embedder
from skills.question import Question
from tests import seeds
from tests.stack import WEIGHTS

TOPICS = ("algebra", "history", "chemistry", "geography", "grammar", "physics", "music", "biology")


def lines(count: int) -> list[Question]:
    """Short distinct questions, as many to a topic."""
    return [_line(n, "ABCD"[n % 4], TOPICS[n % len(TOPICS)]) for n in range(count)]


def _line(n: int, gold: str, topic: str) -> Question:
    return Question(
        id=f"line-{n}",
        text=f"Which of these is right about {topic} fact number {n}? [stub:gold={gold}]",
        options=(f"value {n}", f"value {n + 1}", f"value {n + 2}", "none of them"),
        answer=gold,
        category=topic,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lines", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--k", type=int, default=3)
    parser.add_argument("--experts", type=int, default=4)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="muster-bench-") as folder:
        measure(Path(folder), arguments.lines, arguments.k, arguments.experts)


def measure(folder: Path, counts: list[int], k: int, experts: int) -> None:
    postgres, valkey = EmbeddedPostgres(folder / "postgres").start(), EmbeddedValkey(folder / "valkey").start()
    settings = Settings(
        database_url=postgres.url, redis_url=valkey.url, data_dir=folder / "data", question_set=seeds.SET_NAME
    )
    settings.data_dir.mkdir()
    settings.packages_dir.symlink_to(WEIGHTS)
    engine = database.connect(settings)
    database.migrate(engine)
    with database.session(engine) as session:
        sources = {f"expert-{n}": f"stub:{'left' if n % 2 else 'right'}" for n in range(experts)}
        pool = seeds.live_pool(session, sources, embedder=Embedder.load(WEIGHTS))
    environment = {
        **os.environ,
        "DATABASE_URL": postgres.url,
        "REDIS_URL": valkey.url,
        "MUSTER_DATA_DIR": str(settings.data_dir),
        "MUSTER_QUESTION_SET": seeds.SET_NAME,
        "MUSTER_EXPERTS_FILE": str(folder / "none.toml"),
        "OMP_NUM_THREADS": "1",
    }
    commands = {
        "orchestrator": ["-m", "orchestrator"],
        "worker": ["-m", "workers", "--name", "w1", "--device", "cpu"],
    }
    children = {
        name: subprocess.Popen([sys.executable, *command], env=environment, stderr=(folder / f"{name}.log").open("w"))
        for name, command in commands.items()
    }
    assert postgres.process is not None
    assert valkey.process is not None
    pids = {name: child.pid for name, child in children.items()} | {
        "postgres": postgres.process.pid,
        "valkey": valkey.process.pid,
    }
    try:
        for count in counts:
            report(engine, settings, pool, count, k, pids)
    finally:
        for child in children.values():
            child.terminate()
            child.wait()
        postgres.stop()
        valkey.stop()


def report(engine: sa.Engine, settings: Settings, pool: Pool, count: int, k: int, pids: dict[str, int]) -> None:
    before, began = cpu(pids), time.monotonic()
    with database.session(engine) as session:
        run = runs.submit_benchmark(
            session,
            settings=settings,
            pool=pool,
            name="throughput",
            questions=lines(count),
            k=k,
            strategy="paper",
            fusion="vote",
            annotation="embedding",
            baselines=False,
        )
    submitted = time.monotonic() - began
    while True:
        with database.session(engine) as session:
            row = runs.get(session, run.id)
        if row.status == "completed":
            break
        time.sleep(0.2)
    wall = time.monotonic() - began
    used = {name: seconds - before.get(name, 0.0) for name, seconds in cpu(pids).items()}
    resident = {name: psutil.Process(pid).memory_info().rss >> 20 for name, pid in pids.items()}
    assert row.report is not None
    print(
        f"{count} lines: {wall:.1f} s wall, {count / wall:.0f} lines/s (submitted in {submitted:.1f} s); "
        f"{sum(used.values()):.1f} CPU s = {1000 * sum(used.values()) / count:.2f} ms/line; "
        + ", ".join(f"{name} {seconds:.1f}" for name, seconds in used.items())
        + f"; loads {row.report['loads']['made']}; units {row.report['units']}; RSS MB {resident}"
    )


def cpu(pids: dict[str, int]) -> dict[str, float]:
    """CPU seconds of each process and its descendants so far."""
    used = {}
    for name, pid in pids.items():
        process = psutil.Process(pid)
        own = process.cpu_times()
        seconds = own.user + own.system + own.children_user + own.children_system
        for child in process.children(recursive=True):
            times = child.cpu_times()
            seconds += times.user + times.system
        used[name] = seconds
    return used


if __name__ == "__main__":
    main()
