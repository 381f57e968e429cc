"""The whole service as separate processes that each can be mistreated: servers, orchestrator, two workers, API."""

import itertools
import json
import os
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

import httpx
import redis
import sqlalchemy as sa

from orchestrator.local.embedded import EmbeddedPostgres, EmbeddedValkey
from orchestrator.runs.runs import OPEN_STATUSES
from orchestrator.settings import PROJECT_DIR, Settings
from orchestrator.storage import database
from skills.embed import Embedder
from skills.question import Question
from tests import seeds
from tests.faults import parts
from tests.faults.parts import Part
from tests.stack import WEIGHTS, free_port, give_weights
from tests.waiting import until
from workers.messages import PROGRESS_STREAM, WORKERS_KEY, WorkerState

LEASE_S = 3.0
LONG_LEASE: dict[str, Any] = {"MUSTER_LEASE_S": "30"}
"""What to start the orchestrator with where nobody dies: no lease passes by chance, and so every loss is a fault."""
_HOLDERS = """
    SELECT chunk.worker, array_agg(unit.id) AS units FROM unit JOIN chunk ON chunk.id = unit.chunk_id
    WHERE unit.run_id = :run AND unit.state = 'sent' GROUP BY chunk.worker ORDER BY count(*) DESC, worker
"""
_READ_TO = "SELECT position FROM stream_position WHERE stream = :stream"
_START = re.compile(r"^(\d+\.\d+) (?:\d+)/unit-(\d+)$", re.MULTILINE)
_PORT = re.compile(r"(?<=:)\d+(?=/\d+$)")


