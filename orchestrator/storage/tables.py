"""The database: every table. The database is the queue and the truth; messages are hints.

Times are set by the database's clock (`func.now()`), never by a process's own.
"""

import datetime as dt
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

Json = dict[str, Any]


def _json(**kwargs: Any) -> Any:
    return Field(sa_column=sa.Column(JSONB, nullable=False), default_factory=dict, **kwargs)


def _json_or_none() -> Any:
    return Field(sa_column=sa.Column(JSONB(none_as_null=True), nullable=True), default=None)


def _now() -> Any:
    return Field(
        sa_column=sa.Column(sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()), default=None
    )


def _time() -> Any:
    return Field(sa_column=sa.Column(sa.DateTime(timezone=True), nullable=True), default=None)


class ExpertRow(SQLModel, table=True):
    """One version of an expert. The highest version of a name is the current one."""

    __tablename__ = "expert"
    __table_args__ = (sa.UniqueConstraint("name", "version"),)

    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(index=True)
    version: int = 1
    description: str = ""
    model: Json = _json()
    model_key: str = Field(index=True)
    adapter: str | None = None
    system_prompt: str = ""
    sampling: Json = _json()
    licence: str = ""
    state: str = "registered"
    """registered, testing, profiling, parked, live, quarantined, removed."""
    reason: str = ""
    """Why it is in this state, for people."""
    set_aside: bool = Field(default=False, sa_column=sa.Column(sa.Boolean, nullable=False, server_default=sa.false()))
    """It could not be loaded when it was current no more, or was removed while quarantined: whatever its state, runs
    that pinned it go on without it."""
    origin: str = Field(default="api", sa_column_kwargs={"server_default": "api"})
    """Who wrote this version: "file" (experts.toml) or "api". The file parks only what it wrote itself."""
    created_at: dt.datetime = _now()


class QuestionSetRow(SQLModel, table=True):
    """One version of a question set; its questions are `LabelledQuestionRow`s."""

    __tablename__ = "question_set"
    __table_args__ = (sa.UniqueConstraint("name", "digest"),)

    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(index=True)
    version: int = 1
    digest: str = ""
    """SHA-256 of its lines: the same lines are the same version."""
    created_at: dt.datetime = _now()


class LabelledQuestionRow(SQLModel, table=True):
    __tablename__ = "labelled_question"
    __table_args__ = (sa.UniqueConstraint("question_set_id", "external_id"),)

    id: int | None = Field(default=None, primary_key=True)
    question_set_id: int = Field(foreign_key="question_set.id", index=True)
    position: int
    external_id: str
    text: str
    options: list[str] = Field(sa_column=sa.Column(JSONB, nullable=False), default_factory=list)
    answer: str
    category: str | None = None
    skills: list[str] = Field(sa_column=sa.Column(JSONB, nullable=False), default_factory=list)
    embedding: bytes | None = None
    """float32 little-endian, a unit vector; None until embedded."""


class SkillRow(SQLModel, table=True):
    """A skill of a question set's vocabulary, embedded once."""

    __tablename__ = "skill"
    __table_args__ = (sa.UniqueConstraint("question_set_id", "name"),)

    id: int | None = Field(default=None, primary_key=True)
    question_set_id: int = Field(foreign_key="question_set.id", index=True)
    name: str
    embedding: bytes | None = None
    """float32 little-endian, a unit vector; None until embedded."""


class ProfileRow(SQLModel, table=True):
    """How one expert version answered one question set. Immutable; a new one is a new version."""

    __tablename__ = "profile"
    __table_args__ = (sa.UniqueConstraint("expert_id", "question_set_id", "version"),)

    id: int | None = Field(default=None, primary_key=True)
    expert_id: int = Field(foreign_key="expert.id", index=True)
    question_set_id: int = Field(foreign_key="question_set.id", index=True)
    version: int = 1
    run_id: str | None = None
    outcomes: Json = _json()
    """labelled question's external id -> {"answer", "correct", "finish_reason", "tokens"}."""
    created_at: dt.datetime = _now()


