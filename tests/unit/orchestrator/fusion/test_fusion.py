import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.fusion import fusion
from orchestrator.recruiting.values import Answered, Recruit, Recruitment
from skills.question import Question

CHOICE = Question(id="q", text="?", options=("one", "two", "three"))
FREE = Question(id="q", text="?")


def recruited(**weights: float) -> Recruitment:
    recruits = tuple(Recruit(expert=name, suitability=weight, weight=weight) for name, weight in weights.items())
    return Recruitment(strategy="test", recruits=recruits)


def said(expert: str, answer: str, *, finish_reason: str = "stop", text: str | None = None) -> Answered:
    text = f"The answer is ({answer})." if text is None else text
    return Answered(expert=expert, text=text, answer=answer, finish_reason=finish_reason)


def test_weight_beats_number() -> None:
    fused = fusion.vote(recruited(a=5, b=2, c=2), [said("a", "A"), said("b", "B"), said("c", "B")])
    assert (fused.method, fused.answer, fused.expert) == ("vote", "A", "a")
    assert fused.confidence == pytest.approx(5 / 9)
    assert fused.votes == {"A": 5, "B": 4}


def test_the_heaviest_supporter_speaks() -> None:
    fused = fusion.vote(recruited(a=3, b=1, c=2.5), [said("a", "A"), said("b", "B"), said("c", "B")])
    assert (fused.answer, fused.expert) == ("B", "c")
    assert fused.note == "2 of 3 experts agree"


def test_a_tie_goes_to_the_heaviest_supporter_then_to_the_first_recruit() -> None:
    assert fusion.vote(recruited(a=1, b=1, c=2), [said("a", "A"), said("b", "A"), said("c", "B")]).answer == "B"
    assert fusion.vote(recruited(a=1, b=1), [said("b", "B"), said("a", "A")]).answer == "A"


def test_unreadable_failed_and_late_answers_are_no_votes_and_lower_the_confidence() -> None:
    answered = [
        said("a", ""),
        said("b", "B"),
        said("c", "A", finish_reason="late"),
        said("d", "A", finish_reason="error"),
    ]
    fused = fusion.vote(recruited(a=1, b=1, c=1, d=1), answered)
    assert fused.answer == "B"
    assert fused.confidence == pytest.approx(0.25)
    assert fused.note == "1 of 4 experts agree; a gave no readable answer, c was late, d failed"


def test_who_only_repeated_itself_until_it_was_cut_off_said_nothing_and_is_told_of() -> None:
    loop, mute = said("a", "", text="and so on " * 50, finish_reason="length"), said("b", "", text="")
    assert fusion.choose(recruited(a=1, b=1), [loop, mute], FREE) == "none"
    fused = fusion.best_single(recruited(a=1, b=1), [loop, mute])
    assert (fused.method, fused.text) == ("none", "")
    assert fused.note == "no expert answered: a repeated itself until it was cut off, b gave no readable answer"
    prose = said("c", "", text="It all began a long time ago, in a land by the", finish_reason="length")
    assert fusion.best_single(recruited(a=2, c=1), [loop, prose]).expert == "c"


def test_a_repetition_that_was_meant_or_holds_an_answer_is_kept() -> None:
    for chorus in (said("a", "", text="na " * 50), said("a", "4", text="x = 4. " * 50, finish_reason="length")):
        assert fusion.best_single(recruited(a=1), [chorus]).expert == "a"


def test_a_recruit_that_never_answered_is_named() -> None:
    assert "b gave no answer" in fusion.vote(recruited(a=1, b=1), [said("a", "A")]).note


def test_numbers_and_words_agree_however_they_are_written() -> None:
    answered = [said("a", "1,200 m"), said("b", "1200"), said("c", "1300")]
    assert fusion.vote(recruited(a=1, b=1, c=1.5), answered).answer == "1,200 m"


def test_reasoning_is_not_shown() -> None:
    answered = [said("a", "A", text="<think>hm</think>The answer is (A).")]
    assert fusion.vote(recruited(a=1), answered).text == "The answer is (A)."


def test_best_single_is_the_first_recruit_with_an_answer() -> None:
    answered = [said("c", "C"), said("b", "B"), said("a", "", finish_reason="error", text="")]
    fused = fusion.best_single(recruited(a=3, b=2, c=1), answered)
    assert (fused.method, fused.expert, fused.answer, fused.note) == ("best_single", "b", "B", "a failed")


