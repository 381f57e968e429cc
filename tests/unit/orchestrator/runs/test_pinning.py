"""What a run pins, and what its baselines may cost."""

from dataclasses import replace

import numpy as np

from orchestrator.dispatch import chunks
from orchestrator.runs import pinned, pinning
from orchestrator.runs.pinned import Baselines, Pinned
from orchestrator.runs.staging import context
from orchestrator.settings import Settings
from skills.evidence import Evidence
from skills.question import Question
from tests.unit.orchestrator.scripted import decision, recruit

QUESTION = Question(id="q", text="Why?", answer="So.")


def test_the_papers_strategy_by_name_is_annotated_as_the_paper_does() -> None:
    ones = np.ones((1, 1), np.float32)
    seen = Evidence(experts=("a",), questions=(), embeddings=ones, correct=ones)
    pool = replace(decision(recruit("a")).pool, evidence=seen)

    def annotated(strategy: str | None, annotated_by: str | None = None) -> tuple[str, str | None]:
        run = pinning.for_benchmark(
            settings=Settings(),
            pool=pool,
            questions=[QUESTION],
            strategy=strategy,
            method="vote",
            annotated_by=annotated_by,
        )
        return run.annotation, run.annotator

    assert annotated("paper") == ("llm", "a")
    assert annotated("paper", "embedding") == annotated("random") == annotated(None) == ("embedding", None)


def test_baselines_cover_every_line_while_they_are_cheap() -> None:
    assert pinning.baselines(120, k=3, size=6) == Baselines(lines=120, calls=360)


def test_a_large_pool_answers_a_part_of_the_lines() -> None:
    assert pinning.baselines(1000, k=3, size=16) == Baselines(lines=461, calls=461 * 13)


def test_a_long_run_is_sampled() -> None:
    assert pinning.baselines(10_000, k=3, size=4).lines == pinning.BASELINE_LINES_MAX


def test_too_few_lines_are_never_sampled() -> None:
    assert pinning.baselines(60, k=1, size=64).lines == 60


def test_recruiting_the_whole_pool_leaves_nothing_to_ask() -> None:
    assert pinning.baselines(50, k=4, size=4) == Baselines(lines=50, calls=0)


def test_sampled_lines_are_the_same_every_time() -> None:
    run = Pinned(lines=1000, seed=5, baselines=Baselines(lines=100, calls=300))
    assert context.panel(run) == context.panel(run)
    assert len(context.panel(run)) == 100
    assert context.panel(run) != context.panel(run.model_copy(update={"seed": 6}))


def test_seeds_depend_on_every_part() -> None:
    assert pinned.seed_for(1, "a", "b") != pinned.seed_for(1, "ab")
    assert 0 <= pinned.seed_for("x") < 2**31


def test_request_ids_name_units() -> None:
    assert chunks.unit_id(chunks.request_id(17)) == 17
    assert chunks.unit_id("chat-17") is None
    assert chunks.unit_id("unit-x") is None
