"""How one line is to be answered: as its run says, or as its own chat request asks."""

from typing import Any

from orchestrator.online import chat_request
from orchestrator.online.query import Query
from orchestrator.pool.pool import Expert
from orchestrator.runs.pinned import Pinned
from orchestrator.runs.staging import terms
from skills.question import Question
from workers.messages import Model, Sampling

PINNED = Pinned(
    lines=1,
    pool={"experts": {"ada": 1, "bob": 2, "cyd": 3}},
    k=2,
    strategy="posterior",
    fusion="auto",
    annotation="embedding",
    annotator="ada",
)
ADA = Expert(id=1, name="ada", version=1, model=Model(source="stub:a"), sampling=Sampling(max_tokens=100))
CHOICE = "Which?\nA. this\nB. that"


def _query(content: str = "Why?", **body: Any) -> Query:
    asked = {"model": "muster", "messages": [{"role": "user", "content": content}], **body}
    return chat_request.read(asked).query("a")


def _terms(**options: Any) -> terms.Terms:
    return terms.of(PINNED, _query(muster=options))


def test_a_question_is_answered_as_its_run_says() -> None:
    own = terms.of(PINNED, None)
    assert (own.recruiting.k, own.recruiting.strategy, own.recruiting.experts, own.fusion) == (
        2,
        "posterior",
        None,
        "auto",
    )
    assert (own.annotator, own.calls) == (None, None)
    question = Question(id="q", text="Why?", answer="So.")
    assert own.asked(question, ADA) is question
    assert own.sampling(ADA, recruits=1) == own.fused_sampling(ADA, recruits=1) == ADA.sampling


def test_a_request_goes_before_its_run_and_leaves_the_rest_to_it() -> None:
    own = _terms(k=3, fusion="vote", experts=["ada", "bob", "cyd"], aggregator="bob")
    assert (own.recruiting.k, own.recruiting.experts, own.fusion, own.aggregator) == (
        3,
        ("ada", "bob", "cyd"),
        "vote",
        "bob",
    )
    assert own.recruiting.strategy == "posterior"
    assert _terms().recruiting.k == 2
    assert _terms(experts=["ada"]).recruiting.k == 1


def test_the_paper_s_strategy_names_skills_with_an_llm() -> None:
    assert _terms(strategy="paper").annotator == "ada"
    assert _terms(strategy="random").annotator is None


def test_a_budget_of_calls_bounds_recruits_and_rounds() -> None:
    assert (_terms(budget={"calls": 1}).recruiting.k, _terms(k=3, budget={"calls": 2}).recruiting.k) == (1, 2)
    assert _terms(budget={"calls": 4}).calls_left(made=2, is_adaptive=True) == 1
    assert _terms(budget={"calls": 2}).calls_left(made=2, is_adaptive=True) == 0
    assert _terms(k=2).calls_left(made=2, is_adaptive=False) == 0
    assert _terms(k=2).calls_left(made=2, is_adaptive=True) is None
    assert terms.of(PINNED, None).calls_left(made=9, is_adaptive=False) is None


def test_the_client_s_wishes_are_for_the_fused_answer_or_for_one_that_answers_alone() -> None:
    wished = terms.of(PINNED, _query(temperature=0, max_tokens=5, muster={"k": 2}))
    assert wished.sampling(ADA, recruits=2) == ADA.sampling
    assert wished.fused_sampling(ADA, recruits=2).max_tokens == 5
    alone = terms.of(PINNED, _query(temperature=0, muster={"k": 1}))
    assert alone.sampling(ADA, recruits=1).temperature == 0


def test_one_that_is_merged_by_the_services_default_does_not_answer_alone() -> None:
    merged = terms.of(PINNED.model_copy(update={"fusion": "aggregate"}), _query(max_tokens=5, muster={"k": 1}))
    assert merged.sampling(ADA, recruits=1) == ADA.sampling
    assert merged.fused_sampling(ADA, recruits=1).max_tokens == 5


def test_a_budget_of_tokens_is_shared_out() -> None:
    assert _terms(k=2, budget={"tokens": 90}).sampling(ADA, recruits=2).max_tokens == 30


def test_a_lone_choice_is_asked_in_its_own_form_and_a_conversation_as_it_is() -> None:
    query = _query(CHOICE)
    assert terms.of(PINNED, query).asked(query.question, ADA) == query.question
    assert query.question.options == ("this", "that")
    talk = _query("And why?")
    assert terms.of(PINNED, talk).asked(talk.question, ADA) == talk.conversation
