"""What waits for one model, and what probably will."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Queue:
    """What waits for one model."""

    model_key: str
    engine: str
    """The engine it needs: "vllm", "remote" or "stub"."""
    units: int = 0
    """Units waiting, suspects not counted."""
    suspects: int = 0
    """Units waiting that were lost twice: they run apart from others."""
    tokens: int = 0
    """Tokens the units are expected to take, prompts and completions; 0: unknown."""
    prompt_tokens: int = 0
    """So many of them are in prompts; 0: unknown, and all are taken for completions'."""
    oldest_s: float = 0.0
    """Age of the oldest unit that is no suspect."""
    suspect_s: float = 0.0
    """Age of the oldest suspect."""
    demand_s: float | None = None
    """How long online requests have waited for it; None: none waits."""
    upstream: int = 0
    """Instances that the stager is about to move on without any engine's help, and that may then need it."""
    soon: float = 0.0
    """Units expected for it as soon as the units of the stage before have been answered."""
    feeds: float = 0.0
    """Units of the next stage, for whichever models, that follow from answers to its waiting units."""
    later: float = 0.0
    """Units expected for it after others of the same instances: an aggregator's, an adaptive strategy's next round."""


def waited_for(queue: Queue, *, demand_s: float) -> Queue:
    """The queue of a model that online requests have waited for."""
    return replace(queue, demand_s=demand_s)
