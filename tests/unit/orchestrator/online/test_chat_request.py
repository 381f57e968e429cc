"""What a chat request may hold, and which field is named where it may not."""

import pytest
from pydantic import ValidationError

from orchestrator.online.chat_request import ChatRequest
from orchestrator.online.query import QueryRefused

USER = {"role": "user", "content": "Why?"}


def _query(**fields: object):  # type: ignore[no-untyped-def]
    return ChatRequest.model_validate({"model": "muster", "messages": [USER], **fields}).query("q")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"logit_bias": {"1": 2}}, "logit_bias"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"messages": [{"role": "user", "content": "  "}]}, "messages.0.content"),
        ({"messages": [USER, {"role": "assistant", "content": "Because."}]}, "messages"),
        ({"messages": [{"role": "system", "content": "Be brief."}]}, "messages"),
        ({"messages": [USER, {"role": "tool", "content": "x", "tool_call_id": "1"}, USER]}, "messages.1"),
        ({"model": "solo", "muster": {"k": 1}}, "muster"),
        ({"model": "solo", "n": 2, "stream": True}, "n"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(fields: dict[str, object], param: str) -> None:
    with pytest.raises(QueryRefused) as caught:
        _query(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize(
    "fields",
    [
        {"colour": "red"},
        {"muster": {"kk": 1}},
        {"muster": {"k": 0}},
        {"muster": {"budget": {"second": 1}}},
        {"muster": {"experts": []}},
        {"temperature": 3},
        {"messages": []},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        {"messages": [{"role": "owner", "content": "x"}]},
    ],
)
def test_wrong_and_unknown_fields_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        _query(**fields)


def test_an_expert_is_passed_what_its_engine_may_know() -> None:
    query = _query(model="solo", n=2, logprobs=True, top_logprobs=3, presence_penalty=0.5, temperature=0, seed=4)
    assert query.overrides == {
        "temperature": 0,
        "seed": 4,
        "extra": {"n": 2, "logprobs": True, "top_logprobs": 3, "presence_penalty": 0.5},
    }


def test_the_last_user_message_is_the_question_and_the_rest_its_context() -> None:
    turns = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "Hi."},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": [{"type": "text", "text": "Which?\nA. this"}, {"type": "text", "text": "B. that"}]},
    ]
    query = _query(messages=turns)
    assert [turn.role for turn in query.conversation] == ["system", "user", "assistant", "user"]
    assert query.question.text == "Which?"
    assert query.question.options == ("this", "that")


def test_the_newer_name_for_max_tokens_counts() -> None:
    assert _query(max_completion_tokens=5, max_tokens=9).overrides["max_tokens"] == 5
    assert _query(max_tokens=9, stop="END").overrides == {"max_tokens": 9, "stop": ("END",)}


def test_what_clients_send_by_habit_is_taken() -> None:
    habits = {
        "user": "u",
        "store": False,
        "metadata": {"a": "b"},
        "parallel_tool_calls": True,
        "n": 1,
        "logprobs": False,
    }
    assert _query(**habits).overrides == {}
