"""Settings: read once at each entry point from the environment, then passed down."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from orchestrator import tenants

PROJECT_DIR = Path(__file__).resolve().parent.parent


class Settings(BaseSettings):
    """Every field can be set as MUSTER_<NAME>; the two URLs also as DATABASE_URL and REDIS_URL."""

    # Without the input in errors: it may be a key.
    model_config = SettingsConfigDict(
        env_prefix="MUSTER_", populate_by_name=True, extra="ignore", hide_input_in_errors=True
    )

    database_url: str = Field(default="", validation_alias="DATABASE_URL")
    """PostgreSQL. Empty: the supervisor starts one in the data directory."""
    redis_url: str = Field(default="", validation_alias="REDIS_URL")
    """Redis or Valkey. Empty: the supervisor starts one in the data directory."""
    data_dir: Path = Path(".muster")
    """Files, converted weights, embedded servers, logs."""
    experts_file: Path = PROJECT_DIR / "experts.toml"
    """The pool."""
    benchmarks_dir: Path = PROJECT_DIR / "benchmarks" / "sets"
    """Benchmarks that can be submitted by name: JSONL files."""
    host: str = "127.0.0.1"
    """The address that the API listens on."""
    port: int = 8000
    """Its port."""
    api_key: str = ""
    """The operator's. If set, every request but health must carry `Authorization: Bearer <key>`."""
    api_keys: str = Field(default="", validate_default=False)
    """Tenants and their keys, `alice=key1,bob=key2`: each sees its own files, runs and answers alone.

    Set but empty is wrong: it must not open what was to be closed."""
    question_set: str = "muster-basics"
    """The question set that queries recruit on."""
    annotation: Literal["embedding", "llm"] = "embedding"
    """How questions are annotated by default: `embedding` or `llm`."""
    k: int = Field(default=3, ge=1)
    """Experts asked per question by default."""
    strategy: str = "posterior"
    """How they are chosen by default (docs/recruiting.md)."""
    fusion: Literal["auto", "vote", "aggregate", "best_single"] = "auto"
    """How their answers are merged by default: `auto`, `vote`, `aggregate` or `best_single`."""
    query_seconds: float = 60.0
    """Default `budget.seconds` of a query."""
    queries_in_flight: int = 32
    """Queries answered at a time; one more is told to come back (429)."""
    online_waiting: int = 64
    """Online requests that may wait at one worker beside those it answers; where all are so full, a query is told to
    come back (429)."""
    open_lines: int = 1_000_000
    """Lines of batches and benchmarks that may be open at a time; a submission beyond is told to come back (429)."""
    keep_queries_days: int = 30
    """Days that a query's prompt, answers and feedback are stored."""
    max_body_bytes: int = 8 * 2**20
    """Largest JSON body (8 MiB)."""
    max_file_bytes: int = 512 * 2**20
    """Largest uploaded file (512 MiB)."""
    max_batch_file_bytes: int = 200_000_000
    """Largest uploaded file with purpose `batch` (200 MB)."""
    allow_remote_code: bool = False
    """Whether experts may run code that comes with their weights (`trust_remote_code`)."""
    lease_s: float = 15.0
    """A chunk that no progress mentions for so long is sent again."""
    window_chunks: int = 2
    """Bulk chunks a worker may hold."""
    chunk_units: int = 64
    """Units per chunk at most."""
    max_attempts: int = 3
    """Tries that a unit may fail by its own fault before it ends as an error."""
    late_s: float = 900.0
    """Units fail as late when their worker has finished nothing of their chunk for so long since it began it; their
    lines go on without them."""
    log_level: str = "INFO"
    """Of the API and the orchestrator."""

    @field_validator("api_keys")
    @classmethod
    def _api_keys_can_be_read(cls, text: str) -> str:
        tenants.parse(text)
        return text

    @model_validator(mode="after")
    def _no_tenant_has_the_operators_key(self) -> Self:
        if self.api_key in self.tenants.values():
            raise ValueError(f"{tenants.SETTING} gives a tenant the operator's key (MUSTER_API_KEY)")
        return self

    @property
    def tenants(self) -> Mapping[str, str]:
        """Keys by tenant; empty: there are none."""
        return tenants.parse(self.api_keys) if self.api_keys else {}

    @field_validator("strategy")
    @classmethod
    def _is_a_strategy(cls, name: str) -> str:
        # Imported here: no command should wait for numpy.
        from orchestrator import recruiting

        recruiting.known(name)
        return name

    @property
    def packages_dir(self) -> Path:
        """Where the packages that carry weights are installed (locks/weights.lock), the embedder's among them."""
        return self.data_dir / "pkgs"

    @property
    def sqlalchemy_url(self) -> str:
        """The database URL with the driver that Muster uses (psycopg 3)."""
        scheme, _, rest = self.database_url.partition("://")
        if scheme not in ("postgresql", "postgres", "postgresql+psycopg"):
            raise ValueError(f"DATABASE_URL must be a PostgreSQL URL, not {scheme or 'empty'}://…")
        return f"postgresql+psycopg://{rest}"
