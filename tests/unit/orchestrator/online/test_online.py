"""The online driver, on a scripted transport: what is asked, what is streamed, what trouble costs."""

import dataclasses
import time

import pytest

from orchestrator.fusion import synthesis
from orchestrator.fusion.synthesis import Trial
from orchestrator.online import online
from orchestrator.online.deciding import Decision
from orchestrator.online.query import Answer, Budget, Event, Options, Piece, QueryFailed, QueryRefused, Stage
from orchestrator.online.transport import Late, LoadFailed, NoWorker, WorkerLost
from tests.unit.orchestrator import scripted
from tests.unit.orchestrator.scripted import ScriptedTransport, decision, query, recruit
from workers.messages import Completion

CHOICE = "Which gas do plants take in?\nA. Oxygen\nB. Carbon dioxide"
OPEN = "Write a line about plants."


async def _events(transport: ScriptedTransport, asked=None, decided=None, seconds: float = 5.0) -> list[Event]:  # type: ignore[no-untyped-def]
    decided = decided or decision(recruit("a", 2.0), recruit("b"), recruit("c"))
    running = online.answer(asked or query(CHOICE), decided, transport, deadline_s=time.time() + seconds)
    return [event async for event in running]


def _answer(events: list[Event]) -> Answer:
    assert isinstance(events[-1], Answer)
    return events[-1]


def _streamed(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Piece))


async def test_votes_are_counted_and_the_winners_text_is_streamed() -> None:
    transport = ScriptedTransport({"a": "The answer is (A).", "b": "The answer is (B).", "c": "Surely (B)."})
    events = await _events(transport, decided=decision(recruit("a"), recruit("b"), recruit("c")))
    answer = _answer(events)
    assert answer.text == _streamed(events) == "The answer is (B)."
    assert answer.explanation is not None
    assert answer.explanation["fusion"]["method"] == "vote"
    assert answer.explanation["votes"] == {"B": 2.0, "A": 1.0}
    assert [event.stage for event in events if isinstance(event, Stage)] == ["recruited", *["answered"] * 3, "fusing"]


async def test_usage_adds_up_all_stages() -> None:
    transport = ScriptedTransport({"a": "one two", "b": "one", "c": "one two three", "fuse": "merged it is"})
    answer = _answer(await _events(transport, query(OPEN, options=Options(fusion="aggregate"))))
    assert answer.explanation is not None
    assert answer.usage.completion_tokens == 2 + 1 + 3 + 3
    assert answer.usage.prompt_tokens == 40
    assert answer.explanation["tokens"]["fuse"]["completion_tokens"] == 3


async def test_the_aggregators_tokens_are_streamed_as_they_come() -> None:
    transport = ScriptedTransport(
        {"a": "Plants grow.", "b": "Plants eat light.", "c": "Green.", "fuse": "<think>hm</think> Plants eat light."}
    )
    events = await _events(transport, query(OPEN, options=Options(aggregator="b", fusion="aggregate")))
    pieces = [event.text for event in events if isinstance(event, Piece)]
    assert "".join(pieces) == _answer(events).text == "Plants eat light."
    assert len(pieces) > 1


async def test_a_failed_expert_costs_its_answer_and_is_named() -> None:
    transport = ScriptedTransport({"a": WorkerLost("its worker died"), "b": "(B)", "c": "(B)"})
    answer = _answer(await _events(transport))
    assert answer.text == "(B)"
    assert answer.explanation is not None
    errors = {each["expert"]: each["error"] for each in answer.explanation["answers"]}
    assert errors == {"a": "its worker died", "b": None, "c": None}
    assert "its worker died" in answer.explanation["note"]


async def test_a_late_expert_is_not_waited_for() -> None:
    transport = ScriptedTransport({"a": 60.0, "b": "(B)", "c": "(B)"})
    begun = time.monotonic()
    answer = _answer(await _events(transport, query(CHOICE, options=Options(fusion="vote")), seconds=0.2))
    assert time.monotonic() - begun < 2
    assert answer.explanation is not None
    assert answer.explanation["answers"][0]["finish_reason"] == "late"
    assert transport.cancelled == ["q.a"]


async def test_what_a_late_expert_took_is_charged_all_the_same() -> None:
    late = Late("it did not answer in time", Completion(id="x", finish_reason="abort", device_s=1.5, load_s=0.5))
    transport = ScriptedTransport({"a": late, "b": "(B)", "c": "(B)"})
    answer = _answer(await _events(transport))
    assert answer.charges["per_expert"]["a"] == {"device_s": 1.5, "load_s": 0.5}
    assert answer.charges["device_s"] == 1.5


async def test_nobody_answering_in_time_is_told_as_late() -> None:
    with pytest.raises(QueryFailed) as caught:
        await _events(ScriptedTransport({"a": 60.0, "b": 60.0, "c": 60.0}), seconds=0.05)
    assert caught.value.late


async def test_every_expert_failing_tells_each_reason() -> None:
    transport = ScriptedTransport(dict.fromkeys("abc", WorkerLost("gone")))
    with pytest.raises(QueryFailed, match=r"a: gone; b: gone; c: gone"):
        await _events(transport)


