"""How a question's skills are found: by its own embedding, or named by an LLM and then matched."""

import functools
import threading
from pathlib import Path
from typing import Literal

from orchestrator.pool.question_sets import TextEmbedder
from orchestrator.recruiting.values import Ask
from orchestrator.settings import Settings
from skills.embed import Embedder
from skills.question import Question
from workers.messages import Sampling

Method = Literal["embedding", "llm"]
LLM_STRATEGIES = frozenset({"paper"})
"""Strategies that, asked for by name, annotate as their paper does: with an LLM."""
SAMPLING = Sampling(temperature=0.7, max_tokens=64)
"""Of an annotator: the paper's temperature; five skills fit in far fewer tokens."""
EXPECTED_TOKENS = 25
"""Of a sample (orchestrator/costs/costs.toml, stage `annotate`)."""
NONE_SURVIVED = "no skill that the LLM named survived its votes; the question's own embedding was used"
"""Said wherever annotation by LLM fell back to the embedding."""
_LOADING = threading.Lock()


def method_for(strategy: str | None, settings: Settings) -> Method:
    """`strategy` as the client gave it; None: the service's default, and with it the service's annotation."""
    return "llm" if strategy in LLM_STRATEGIES else settings.annotation


def ask(question: Question, skills: tuple[str, ...], embedder: TextEmbedder) -> Ask:
    """The question as recruiters read it. Embedding takes 10 to 30 ms: call it off the event loop."""
    (embedding,) = embedder.embed([question.text])
    return Ask(
        text=question.text,
        embedding=embedding,
        skills=skills,
        skill_embeddings=embedder.embed(skills) if skills else None,
        options=len(question.options),
        choices=question.options,
    )


def embedder(packages_dir: Path) -> Embedder:
    """The process's embedder, loaded (0.3 s) when it is first needed. Raises `skills.embed.EmbedderMissing`."""
    with _LOADING:  # a cache alone would let two threads that ask first both load it
        return _embedder(packages_dir)


@functools.cache
def _embedder(packages_dir: Path) -> Embedder:
    return Embedder.load(packages_dir)
