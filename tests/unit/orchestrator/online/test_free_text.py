"""Multiple choice typed into a chat: read where it is sure, left as text where it is not."""

import pytest

from orchestrator.online import free_text


@pytest.mark.parametrize(
    "text",
    [
        "Which gas do plants take in?\nA. Oxygen\nB. Carbon dioxide\nC. Helium",
        "Which gas do plants take in?\nA) Oxygen\nB) Carbon dioxide\nC) Helium",
        "Which gas do plants take in?\n(A) Oxygen\n(B) Carbon dioxide\n(C) Helium",
        "Which gas do plants take in?\n\n- A: Oxygen\n- B: Carbon dioxide\n- C: Helium\n",
        "Which gas do plants take in? (A) Oxygen (B) Carbon dioxide (C) Helium",
        "Which gas do plants take in? A) Oxygen B) Carbon dioxide C) Helium",
    ],
)
def test_options_are_read_in_every_usual_form(text: str) -> None:
    question = free_text.read(text)
    assert question.text == "Which gas do plants take in?"
    assert question.options == ("Oxygen", "Carbon dioxide", "Helium")


@pytest.mark.parametrize(
    "text",
    [
        "What is the capital of France?",
        "A. Smith and B. Jones wrote a paper. What was it about?",
        "Compare these:\nA. cats\nC. dogs",
        "Rewrite my list:\nA. cats\nB. dogs\n\nIt should sound formal, mention that both are mammals, and be at least "
        "two hundred words long, with a heading for each of them and a conclusion at the end, thank you.",
        "Sort them.\nA. cats\nB. cats",
        "A. cats\nB. dogs",
        "What does plan A) cost?",
        "Grades:\nA. good\nB) bad",
        "First list:\nA. cats\nB. dogs\nSecond list:\nA. mice\nB. rats",
    ],
)
def test_what_only_looks_like_options_stays_text(text: str) -> None:
    question = free_text.read(text)
    assert question.options == ()
    assert question.text == text.strip()


@pytest.mark.parametrize("gap", ["\n\n", "\n"])
def test_an_instruction_after_the_options_belongs_to_the_question(gap: str) -> None:
    question = free_text.read(f"Is it?\nA. Yes\nB. No{gap}Answer with the letter only.")
    assert question.text == "Is it?\nAnswer with the letter only."
    assert question.options == ("Yes", "No")


def test_an_option_may_run_over_several_lines() -> None:
    question = free_text.read("Which?\nA. one\n   and more\nB. two")
    assert question.options == ("one and more", "two")


def test_the_same_text_has_the_same_id() -> None:
    assert free_text.read("Why?").id == free_text.read("Why?").id != free_text.read("How?").id