async def test_experts_that_all_say_nothing_have_not_answered() -> None:
    with pytest.raises(QueryFailed, match=r"a: gave no readable answer; b: gone; c: gave no readable answer"):
        await _events(ScriptedTransport({"a": "", "b": WorkerLost("gone"), "c": "<think>Perhaps</think>"}))


async def test_a_query_that_every_engine_refuses_is_the_clients_to_mend() -> None:
    refused = Completion(id="x", finish_reason="error", error="the prompt exceeds the context", fault="request")
    with pytest.raises(QueryRefused) as caught:
        await _events(ScriptedTransport(dict.fromkeys("abc", refused)))
    assert caught.value.code == "context_length_exceeded"


async def test_without_a_worker_for_any_recruit_nothing_begins() -> None:
    transport = ScriptedTransport({}, can_run=frozenset({"remote"}))
    running = online.answer(query(CHOICE), decision(recruit("a")), transport, deadline_s=time.time() + 1)
    with pytest.raises(NoWorker):
        await anext(running)


async def test_hanging_up_cancels_what_runs() -> None:
    transport = ScriptedTransport({"a": 60.0, "b": 60.0, "c": "(B)"})
    running = online.answer(query(CHOICE), decision(*map(recruit, "abc")), transport, deadline_s=time.time() + 60)
    assert isinstance(await anext(running), Stage)
    assert isinstance(await anext(running), Stage)
    await running.aclose()
    assert sorted(transport.cancelled) == ["q.a", "q.b"]


async def test_a_single_recruit_is_streamed_live_and_sampled_as_the_client_wished() -> None:
    transport = ScriptedTransport({"a": "The answer is (B)."})
    asked = query(CHOICE, options=Options(k=1), temperature=0.1)
    events = await _events(transport, asked, decision(recruit("a")))
    assert len([event for event in events if isinstance(event, Piece)]) == 4
    assert transport.request_of("a").sampling.temperature == 0.1
    assert _streamed(events) == _answer(events).text


async def test_experts_keep_their_own_sampling_and_the_fused_answer_gets_the_clients() -> None:
    transport = ScriptedTransport({"a": "x y", "b": "z", "c": "w", "fuse": "merged"})
    await _events(transport, query(OPEN, options=Options(fusion="aggregate"), temperature=0.1, stop=("END",)))
    assert transport.request_of("a").sampling.temperature == 0.7
    assert transport.request_of("fuse").sampling.temperature == 0.1
    assert transport.request_of("fuse").sampling.stop == ("END",)


async def test_a_vote_is_cut_to_the_clients_limits() -> None:
    transport = ScriptedTransport(dict.fromkeys("abc", "The answer is (B). END of it"))
    stopped = _answer(await _events(transport, query(CHOICE, stop=("END",))))
    assert (stopped.text, stopped.finish_reason) == ("The answer is (B). ", "stop")
    cut = _answer(await _events(transport, query(CHOICE, max_tokens=3)))
    assert (cut.text, cut.finish_reason) == ("The answer", "length")


async def test_a_failing_aggregator_gives_way_to_the_experts() -> None:
    transport = ScriptedTransport({"a": "(B)", "b": "(B)", "c": "(A)", "fuse": WorkerLost("gone")})
    events = await _events(transport, query(CHOICE, options=Options(fusion="aggregate")))
    answer = _answer(events)
    assert answer.text == _streamed(events) == "(B)"
    assert answer.explanation is not None
    assert answer.explanation["fusion"]["method"] == "vote"
    assert "gone" in answer.explanation["note"]


async def test_a_recruiter_may_ask_more_experts_within_the_calls() -> None:
    transport = ScriptedTransport(dict.fromkeys("abcd", "(B)"))
    decided = decision(recruit("a"), recruit("b"), others=("c", "d"), calls=4)
    answer = _answer(await _events(transport, query(CHOICE), decided))
    assert answer.explanation is not None
    assert [each["expert"] for each in answer.explanation["answers"]] == ["a", "b", "c"]


async def test_an_explicit_k_is_kept_to() -> None:
    transport = ScriptedTransport(dict.fromkeys("abcd", "(B)"))
    decided = decision(recruit("a"), recruit("b"), others=("c", "d"))
    answer = _answer(await _events(transport, query(CHOICE, options=Options(k=2)), decided))
    assert answer.explanation is not None
    assert len(answer.explanation["answers"]) == 2


async def test_calls_that_are_spent_leave_no_aggregator() -> None:
    transport = ScriptedTransport(dict.fromkeys("ab", "(B)"))
    asked = query(CHOICE, options=Options(fusion="aggregate", budget=Budget(calls=2)))
    answer = _answer(await _events(transport, asked, decision(recruit("a"), recruit("b"), calls=2)))
    assert answer.explanation is not None
    assert answer.explanation["fusion"]["method"] == "vote"
    assert "no call for an aggregator" in answer.explanation["note"]