class House:
    """Use as a context manager: at its end everything is stopped."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.postgres = EmbeddedPostgres(folder / "postgres")
        self.valkey = EmbeddedValkey(folder / "valkey")
        self.journal = folder / "starts"
        self.url = f"http://127.0.0.1:{free_port()}"
        self.embedder = Embedder.load(WEIGHTS)
        self._numbers = itertools.count(1)
        self.baseline: dict[str, int] = {}
        """`memory()` after everybody's first work: what each may come back to."""

    def __enter__(self) -> Self:
        give_weights(self.folder / "data")
        self.journal.touch()
        self.postgres.start()
        self.valkey.start()
        self.settings = Settings(
            database_url=self.postgres.url, redis_url=self.valkey.url, data_dir=self.folder / "data",
            question_set=seeds.SET_NAME,
        )  # fmt: skip
        database.migrate(self.settings.sqlalchemy_url)
        self.engine = database.connect(self.settings)
        self.http = httpx.Client(base_url=self.url, timeout=90, limits=httpx.Limits(max_keepalive_connections=0))
        self.redis: redis.Redis = redis.Redis.from_url(self.valkey.url, decode_responses=True)
        self.parts = self._make_parts()
        self.mend()
        self._warm_up()
        return self

    def __exit__(self, *_: object) -> None:
        for part in self.parts.values():
            if part.is_up:
                part.thaw()
                part.kill()
        self.engine.dispose()
        self.http.close()
        self.redis.close()
        self.valkey.stop()
        self.postgres.stop()

    @property
    def orchestrator(self) -> Part:
        return self.parts["orchestrator"]

    @property
    def api(self) -> Part:
        return self.parts["api"]

    @property
    def workers(self) -> tuple[Part, Part]:
        return self.parts["w0"], self.parts["w1"]

    @property
    def valkey_port(self) -> int:
        found = _PORT.search(self.valkey.url)
        assert found
        return int(found.group())

    def redis_url_at(self, port: int) -> str:
        """The broker, by way of a proxy's port."""
        return _PORT.sub(str(port), self.valkey.url)

    def mend(self) -> None:
        """Everything up, as usual and ready, and no run under way: what each test begins with."""
        for server in (self.postgres, self.valkey):
            if server.process is None or server.process.poll() is not None:
                server.start()
        began_s = time.time()
        for part in self.parts.values():
            if not part.is_as_usual and part.is_up:
                part.thaw()
                part.kill()
            if not part.is_up:
                part.start()
        until(self.is_ready, timeout_s=40)
        until(self._is_idle, timeout_s=20)
        until(lambda: all((state := self.state(w.name)) and state.at > began_s for w in self.workers), timeout_s=20)

    def _is_idle(self) -> bool:
        """Whether nothing is under way; what is, is called off, and with no expert left no new profile begins."""
        self.execute("UPDATE expert SET state = 'removed'")
        self.execute("UPDATE run SET status = 'cancelling' WHERE status IN ('validating', 'in_progress')")
        return not self.value("SELECT count(*) FROM run WHERE status = ANY(:open)", open=list(OPEN_STATUSES))

    def is_ready(self) -> bool:
        try:
            return self.http.get("/healthz", timeout=2).is_success
        except httpx.HTTPError:
            return False

    def state(self, worker: str) -> WorkerState | None:
        """What a worker last said of itself."""
        text = self.redis.hget(WORKERS_KEY, worker)
        return None if text is None else WorkerState.model_validate_json(str(text))

    def value(self, statement: str, **values: object) -> Any:
        """One value of the database."""
        with self.engine.connect() as connection:
            return connection.execute(sa.text(statement), values).scalar()

    def rows(self, statement: str, **values: object) -> Sequence[Any]:
        with self.engine.connect() as connection:
            return connection.execute(sa.text(statement), values).all()

    def execute(self, statement: str, **values: object) -> None:
        with self.engine.begin() as connection:
            connection.execute(sa.text(statement), values)

    def starts(self) -> list[tuple[float, int]]:
        """Every unit that an engine began, with the moment, by the monotonic clock: as the engines noted it down."""
        return [(float(at), int(unit)) for at, unit in _START.findall(self.journal.read_text())]

    def has_read(self, position: str) -> bool:
        """Whether what workers told up to here is committed."""
        read = str(self.value(_READ_TO, stream=PROGRESS_STREAM) or "0")
        return _order(read) >= _order(position)

    def stub(self, name: str, **options: object) -> str:
        """A stub model that notes down what it starts."""
        return f"stub:{name}?{urlencode({**options, 'journal': str(self.journal)})}"

    def pool(self, sources: Mapping[str, str], *, good: Mapping[str, Sequence[str]] | None = None) -> list[str]:
        """Live experts, profiled, under names of their own: the names, in order."""
        number = next(self._numbers)
        named = {f"{name}-{number}": source for name, source in sources.items()}
        strong = {f"{name}-{number}": skills for name, skills in (good or {}).items()}
        with database.session(self.engine) as session:
            seeds.live_pool(session, named, good=strong, embedder=self.embedder)
        return list(named)

    def submit(self, experts: Sequence[str], questions: Sequence[Question], **wanted: Any) -> "Run":
        """A benchmark of these questions, by the API."""
        options = {"k": min(2, len(experts)), "fusion": "vote", "baselines": False, **wanted}
        body = {"file_id": self.upload(questions), "experts": list(experts), **options}
        made = self.http.post("/v1/benchmarks", json=body)
        assert made.status_code == 202, made.text
        return Run(self, made.json()["id"], [question.id for question in questions])

    def upload(self, questions: Sequence[Question]) -> str:
        """As a file; its id."""
        lines = [
            {"id": q.id, "question": q.text, "options": list(q.options), "answer": q.answer, "category": q.category}
            for q in questions
        ]
        content = "".join(json.dumps(line) + "\n" for line in lines).encode()
        made = self.http.post("/v1/files", files={"file": ("lines.jsonl", content)}, data={"purpose": "batch"})
        return str(made.raise_for_status().json()["id"])

    def mixed_pool(self, number: int) -> list[str]:
        """Two experts, one with its engine in a process of its own; of models that only this `number` has loaded."""
        slow = {"latency_s": 0.2}
        sources = {"ada": self.stub(f"one{number}", **slow), "bob": self.stub(f"two{number}", child=1, **slow)}
        return self.pool(sources)

    def ask(self, text: str, experts: Sequence[str], **options: Any) -> httpx.Response:
        """One question, online."""
        asked = {"experts": list(experts), "k": len(experts), **options}
        body = {"model": "muster", "messages": [{"role": "user", "content": text}], "muster": asked}
        return self.http.post("/v1/chat/completions", json=body)

    def keep_running(self, run: "Run", *, timeout_s: float) -> None:
        """Wait for a run's end as a supervisor would: a worker that died is started again."""

        def look() -> bool:
            for worker in self.workers:
                if not worker.is_up:
                    worker.start()
            return run.has_ended()

        until(look, timeout_s=timeout_s)

    def left_behind(self) -> list[str]:
        """Processes of this house that are nobody's any more: engines, too, of models that their worker has no more."""
        found = parts.of_house(f"MUSTER_DATA_DIR={self.settings.data_dir}")
        owners = {part.pid: name for name, part in self.parts.items() if part.is_up}
        engines: dict[str, list[str]] = {worker.name: [] for worker in self.workers if worker.is_up}
        strangers = []
        for pid, command in found.items():
            owner = owners.get(parts.parent(pid), "")
            if owner in engines:
                engines[owner].append(command)
            elif pid not in owners:
                strangers.append(command)
        for worker, commands in engines.items():
            if len(commands) != (known := self._hosted(worker)):
                strangers.append(f"{worker} has {known} models in processes of their own, and {commands}")
        return strangers

    def memory(self) -> dict[str, int]:
        """Bytes that each process has for itself; of the engines, and of PostgreSQL's processes, the largest one's.

        Each connection of PostgreSQL's keeps plans and catalogue of its own, up to some megabytes; how many there are
        changes with the work, and `max_connections` bounds it. An autovacuum worker takes up to `maintenance_work_mem`
        (64 MB) while it lasts: it is left out.
        """
        assert self.postgres.process is not None
        assert self.valkey.process is not None
        held = {name: parts.own_bytes(part.pid) for name, part in self.parts.items() if part.is_up}
        engines = [pid for worker in self.workers if worker.is_up for pid in parts.children(worker.pid)]
        backends = [self.postgres.process.pid, *parts.children(self.postgres.process.pid)]
        held["engine"] = max(map(parts.own_bytes, engines), default=0)
        held["postgres"] = max(parts.own_bytes(pid) for pid in backends if "autovacuum" not in parts.title(pid))
        held["valkey"] = parts.own_bytes(self.valkey.process.pid)
        return held

    def _hosted(self, worker: str) -> int:
        """Models that a worker says are awake or asleep, and that have a process of their own."""
        state = self.state(worker)
        keys = [*state.resident, *state.asleep] if state else []
        hosted = (
            "SELECT count(DISTINCT model_key) FROM expert"
            " WHERE model_key = ANY(:keys) AND model->>'source' LIKE '%child=1%'"
        )
        return int(self.value(hosted, keys=keys))

    def _warm_up(self) -> None:
        """Some work of every kind, after which nobody should need more memory than then."""
        experts = self.pool({"ada": self.stub("one"), "bob": self.stub("two", child=1)})
        self.submit(experts, lines(200)).wait_end()
        self.ask("What is it? [stub:gold=7]", experts).raise_for_status()
        self.baseline = self.memory()

    def _make_parts(self) -> dict[str, Part]:
        environment = {
            **os.environ,
            "DATABASE_URL": self.postgres.url,
            "REDIS_URL": self.valkey.url,
            "MUSTER_DATA_DIR": str(self.settings.data_dir),
            "MUSTER_EXPERTS_FILE": str(self.folder / "none.toml"),
            "MUSTER_QUESTION_SET": seeds.SET_NAME,
            "MUSTER_LEASE_S": str(LEASE_S),
            "MUSTER_CHUNK_UNITS": "32",
            "MUSTER_PORT": self.url.rpartition(":")[2],
            "PYTHONPATH": str(PROJECT_DIR),
            "PYTHONUNBUFFERED": "1",
            "MALLOC_ARENA_MAX": "1",  # else what is held is a matter of which thread was first
        }
        commands = {
            "orchestrator": ["orchestrator"],
            "w0": ["workers", "--name", "w0", "--bulk-sequences", "8", "--drain-s", "2"],
            "w1": ["workers", "--name", "w1", "--bulk-sequences", "8", "--drain-s", "2"],
            "api": ["api"],
        }
        return {
            name: Part(name, command, environment, self.folder / f"{name}.log") for name, command in commands.items()
        }


