"""How fast a run goes when engines cost nothing: lines a second, and what every process takes of CPU and memory.

    .venv/bin/python -m benchmarks.runs_throughput [--lines 1000 10000] [--k 3] [--experts 4]

Real PostgreSQL, Valkey, orchestrator, worker process and embedder; stub engines; embedding annotation, vote, full
provenance, no baselines. Every question's text is another, so that none is embedded twice; their lengths are spread as
those of MMLU-Pro (mean 260 characters, a quarter below 100, a quarter above 330). A short run goes before, so
that starting up counts for none of the counts compared. CPU seconds tell more than wall time where others use the
machine, too.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
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

WARM_UP_LINES = 100
SAMPLE_S = 0.5
FLAT_RATIO = 1.1
"""Memory is flat where the last third of a run's samples stays below so many times the second third's maximum."""
TOPICS = {
    "algebra": ("polynomial", "matrix", "root", "determinant", "group of permutations", "linear equation"),
    "history": ("treaty", "dynasty", "revolution", "parliament", "trade route", "peasants' revolt"),
    "chemistry": ("acid", "catalyst", "ester", "reaction rate", "noble gas", "buffered solution"),
    "physics": ("pendulum", "magnetic field", "lens", "ideal gas", "electron", "frictionless slope"),
    "biology": ("enzyme", "cell membrane", "ribosome", "food chain", "dominant allele", "nervous system"),
    "economics": ("demand curve", "interest rate", "monopoly", "tariff", "public good", "business cycle"),
    "law": ("contract", "defendant", "easement", "hearsay rule", "statute", "duty of care"),
    "medicine": ("patient with a fever", "dosage", "blood count", "artery", "vaccine", "persistent cough"),
}
CONTEXT = (
    "A report from {n} describes how the {a} changed once the {b} had been measured {m} times.",
    "Suppose that the {a} is held constant at {m} while the {b} grows in proportion to {n}.",
    "Two observers, {m} kilometres apart, disagree about whether the {a} came before the {b} or after it.",
    "In case {n} the {a} was compared with the {b}, and the difference amounted to {m} percent of the total.",
    "Nothing else is known about the {b} except that its value, {m}, was found by the method of least squares.",
)
ASKED = (
    "Which of these is right about the {a}?",
    "What follows for the {a}, given the {b} and a value of {m}?",
    "Which of the following statements best explains the role of the {a} beside the {b} in example {n}?",
)
SENTENCES = (0, 0, 0, 0, 1, 1, 1, 2, 3, 7)
"""Sentences of context that go before the question; each as likely as another."""


def lines(count: int, run: str) -> list[Question]:
    """Distinct questions, as many to a topic. `run` makes them other ones than another run's."""
    return [_line(n, run) for n in range(count)]


def _line(n: int, run: str) -> Question:
    draw = random.Random(f"{run}/{n}")
    topic = list(TOPICS)[n % len(TOPICS)]
    gold = "ABCD"[n % 4]

    def sentence(template: str) -> str:
        first, second = draw.sample(TOPICS[topic], 2)
        return template.format(a=first, b=second, n=1000 + n, m=draw.randint(2, 9_999))

    count = draw.choice(SENTENCES)
    context = [sentence(draw.choice(CONTEXT)) for _ in range(count)]
    last, other = draw.sample(TOPICS[topic], 2)
    return Question(
        id=f"line-{n}",
        text=" ".join([*context, f"({run} {n})", sentence(draw.choice(ASKED))]),
        options=(
            f"The {last} is {draw.randint(2, 999)} times as large as it was",
            f"The {other} does not depend on it at all",
            f"Both the {last} and the {other} are equal to {draw.randint(2, 999)}",
            f"None of them can be known without more measurements [stub:gold={gold}]",
        ),
        answer=gold,
        category=topic,
    )


