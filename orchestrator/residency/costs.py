"""What a model costs: its load, its memory, its tokens."""

from dataclasses import dataclass

TYPICAL_PROMPT = 250
TYPICAL_COMPLETION = 400
"""Tokens of a unit about which nothing is known (orchestrator/costs/costs.toml, stage `generate`)."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Costs of one model on one worker. The defaults are those of an 8B model on a GPU with 48 GB."""

    load_s: float = 34.2
    wake_s: float | None = None
    """Until it is back where it sleeps in host memory; None: unknown, and taken to be as long as a load."""
    memory_bytes: int = 0
    """Weights, and the keys and values that its speed needs; 0: unknown, and taken to fit anywhere."""
    devices: int = 1
    """Size of the tensor-parallel group that it needs."""
    prefill_tps: float = 4800.0
    """Prompt tokens a second, full batch."""
    decode_tps: float = 1400.0
    """Completion tokens a second, full batch."""

    @property
    def again_s(self) -> float:
        """Until it is back once it is evicted: it wakes, where it has been seen to sleep, or loads."""
        return self.load_s if self.wake_s is None else self.wake_s

    def seconds(self, *, prompt_tokens: float, completion_tokens: float) -> float:
        """Device time of so many tokens, in a full batch."""
        return prompt_tokens / self.prefill_tps + completion_tokens / self.decode_tps

    @property
    def unit_s(self) -> float:
        """Device time of a unit about which nothing is known."""
        return self.seconds(prompt_tokens=TYPICAL_PROMPT, completion_tokens=TYPICAL_COMPLETION)


UNKNOWN = Costs()
"""Of a model that nobody has measured."""
