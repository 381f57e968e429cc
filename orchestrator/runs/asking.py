"""The requests of a run's units, as JSON: `workers.messages.Request` without its id. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator import annotation, prompts
from orchestrator.pool.pool import Expert
from orchestrator.recruiting.values import Answered
from orchestrator.runs.pinned import seed_for
from skills import annotate
from skills.question import Question
from workers.messages import ChatMessage, Sampling


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request, and the tokens it is expected to take."""

    request: dict[str, Any]
    prompt_tokens: int
    completion_tokens: int


def expert(of: Expert, asked: prompts.Asked, *, seed: int, expected: float, sampling: Sampling | None = None) -> Asked:
    """One expert's answer. `expected`: tokens that its answers have. `sampling`: in place of its own; a seed in it goes
    before `seed`.
    """
    messages = prompts.expert_messages(of.system_prompt, asked, max_tokens=of.sampling.max_tokens)
    return _asked(of, messages, sampling or of.sampling, seed, expected)


def aggregator(
    of: Expert,
    asked: prompts.Asked,
    answered: Sequence[Answered],
    *,
    seed: int,
    expected: float,
    sampling: Sampling | None = None,
) -> Asked:
    """The merging of experts' answers, cut to fit the aggregator's context. `expected`, `sampling`: as of `expert`."""
    sampled = sampling or of.sampling
    chars = len(asked.rendered()) if isinstance(asked, Question) else sum(len(turn.content) for turn in asked)
    room = (of.model.context_tokens - sampled.max_tokens) * prompts.CHARS_PER_TOKEN_MIN - chars
    messages = prompts.aggregator_messages(
        asked,
        answered,
        seed=seed_for(seed, "fence"),
        max_chars=max(1, min(prompts.MAX_FUSED_CHARS, room)),
        max_tokens=sampled.max_tokens,
    )
    return _asked(of, messages, sampled, seed, expected)


def annotator(of: Expert, question: Question, *, seed: int) -> Asked:
    """One sample of the skills that a question needs."""
    messages = tuple(ChatMessage.model_validate(message) for message in annotate.messages(question.text))
    return _asked(of, messages, annotation.SAMPLING, seed, annotation.EXPECTED_TOKENS)


def _asked(of: Expert, messages: Sequence[ChatMessage], sampling: Sampling, seed: int, expected: float) -> Asked:
    plain = {**_plain(sampling), "seed": seed if sampling.seed is None else sampling.seed}
    turns = [{"role": message.role, "content": message.content} for message in messages]
    chars = sum(len(message.content) for message in messages)
    return Asked(
        request={"messages": turns, "sampling": plain, "adapter": of.adapter},
        prompt_tokens=round(chars / prompts.CHARS_PER_TOKEN),
        completion_tokens=round(min(expected, sampling.max_tokens)),
    )


def _plain(sampling: Sampling) -> dict[str, Any]:
    """Only what differs from the defaults: it is written a hundred thousand times."""
    return sampling.model_dump(mode="json", exclude_defaults=True)