@dataclass(kw_only=True)
class Memory(threading.Thread):
    """Samples the resident memory of each process, its descendants included, until stopped."""

    pids: dict[str, int]
    samples: list[dict[str, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)
        self._stopped = threading.Event()

    __hash__ = threading.Thread.__hash__

    def run(self) -> None:
        while not self._stopped.wait(SAMPLE_S):
            self.samples.append({name: _resident(pid) for name, pid in self.pids.items()})

    def stop(self) -> None:
        self._stopped.set()
        self.join()

    def thirds(self, name: str) -> list[int]:
        """A process's largest sample in each third of the run, in bytes."""
        own = [sample[name] for sample in self.samples]
        third = max(1, len(own) // 3)
        return [max(part, default=0) for part in (own[:third], own[third : 2 * third], own[2 * third :])]


@dataclass(frozen=True, kw_only=True)
class Measured:
    lines: int
    wall_s: float
    submitted_s: float
    used_s: dict[str, float]
    """Process -> CPU seconds, its descendants included."""
    memory: Memory

    @property
    def per_s(self) -> float:
        return self.lines / self.wall_s


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
        _complete(engine, settings, pool, WARM_UP_LINES, k, pids)
        measured = []
        for count in counts:
            measured.append(_complete(engine, settings, pool, count, k, pids))
            report(measured[-1])
        compare(measured)
    finally:
        for child in children.values():
            child.terminate()
            child.wait()
        postgres.stop()
        valkey.stop()


def _complete(engine: sa.Engine, settings: Settings, pool: Pool, count: int, k: int, pids: dict[str, int]) -> Measured:
    """Submit a run of so many lines and wait for its end."""
    questions = lines(count, f"run of {count}")
    memory = Memory(pids=pids)
    memory.start()
    before, began = cpu(pids), time.monotonic()
    with database.session(engine) as session:
        run = runs.submit_benchmark(
            session,
            settings=settings,
            pool=pool,
            name="throughput",
            questions=questions,
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
        time.sleep(0.1)
    wall = time.monotonic() - began
    memory.stop()
    used = {name: seconds - before[name] for name, seconds in cpu(pids).items()}
    assert row.report is not None
    assert row.report["lines"] == {"total": count, "done": count, "failed": 0}, row.report["lines"]
    assert row.report["units"]["calls"] == k * count
    return Measured(lines=count, wall_s=wall, submitted_s=submitted, used_s=used, memory=memory)


def report(measured: Measured) -> None:
    """Print what one run took: time, then CPU and memory process by process."""
    chars = [len(question.text) for question in lines(measured.lines, f"run of {measured.lines}")]
    low, middle, high = statistics.quantiles(chars, n=4)
    total_s = sum(measured.used_s.values())
    print(
        f"{measured.lines} lines: {measured.wall_s:.1f} s, {measured.per_s:.0f} lines/s "
        f"(submitted in {measured.submitted_s:.1f} s); {1000 * total_s / measured.lines:.2f} CPU-ms/line, "
        f"{total_s / measured.wall_s:.2f} cores; question texts of {low:.0f}, {middle:.0f}, {high:.0f} characters "
        "(quartiles)"
    )
    print(f"  {'process':<14}{'CPU-ms/line':>12}{'MB, max of each third':>30}  flat")
    for name, seconds in measured.used_s.items():
        thirds = measured.memory.thirds(name)
        flat = "yes" if thirds[2] <= FLAT_RATIO * thirds[1] else "NO"
        shown = " ".join(f"{size / 2**20:.0f}" for size in thirds)
        print(f"  {name:<14}{1000 * seconds / measured.lines:>12.2f}{shown:>30}  {flat}")


def compare(measured: list[Measured]) -> None:
    """Print how time grows with the number of lines."""
    first = measured[0]
    for other in measured[1:]:
        print(
            f"{other.lines} lines cost {other.wall_s / first.wall_s:.2f} times what {first.lines} cost "
            f"({other.lines / first.lines:g} times as many)"
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


def _resident(pid: int) -> int:
    """Bytes of a process and its descendants in memory; a page that several have counts once (PSS)."""
    process = psutil.Process(pid)
    total = 0
    for each in (process, *process.children(recursive=True)):
        try:
            rollup = Path(f"/proc/{each.pid}/smaps_rollup").read_text()
        except (psutil.NoSuchProcess, OSError):
            continue
        total += sum(int(line.split()[1]) << 10 for line in rollup.splitlines() if line.startswith("Pss:"))
    return total


if __name__ == "__main__":
    main()