class AggregatorScoreRow(SQLModel, table=True):
    """How often an expert, given one right and two wrong completions, ended on the right answer."""

    __tablename__ = "aggregator_score"
    __table_args__ = (sa.UniqueConstraint("expert_id", "question_set_id", "category", "run_id"),)

    id: int | None = Field(default=None, primary_key=True)
    expert_id: int = Field(foreign_key="expert.id", index=True)
    question_set_id: int = Field(foreign_key="question_set.id", index=True)
    run_id: str
    category: str = ""
    """The skill area; "" for all areas together."""
    right: int
    tried: int
    created_at: dt.datetime = _now()


class SynthesisTrialsRow(SQLModel, table=True):
    """What one expert, as aggregator, made of recruits' own answers in one aggregator test. Immutable."""

    __tablename__ = "synthesis_trials"
    __table_args__ = (sa.UniqueConstraint("expert_id", "question_set_id", "run_id"),)

    id: int | None = Field(default=None, primary_key=True)
    expert_id: int = Field(foreign_key="expert.id", index=True)
    question_set_id: int = Field(foreign_key="question_set.id", index=True)
    run_id: str
    strategy: str
    """The strategy that the test recruited with."""
    trials: list[Json] = Field(sa_column=sa.Column(JSONB, nullable=False), default_factory=list)
    """`orchestrator.fusion.synthesis.Trial` each, with "question" and, as "experts", the ids of those who answered."""
    created_at: dt.datetime = _now()


class RunRow(SQLModel, table=True):
    """A batch, benchmark, profiling or aggregator test."""

    __tablename__ = "run"

    id: str = Field(primary_key=True)
    """`bench-…`, `batch_…`, `prof-…`, `aggr-…`."""
    kind: str
    """benchmark, batch, profile, aggregator."""
    name: str = ""
    status: str = Field(default="in_progress", index=True)
    """validating, in_progress, finalizing, completed, failed, expired, cancelling, cancelled."""
    pinned: Json = _json()
    """Versions and settings fixed at submission: experts, question set, profiles, k, strategy, fusion, seed …"""
    totals: Json = _json()
    """Its units, added up once, when it ends (`runs.finishing.totals`); {} until then."""
    errors: list[Json] = Field(sa_column=sa.Column(JSONB, nullable=False), default_factory=list)
    """Input errors: {"code", "line", "message", "param"}."""
    report: Json | None = _json_or_none()
    """The finished report; None until completed."""
    owner: str | None = None
    """The tenant whose it is; None: the operator's (`storage.owners`). So with queries and files."""
    idempotency_key: str | None = Field(default=None, unique=True)
    """As `runs` keeps it: a tenant's has its name before it."""
    request_digest: str | None = None
    """SHA-256 of what was submitted under the key: another request under it is refused."""
    created_at: dt.datetime = _now()
    ended_at: dt.datetime | None = _time()


class BatchRow(SQLModel, table=True):
    """What a batch has beside its run."""

    __tablename__ = "batch"

    run_id: str = Field(primary_key=True, foreign_key="run.id")
    input_file_id: str
    endpoint: str
    completion_window: str
    labels: Json | None = _json_or_none()
    """OpenAI's `metadata`."""
    read_bytes: int = Field(default=0, sa_column=sa.Column(sa.BigInteger, nullable=False))
    """How far the input file is read and checked."""
    read_lines: int = 0
    """Lines in that part, blank ones included."""
    has_expired: bool = Field(default=False, sa_column=sa.Column(sa.Boolean, nullable=False, server_default=sa.false()))
    """Its window passed before all lines had ended."""
    output_file_id: str | None = None
    """Set when the files are begun, told once they are there; None at the end if no line succeeded."""
    error_file_id: str | None = None
    output_expires_after_s: int | None = None
    """How long both files stay; None: until they are deleted."""
    model: str | None = None
    """The model that every line read so far names; "" where they name several."""
    expires_at: dt.datetime = Field(sa_column=sa.Column(sa.DateTime(timezone=True), nullable=False))
    in_progress_at: dt.datetime | None = _time()
    finalizing_at: dt.datetime | None = _time()
    cancelling_at: dt.datetime | None = _time()


