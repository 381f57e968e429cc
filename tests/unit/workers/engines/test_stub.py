"""The stub engine answers the same to the same, and knows what it is told to know."""

from pathlib import Path

import pytest

from workers.engines.engine import EngineError, ModelError, RequestError
from workers.engines.stub import StubEngine, StubOptions
from workers.messages import ChatMessage, Completion, Model, Request, Sampling

QUESTION = "What is 2 + 3? [stub:gold=B][stub:skill=arith]\nA. 4\nB. 5\nC. 6"


def asked(text: str, *, seed: int = 0, max_tokens: int = 100) -> Request:
    message = ChatMessage(role="user", content=text)
    return Request(id="r", messages=(message,), sampling=Sampling(seed=seed, max_tokens=max_tokens))


async def generate(source: str, request: Request) -> Completion:
    engine = StubEngine(Model(source=source))
    await engine.load()
    deltas = [delta async for delta in engine.generate(request, stream=False)]
    assert deltas[-1].completion is not None
    return deltas[-1].completion


async def test_what_it_is_told_to_say_it_says_to_everything() -> None:
    assert (await generate("stub:a?says=hmm", asked(QUESTION))).text == "hmm"
    assert (await generate("stub:a?says=", asked(QUESTION))).text == ""
    endless = await generate("stub:a?says=and+so+on&endless=1", asked(QUESTION))
    assert (endless.finish_reason, endless.completion_tokens) == ("length", asked(QUESTION).sampling.max_tokens)


async def test_its_journal_has_the_start_of_each_request(tmp_path: Path) -> None:
    journal = tmp_path / "starts"
    for _ in range(2):
        await generate(f"stub:a?journal={journal}", asked(QUESTION))
    times, ids = zip(*(line.split() for line in journal.read_text().splitlines()), strict=True)
    assert list(times) == sorted(times, key=float)
    assert set(ids) == {asked(QUESTION).id}


async def share_right(source: str, question: str) -> float:
    answers = [(await generate(source, asked(question, seed=seed))).text for seed in range(200)]
    return sum("(B)" in answer for answer in answers) / len(answers)


async def test_the_same_request_is_answered_the_same() -> None:
    first, second = [await generate("stub:a", asked("Hello")) for _ in range(2)]
    assert first == second
    assert first.text != (await generate("stub:b", asked("Hello"))).text


async def test_it_is_right_as_often_as_its_options_say() -> None:
    source = "stub:a?good=algebra,arith&p=0.9&q=0.3"
    assert await share_right(source, QUESTION) == pytest.approx(0.9, abs=0.07)
    assert await share_right(source, QUESTION.replace("arith", "law")) == pytest.approx(0.3, abs=0.1)


async def test_merging_may_be_another_strength() -> None:
    merging = QUESTION + "\n\n<answer-0f 1>\nThe answer is (A).\n</answer-0f 1>"
    assert await share_right("stub:a?q=0&merges=1", merging) == 1
    assert await share_right("stub:a?q=0&merges=1", QUESTION) == 0
    assert await share_right("stub:a?q=1", merging) == 1


async def test_a_wrong_answer_is_one_of_the_other_letters() -> None:
    assert (await generate("stub:a?q=0", asked(QUESTION))).text in ("The answer is (A).", "The answer is (C).")


async def test_a_free_form_answer_is_boxed() -> None:
    assert (await generate("stub:a?q=1", asked("What is 6 * 7? [stub:gold=42]"))).text.endswith("\\boxed{42}.")


async def test_max_tokens_cuts_the_answer() -> None:
    completion = await generate("stub:a", asked("Hello", max_tokens=3))
    assert (completion.finish_reason, completion.completion_tokens) == ("length", 3)


async def test_it_says_what_it_is_told() -> None:
    assert (await generate("stub:a", asked("[stub:say=algebra, geometry]"))).text == "algebra, geometry"


async def test_asked_for_skills_it_names_those_of_the_mark() -> None:
    asked_for = asked("Name 2 to 5 skills.\n\nQuestion:\nx + 1 = 2? [stub:skill=algebra,arith]\n\nSkills:")
    assert (await generate("stub:a", asked_for)).text == "algebra, arith"


async def test_a_streamed_answer_comes_in_pieces_that_make_the_whole() -> None:
    engine = StubEngine(Model(source="stub:a?tokens_per_s=1000"))
    deltas = [delta async for delta in engine.generate(asked("Hello"), stream=True)]
    assert deltas[-1].completion is not None
    assert "".join(delta.text for delta in deltas) == deltas[-1].completion.text


async def test_marks_make_trouble() -> None:
    with pytest.raises(RequestError):
        await generate("stub:a", asked("[stub:error]"))
    with pytest.raises(EngineError):
        await generate("stub:a", asked("[stub:die]"))


async def test_a_prompt_beyond_the_context_is_a_bad_request() -> None:
    with pytest.raises(RequestError, match="context"):
        await generate("stub:a?context=2", asked("one two three"))


async def test_a_load_fails_if_it_is_to_fail() -> None:
    with pytest.raises(ModelError, match="broken"):
        await StubEngine(Model(source="stub:a?fail_load=broken")).load()


def test_an_option_that_does_not_exist_is_named() -> None:
    with pytest.raises(ModelError, match="speed"):
        StubOptions.read("stub:a?speed=9")
