"""What the requests of units are expected to take."""

from orchestrator import annotation
from orchestrator.pool.pool import Expert
from orchestrator.runs import asking
from skills.question import Question
from workers.messages import ChatMessage, Model, Sampling

EXPERT = Expert(id=1, name="a", version=1, model=Model(source="stub:a"), sampling=Sampling(max_tokens=512))
LONG = (ChatMessage(role="user", content="word " * 800),)


def test_a_unit_is_expected_to_take_what_its_experts_answers_took_and_not_what_they_may() -> None:
    asked = asking.expert(EXPERT, LONG, seed=1, expected=80.4)
    assert (asked.prompt_tokens, asked.completion_tokens) == (1000, 80)
    merged = asking.aggregator(EXPERT, LONG, [], seed=1, expected=80.4)
    assert merged.completion_tokens == 80


def test_no_completion_is_expected_to_be_longer_than_it_may() -> None:
    short = Sampling(max_tokens=7)
    assert asking.expert(EXPERT, LONG, seed=1, expected=80.0, sampling=short).completion_tokens == 7


def test_a_list_of_skills_is_short() -> None:
    question = Question(id="q", text="Why?")
    assert asking.annotator(EXPERT, question, seed=1).completion_tokens == annotation.EXPECTED_TOKENS