def gaining(*recruits: str, calls: int = 10) -> Decision:
    """A decision on a pool in which merging by "a" was right wherever votes were not."""
    trials = [
        Trial(strategy="scripted", confidence=0.4, is_choice=True, vote_right=False, first_right=False, right=True)
        for _ in range(20)
    ]
    decided = decision(recruit("a", 1.2), *map(recruit, recruits), calls=calls)
    return dataclasses.replace(
        decided, pool=dataclasses.replace(decided.pool, synthesis=synthesis.learn({"a": trials}))
    )


async def test_choices_are_merged_where_trials_showed_a_gain_and_the_answer_says_so() -> None:
    transport = ScriptedTransport({"a": "(A)", "b": "(B)", "fuse": "So it is (B)."})
    answer = _answer(await _events(transport, decided=gaining("b")))
    assert answer.text == "So it is (B)."
    assert answer.explanation is not None
    fused = answer.explanation["fusion"]
    assert (fused["method"], fused["expert"]) == ("aggregate", "a")
    assert fused["note"].startswith("merging by a is known to gain here")
    assert fused["gain"] > 0.1


async def test_a_gain_is_forgone_where_the_budget_leaves_no_call() -> None:
    transport = ScriptedTransport({"a": "(A)", "b": "(B)"})
    answer = _answer(await _events(transport, decided=gaining("b", calls=2)))
    assert answer.explanation is not None
    fused = answer.explanation["fusion"]
    assert (fused["method"], fused["gain"]) == ("vote", None)
    assert fused["note"].startswith("the budget left no call for an aggregator")


async def test_a_budget_of_tokens_bounds_every_generation() -> None:
    transport = ScriptedTransport({"a": "x", "b": "y", "c": "z", "fuse": "m"})
    await _events(transport, query(OPEN, options=Options(fusion="aggregate", budget=Budget(tokens=40))))
    assert {request.sampling.max_tokens for request in transport.requests} == {10}


async def test_explain_gives_the_whole_texts() -> None:
    transport = ScriptedTransport(dict.fromkeys("abc", "Because. (B)"))
    answer = _answer(await _events(transport, query(CHOICE, options=Options(explain=True))))
    assert answer.explanation is not None
    assert {each["text"] for each in answer.explanation["answers"]} == {"Because. (B)"}


async def test_an_expert_asked_by_name_streams_its_own_words() -> None:
    transport = ScriptedTransport({"q": "Plants eat light."})
    running = online.answer_from(query(OPEN, max_tokens=7), scripted.expert("a"), transport, deadline_s=time.time() + 5)
    events = [event async for event in running]
    assert _streamed(events) == _answer(events).text == "Plants eat light."
    (request,) = transport.requests
    assert request.sampling.max_tokens == 7
    assert [turn.role for turn in request.messages] == ["system", "user"]


async def test_an_expert_that_cannot_be_loaded_gives_its_place_to_another() -> None:
    broken = Completion(id="x", finish_reason="error", error="no memory", fault="model")
    transport = ScriptedTransport({"a": LoadFailed("no weights"), "b": "(B)", "c": broken, "d": "(B)"})
    answer = _answer(await _events(transport, query(CHOICE, options=Options(k=2)), _decided("ab", "cd")))
    assert answer.explanation is not None
    assert [each["expert"] for each in answer.explanation["recruits"]] == ["b", "d"]
    assert answer.explanation["recruits"][1]["why"] == "scripted; instead of c: its model cannot be loaded"
    assert {each["expert"]: each["error"] for each in answer.explanation["answers"]} == {
        "a": "no weights",
        "b": None,
        "c": "no memory",
        "d": None,
    }
    assert "2 of 2 experts agree" in answer.explanation["note"]


async def test_the_only_recruit_gives_its_place_before_anything_is_streamed() -> None:
    transport = ScriptedTransport({"a": LoadFailed("no weights"), "b": "The answer is (B)."})
    asked = query(CHOICE, options=Options(k=1), temperature=0.1)
    events = await _events(transport, asked, _decided("a", "b"))
    assert _streamed(events) == _answer(events).text == "The answer is (B)."
    assert transport.request_of("b").sampling.temperature == 0.1


async def test_experts_of_a_broken_model_do_not_stand_in_for_each_other() -> None:
    transport = ScriptedTransport({"a": LoadFailed("no weights")})
    decided = _decided("a", "b")
    model = decided.pool.experts["a"].model
    twin = dataclasses.replace(decided.pool.experts["b"], model=model)
    pool = dataclasses.replace(decided.pool, experts={**decided.pool.experts, "b": twin})
    decided = dataclasses.replace(decided, pool=pool)
    with pytest.raises(QueryFailed, match="no weights"):
        await _events(transport, query(CHOICE), decided)
    assert len(transport.requests) == 1


async def test_nobody_stands_in_for_an_expert_that_failed_otherwise() -> None:
    transport = ScriptedTransport({"a": WorkerLost("gone"), "b": "(B)"})
    await _events(transport, query(CHOICE), _decided("ab", "c"))
    assert len(transport.requests) == 2


def _decided(recruits: str, others: str) -> Decision:
    return decision(*map(recruit, recruits), k_all=others, calls=len(recruits) + 1)
