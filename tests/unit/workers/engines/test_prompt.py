"""Messages become prompts, with a chat template or without."""

from workers.engines import prompt
from workers.messages import ChatMessage

SYSTEM = ChatMessage(role="system", content="Be brief.")
USER = ChatMessage(role="user", content="What is light?")


class Words:
    """A tokenizer whose tokens are the lengths of words."""

    bos_token_id = 99

    def __init__(self, chat_template: str | None, *, refuses_system: bool = False) -> None:
        self.chat_template = chat_template
        self._refuses_system = refuses_system
        self.rendered = ""

    def apply_chat_template(self, conversation: list[dict[str, str]], **_: object) -> str:
        if self._refuses_system and any(turn["role"] == "system" for turn in conversation):
            raise ValueError("System role not supported")
        self.rendered = "|".join(f"{turn['role']}:{turn['content']}" for turn in conversation)
        return self.rendered

    def __call__(self, text: str, add_special_tokens: bool = True) -> "Words":
        self.input_ids = [len(word) for word in text.split()]
        return self


def test_a_base_model_is_asked_in_plain_words() -> None:
    assert prompt.plain([SYSTEM, USER]) == "Be brief.\n\nQuestion: What is light?\n\nAnswer:"


def test_a_base_models_prompt_begins_with_bos_once() -> None:
    assert prompt.tokens(Words(None), [USER])[0] == 99
    assert prompt.with_bos([99, 1], 99) == [99, 1]
    assert prompt.with_bos([1], None) == [1]


def test_a_template_that_refuses_a_system_message_gets_it_in_front_of_the_question() -> None:
    tokenizer = Words("template", refuses_system=True)
    prompt.tokens(tokenizer, [SYSTEM, USER])
    assert tokenizer.rendered == "user:Be brief.\n\nWhat is light?"
