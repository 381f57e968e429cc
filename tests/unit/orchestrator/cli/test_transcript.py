"""A transcript shows each stage, whatever became of it."""

import io
from typing import Any

from rich.console import Console

from orchestrator.cli import transcript


def shown(**changes: Any) -> str:
    explanation: dict[str, Any] = {
        "strategy": "paper",
        "annotation": "llm",
        "skills": [{"skill": "plant biology", "similarity": 0.81, "keyword": "botany"}],
        "recruits": [
            {
                "expert": "ann",
                "suitability": 1.5,
                "weight": 0.7,
                "probability": 0.62,
                "why": "11 of 12 in plant biology",
            },
            {"expert": "bob", "suitability": 0.5, "weight": 0.3, "probability": None, "why": ""},
        ],
        "off_domain": False,
        "note": "bob: it was late",
        "seed": 7,
        "answers": [
            {
                "expert": "ann",
                "answer": "B",
                "error": None,
                "seconds": 1.2,
                "tokens": 12,
                "text": "B. [carbon] dioxide",
            },
            {"expert": "bob", "answer": "", "error": "it was late", "seconds": 9.0, "tokens": 0, "text": ""},
        ],
        "votes": {"B": 0.7},
        "fusion": {"method": "vote", "expert": "ann", "answer": "B", "confidence": 0.7, "note": ""},
        "seconds": {"annotate": 0.1, "generate": 1.3},
    }
    completion = {
        "choices": [{"message": {"content": "B. [carbon] dioxide"}}],
        "usage": {"prompt_tokens": 90, "completion_tokens": 12},
        "muster": explanation | changes,
    }
    out = io.StringIO()
    transcript.show(completion, Console(file=out, width=120))
    return out.getvalue()


def test_it_goes_from_skills_over_recruits_and_answers_to_the_fused_answer() -> None:
    text = shown()
    stages = [
        "plant biology",
        "botany",
        "ann  suitability",
        "11 of 12",
        "Answers",
        "B. [carbon] dioxide",
        "Fused answer",
        "votes: B 0.70",
    ]
    places = [text.index(stage) for stage in stages]
    assert places == sorted(places)


def test_an_expert_that_failed_is_shown_with_its_reason() -> None:
    assert "bob  it was late" in shown()


def test_an_off_domain_question_says_what_decided() -> None:
    assert "overall competency decides" in shown(skills=[], off_domain=True)


def test_one_experts_own_answer_has_no_stages() -> None:
    out = io.StringIO()
    completion = {
        "choices": [{"message": {"content": "Paris"}}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 1},
        "muster": {"charges": {"device_s": 1.25, "load_s": 3.0, "per_expert": {}}},
    }
    transcript.show(completion, Console(file=out, width=120))
    assert "Paris" in out.getvalue()
    assert "1.2 s of devices, 3.0 s of loads" in out.getvalue()
    assert "Recruited" not in out.getvalue()