class InstanceRow(SQLModel, table=True):
    """One question of a run."""

    __tablename__ = "instance"
    __table_args__ = (
        sa.UniqueConstraint("run_id", "custom_id"),
        sa.Index("instance_of_run", "run_id", "position"),
        sa.Index("instance_open", "run_id", "stage", postgresql_where=sa.text("stage <> 'done'")),
        sa.Index("instance_ready", "run_id", "stage", "id", postgresql_where=sa.text("ready")),
    )

    id: int | None = Field(default=None, sa_column=sa.Column(sa.BigInteger, primary_key=True))
    run_id: str = Field(foreign_key="run.id")
    position: int
    custom_id: str
    question: Json = _json()
    """`skills.question.Question` as JSON."""
    query: Json | None = _json_or_none()
    """A batch's chat request (`stored.query_json`); None: a question with a gold answer."""
    stage: str = "annotate"
    """The stage it is in: annotate, recruit, generate, fuse, grade, done."""
    ready: bool = Field(default=True, sa_column=sa.Column(sa.Boolean, nullable=False, server_default=sa.true()))
    """The stager has to look at it: it is new, or the units it waited for have ended."""
    round: int = 0
    decision: Json | None = _json_or_none()
    """The recruitment: skills, recruits with suitability and why, strategy, seed."""
    answers: Json | None = _json_or_none()
    """Each recruit's parsed answer and finish reason, written when fused."""
    fused: Json | None = _json_or_none()
    """method, answer, text, votes, confidence, note."""
    answer: str | None = None
    correct: bool | None = None
    error: str | None = None
    created_at: dt.datetime = _now()
    ended_at: dt.datetime | None = _time()


class ChunkRow(SQLModel, table=True):
    """Units for one model, sent to one worker as one Celery task. Its id grows with every send: the fence."""

    __tablename__ = "chunk"
    __table_args__ = (sa.Index("chunk_out", "worker", postgresql_where=sa.text("state = 'sent'")),)

    id: int | None = Field(default=None, sa_column=sa.Column(sa.BigInteger, primary_key=True))
    run_id: str = Field(foreign_key="run.id", index=True)
    worker: str
    model_key: str
    state: str = "sent"
    """sent, ended, lost."""
    sent_at: dt.datetime = _now()
    units: int = 0
    """How many units it was sent with."""
    held: bool = Field(default=False, sa_column=sa.Column(sa.Boolean, nullable=False, server_default=sa.false()))
    """Some progress mentioned it: losing it is the loss of a worker, and not of a message."""
    alone: bool = Field(default=False, sa_column=sa.Column(sa.Boolean, nullable=False, server_default=sa.false()))
    """It carries suspects, and had its worker to itself."""
    moved_at: dt.datetime | None = _time()
    """When its worker began it, or last finished a unit of it; None: it waits for its model, or for its turn."""
    holder_started_at: float | None = None
    """`WorkerState.started_at` of the progress that last mentioned it."""
    lease_until: dt.datetime | None = _time()
    """Renewed by progress that mentions it; past it the chunk is lost and its units are pending again."""


class UnitRow(SQLModel, table=True):
    """The smallest piece of engine work."""

    __tablename__ = "unit"
    __table_args__ = (
        sa.UniqueConstraint("instance_id", "stage", "round", "expert", "sample"),
        sa.Index("unit_waiting", "model_key", "run_id", "id", postgresql_where=sa.text("state = 'pending'")),
        sa.Index("unit_of_chunk", "chunk_id"),
        sa.Index("unit_of_run", "run_id"),
    )

    id: int | None = Field(default=None, sa_column=sa.Column(sa.BigInteger, primary_key=True))
    run_id: str = Field(foreign_key="run.id")
    instance_id: int = Field(sa_column=sa.Column(sa.BigInteger, sa.ForeignKey("instance.id"), nullable=False))
    stage: str
    """annotate, generate, fuse, or baseline: an answer that only the report's baselines need."""
    round: int = 0
    expert: str
    sample: int = 0
    model_key: str
    request: Json = _json()
    """`workers.messages.Request` without its id."""
    tokens: int = 0
    """Tokens it is expected to take, prompt and completion: what the planner weighs."""
    prompt_tokens: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    """So many of them are its prompt's; 0: not told."""
    state: str = "pending"
    """pending, sent, done, failed. (Running is the worker's knowledge: it is in its progress.)"""
    chunk_id: int | None = Field(default=None, sa_column=sa.Column(sa.BigInteger, nullable=True))
    """The chunk it was last sent in: a completion that comes under another chunk is refused."""
    attempts: int = 0
    """Tries that failed by its own fault."""
    losses: int = 0
    """Times its worker was lost; after two it runs among suspects, then alone."""
    completion: Json | None = _json_or_none()
    """`workers.messages.Completion` without its id."""
    device_s: float = Field(default=0.0, sa_column_kwargs={"server_default": "0"})
    """Device seconds charged to all its tries that were told of."""
    load_s: float = Field(default=0.0, sa_column_kwargs={"server_default": "0"})
    """Seconds of loading charged to them."""
    created_at: dt.datetime = _now()
    ended_at: dt.datetime | None = _time()