@pytest.mark.parametrize("fuse", [fusion.vote, fusion.best_single])
def test_when_nobody_answered_the_outcome_says_so(fuse: object) -> None:
    answered = [said("a", "", finish_reason="error", text=""), said("b", "", finish_reason="late", text="")]
    assert callable(fuse)
    fused = fuse(recruited(a=1, b=1), answered)
    assert (fused.method, fused.answer, fused.text, fused.expert, fused.confidence) == ("none", "", "", None, 0.0)
    assert fused.note == "no expert answered: a failed, b was late"


def test_a_vote_without_votes_shows_the_best_expert_s_text() -> None:
    answered = [said("a", "", text="A poem."), said("b", "", text="Another poem.")]
    fused = fusion.vote(recruited(a=1, b=2), answered)
    assert (fused.method, fused.text) == ("best_single", "A poem.")


@pytest.mark.parametrize(
    ("question", "answered", "method"),
    [
        (CHOICE, [said("a", "A"), said("b", "B")], "vote"),
        (CHOICE, [said("a", "", text="hm"), said("b", "", text="well")], "aggregate"),
        (CHOICE, [said("a", "A"), said("b", "", finish_reason="error", text="")], "best_single"),
        (CHOICE, [said("a", "", finish_reason="error", text="")], "none"),
        (CHOICE, [said("a", "", text="<think>cut", finish_reason="length")], "none"),
        (CHOICE, [], "none"),
        (FREE, [said("a", "42"), said("b", "42.0")], "vote"),
        (FREE, [said("a", "42"), said("b", "43")], "aggregate"),
        (FREE, [said("a", "x" * 90), said("b", "x" * 90)], "aggregate"),
        (FREE, [said("a", "", text="A long poem"), said("b", "", text="A song")], "aggregate"),
    ],
)
def test_auto_votes_where_answers_can_be_counted(question: Question, answered: list[Answered], method: str) -> None:
    assert fusion.choose(recruited(a=1, b=1), answered, question) == method


def test_an_aggregator_s_answer_is_read_and_its_support_counted() -> None:
    completion = said("agg", "", text="All in all the answer is (B).")
    fused = fusion.read_aggregate(recruited(a=1, b=3), [said("a", "A"), said("b", "B")], CHOICE, completion)
    assert (fused.method, fused.answer, fused.expert, fused.confidence) == ("aggregate", "B", "agg", 0.75)


def test_an_aggregator_may_answer_freely() -> None:
    completion = said("agg", "", text="A poem, the best of both.\nIt has two lines, and neither of them can be parsed.")
    fused = fusion.read_aggregate(recruited(a=1), [said("a", "", text="x")], FREE, completion)
    assert (fused.method, fused.text) == ("aggregate", completion.text)


@pytest.mark.parametrize(
    "completion",
    [
        said("agg", "", text="", finish_reason="error"),
        said("agg", "", text="I cannot decide."),
        said("agg", "", text="<think>so", finish_reason="length"),
    ],
)
def test_a_useless_aggregator_gives_way_to_the_vote(completion: Answered) -> None:
    fused = fusion.read_aggregate(recruited(a=1, b=1), [said("a", "A"), said("b", "A")], CHOICE, completion)
    assert (fused.method, fused.answer) == ("vote", "A")
    assert fused.note.startswith("the aggregator agg ")


@given(
    st.lists(
        st.tuples(st.sampled_from(["A", "B", ""]), st.sampled_from(["stop", "length", "error", "late"])),
        min_size=1,
        max_size=5,
    ),
    st.lists(st.floats(0.01, 100), min_size=5, max_size=5),
)
def test_a_vote_is_won_by_an_answer_that_was_given(given_: list[tuple[str, str]], weights: list[float]) -> None:
    answered = [said(f"e{n}", answer, finish_reason=reason) for n, (answer, reason) in enumerate(given_)]
    fused = fusion.vote(recruited(**{f"e{n}": weight for n, weight in enumerate(weights)}), answered)
    votes = {item.answer for item in answered if item.is_vote}
    assert fused.answer in votes or (not votes and fused.answer == "")
    assert 0 <= fused.confidence <= 1 + 1e-9
