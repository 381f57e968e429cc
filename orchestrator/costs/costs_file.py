"""The costs file: TOML or JSON, checked, with every model's costs worked out."""

import json
import tomllib
from pathlib import Path
from typing import Annotated

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from orchestrator.residency import Costs

SHIPPED = Path(__file__).with_name("costs.toml")

Positive = Annotated[float, Field(gt=0)]


class CostsError(ValueError):
    """The file cannot be used. One line: which file, which field, and what is wrong with it."""


class Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Device(Value):
    memory_gb: Positive
    """Of one GPU."""
    group: int = Field(default=1, ge=1)
    """GPUs of one worker."""


class Dispatch(Value):
    chunk_units: int = Field(default=64, ge=1)
    window_chunks: int = Field(default=2, ge=1)
    plan_s: Positive = 0.5


class Reference(Value):
    """A model of a known size; others' costs follow in proportion to theirs."""

    parameters_b: Positive
    load_s: Positive
    load_fixed_s: float = Field(ge=0)
    memory_gb: Positive
    prefill_tps: Positive
    decode_tps: Positive
    decode_alone_tps: Positive


class StageCosts(Value):
    """What one unit of a stage takes."""

    model: str = ""
    """The model of the stage; empty: the recruited experts'."""
    prompt_tokens: float = Field(ge=0)
    completion_tokens: Positive


class Stages(Value):
    annotate: StageCosts
    generate: StageCosts
    fuse: StageCosts


class ModelCosts(Value):
    """A model; what it does not state follows from the reference."""

    name: str
    parameters_b: Positive
    devices: int = Field(default=1, ge=1)
    load_s: Positive | None = None
    memory_gb: Positive | None = None
    prefill_tps: Positive | None = None
    decode_tps: Positive | None = None
    decode_alone_tps: Positive | None = None


class CostsFile(Value):
    device: Device
    dispatch: Dispatch = Dispatch()
    reference: Reference
    stages: Stages
    usage: dict[str, str | tuple[Annotated[float, Field(ge=0)], ...]]
    """Name -> shares of all recruits, most used first; `default` names one of them."""
    models: tuple[ModelCosts, ...] = Field(min_length=1)

    def costs(self, model: ModelCosts) -> Costs:
        """What the planner knows of a model."""
        size = model.parameters_b / self.reference.parameters_b
        at = self.reference
        return Costs(
            load_s=model.load_s or at.load_fixed_s + (at.load_s - at.load_fixed_s) * size,
            memory_bytes=int((model.memory_gb or at.memory_gb * size) * 1e9),
            devices=model.devices,
            prefill_tps=model.prefill_tps or at.prefill_tps / size,
            decode_tps=model.decode_tps or at.decode_tps / size,
        )

    @property
    def typical(self) -> Costs:
        """The reference, for a model about which nothing is known; its memory is not known, either."""
        return Costs(
            load_s=self.reference.load_s,
            prefill_tps=self.reference.prefill_tps,
            decode_tps=self.reference.decode_tps,
        )

    def alone_tps(self, model: ModelCosts) -> float:
        """Completion tokens a second of one request alone."""
        size = model.parameters_b / self.reference.parameters_b
        return model.decode_alone_tps or self.reference.decode_alone_tps / size

    def shares(self, usage: str | None = None) -> tuple[float, ...]:
        """Shares of all recruits by rank, most used first. Raises `CostsError`."""
        name = usage or self.usage.get("default")
        found = self.usage.get(name) if isinstance(name, str) else None
        if not isinstance(found, tuple) or sum(found) <= 0:
            known = ", ".join(sorted(key for key, value in self.usage.items() if isinstance(value, tuple)))
            raise CostsError(f"[usage] has no shares named {name!r}; it has {known or 'none'}")
        return tuple(sorted(found, reverse=True))


def read(path: Path = SHIPPED) -> CostsFile:
    """A costs file. Raises `CostsError`."""
    try:
        text = path.read_text()
        raw = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise CostsError(f"{path}: cannot be read ({error})") from None
    try:
        return CostsFile.model_validate(raw)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise CostsError(f"{path}: {field}: {first['msg']}") from None