class Run:
    """A run under way, and what has become of it."""

    def __init__(self, house: House, run_id: str, line_ids: Sequence[str]) -> None:
        self.house = house
        self.id = run_id
        self.line_ids = tuple(line_ids)

    @property
    def status(self) -> str:
        return str(self.house.value("SELECT status FROM run WHERE id = :run", run=self.id))

    def has_ended(self) -> bool:
        return self.status not in OPEN_STATUSES

    def units(self, condition: str = "true") -> int:
        return int(self.house.value(f"SELECT count(*) FROM unit WHERE run_id = :run AND {condition}", run=self.id))

    def losses(self) -> int:
        """How often its units were lost, all together."""
        return int(self.house.value("SELECT coalesce(sum(losses), 0) FROM unit WHERE run_id = :run", run=self.id))

    def lost_chunks(self) -> int:
        """How many of its chunks were given up, for whatever reason."""
        lost = "SELECT count(*) FROM chunk WHERE run_id = :run AND state = 'lost'"
        return int(self.house.value(lost, run=self.id))

    def wait_done(self, units: int, *, timeout_s: float = 30.0) -> None:
        """Until so many units are committed."""
        until(lambda: self.units("state = 'done'") >= units or self.has_ended(), timeout_s=timeout_s)

    @property
    def took_s(self) -> float:
        """From its submission to its end."""
        took = "SELECT extract(epoch FROM ended_at - created_at)::float FROM run WHERE id = :run"
        return float(self.house.value(took, run=self.id))

    def kill_somebody(self, draw: random.Random, *, within_s: float) -> None:
        """kill -9 one of the workers at a moment that nobody chose, from now on: whatever it does just then."""
        time.sleep(draw.uniform(0, within_s))  # the random point, not a wait for something
        draw.choice(self.house.workers).kill()

    def kill_holder(self) -> None:
        """kill -9 a worker that is in the middle of some of its units: begun by its engine, and not told of."""
        until(lambda: any(self._is_caught(row.worker) for row in self.house.rows(_HOLDERS, run=self.id)))

    def _is_caught(self, worker: str) -> bool:
        """Stop the worker where it stands, hear all it has told, and kill it if there is more that it began."""
        part = self.house.parts[worker]
        part.freeze()
        told = str(self.house.redis.xinfo_stream(PROGRESS_STREAM)["last-generated-id"])
        until(lambda: self.house.has_read(told))
        held = {row.worker: row.units for row in self.house.rows(_HOLDERS, run=self.id)}.get(worker, [])
        if {unit for _, unit in self.house.starts()}.intersection(held):
            part.kill()
            return True
        part.thaw()
        return False

    def wait_end(self, *, timeout_s: float = 40.0) -> None:
        until(self.has_ended, timeout_s=timeout_s)

    def results(self) -> list[dict[str, Any]]:
        """Every line that is done, as the API gives it."""
        response = self.house.http.get(f"/v1/benchmarks/{self.id}/results").raise_for_status()
        return [json.loads(line) for line in response.text.splitlines()]

    def shown(self) -> dict[str, Any]:
        """What the API says of it."""
        shown: dict[str, Any] = self.house.http.get(f"/v1/benchmarks/{self.id}").raise_for_status().json()
        return shown


def _order(position: str) -> tuple[int, ...]:
    """Positions in a stream compare as numbers."""
    return tuple(int(number) for number in position.split("-"))


def until_raises_nothing(look: Callable[[], object], *, timeout_s: float) -> None:
    """Until `look()` is true, taking what it raises for a no: for a service with a server away."""

    def quiet() -> object:
        try:
            return look()
        except (sa.exc.DBAPIError, httpx.HTTPError, redis.RedisError):
            return False

    until(quiet, timeout_s=timeout_s)


def points(count: int, *, units: int) -> list[int]:
    """Numbers of units, at random, one in each of `count` equal parts of a run: after so many it is disturbed.

    Its last fifth is left out: what is out by then may be done before anybody is told.
    """
    draw = random.Random(1)
    return [1 + int((number + draw.random()) / count * 0.8 * units) for number in range(count)]


def lines(count: int, *, marks: str = "", prefix: str = "line") -> list[Question]:
    """Lines of a run, their skills in turn."""
    return seeds.questions(count, prefix=prefix, marks=marks)