class WorkerRow(SQLModel, table=True):
    """A worker as its last progress described it."""

    __tablename__ = "worker"

    name: str = Field(primary_key=True)
    state: Json = _json()
    """`workers.messages.WorkerState`."""
    seen_at: dt.datetime = _now()


class LoadRow(SQLModel, table=True):
    """One load of weights on a worker, done or failed: the measured cost."""

    __tablename__ = "load"

    id: int | None = Field(default=None, primary_key=True)
    worker: str
    model_key: str = Field(index=True)
    run_id: str | None = Field(default=None, index=True)
    seconds: float
    memory_bytes: int = Field(default=0, sa_column=sa.Column(sa.BigInteger, nullable=False))
    error: str | None = None
    woken: bool = Field(default=False, sa_column=sa.Column(sa.Boolean, nullable=False, server_default=sa.false()))
    """It slept in host memory and only had to wake up."""
    failed_wake: str | None = None
    """Why it was loaded anew although it slept."""
    worker_died: bool = Field(default=False, sa_column=sa.Column(sa.Boolean, nullable=False, server_default=sa.false()))
    """Its worker died in it, and told of it in its next life."""
    at: dt.datetime = _now()


class ModelCostRow(SQLModel, table=True):
    """What a model costs on a worker: moving figures (`orchestrator.pool.measured_costs`). None: not measured yet."""

    __tablename__ = "model_cost"

    model_key: str = Field(primary_key=True)
    worker: str = Field(primary_key=True)
    load_s: float | None = None
    wake_s: float | None = None
    memory_bytes: int | None = Field(default=None, sa_column=sa.Column(sa.BigInteger, nullable=True))
    prefill_tps: float | None = None
    decode_tps: float | None = None
    answer_tps: float | None = None
    query_tps: float | None = None
    updated_at: dt.datetime = _now()


class StreamPositionRow(SQLModel, table=True):
    """How far a Redis stream has been read and committed."""

    __tablename__ = "stream_position"

    stream: str = Field(primary_key=True)
    position: str


class QueryRow(SQLModel, table=True):
    """One question asked online, kept for feedback, MUSTER_KEEP_QUERIES_DAYS days long: its prompt with it."""

    __tablename__ = "query"

    id: str = Field(primary_key=True)
    request: Json = _json()
    decision: Json | None = _json_or_none()
    answers: Json | None = _json_or_none()
    fused: Json | None = _json_or_none()
    status: str = "ok"
    """ok, degraded (some experts failed), failed, cancelled."""
    owner: str | None = None
    feedback: Json | None = _json_or_none()
    created_at: dt.datetime = _now()


class FileRow(SQLModel, table=True):
    """An uploaded or produced file; its bytes lie in the data directory under its id."""

    __tablename__ = "file"

    id: str = Field(primary_key=True)
    filename: str
    purpose: str
    bytes: int = Field(sa_column=sa.Column(sa.BigInteger, nullable=False))
    owner: str | None = None
    created_at: dt.datetime = _now()
    expires_at: dt.datetime | None = _time()
    """When it is deleted; None: when somebody does. The input file of an open batch stays until that has ended."""
