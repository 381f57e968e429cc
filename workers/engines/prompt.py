"""Renders messages into the tokens of a prompt, by the model's chat template or without one."""

from collections.abc import Sequence
from typing import Any

from workers.engines.engine import RequestError
from workers.messages import ChatMessage

PLAIN_STOP = "\n\nQuestion:"
"""Where a base model, done with its answer, would go on to ask itself the next question."""
_SPEAKERS = {"user": "Question", "assistant": "Answer"}


def tokens(tokenizer: Any, messages: Sequence[ChatMessage]) -> list[int]:
    """The token ids of a prompt that the assistant is to answer. `tokenizer`: of transformers."""
    if not tokenizer.chat_template:
        return with_bos(tokenizer(plain(messages)).input_ids, tokenizer.bos_token_id)
    try:
        text = render(tokenizer, messages)
    except Exception as error:
        # Many templates refuse a system message; what it says still has to be said.
        folded = without_system(messages)
        if folded == tuple(messages):
            raise RequestError(f"the model's chat template refuses these messages: {error}") from error
        try:
            text = render(tokenizer, folded)
        except Exception as again:
            raise RequestError(f"the model's chat template refuses these messages: {again}") from again
    # The template writes the special tokens itself.
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def render(tokenizer: Any, messages: Sequence[ChatMessage]) -> str:
    """The text that the chat template makes. Raises whatever the template raises."""
    conversation = [{"role": message.role, "content": message.content} for message in messages]
    return str(tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True))


def plain(messages: Sequence[ChatMessage]) -> str:
    """A prompt for a base model, which goes on with a text: instructions, questions and answers, then its turn."""
    parts = [
        f"{_SPEAKERS[message.role]}: {message.content}" if message.role in _SPEAKERS else message.content
        for message in messages
    ]
    return "\n\n".join([*parts, "Answer:"])


def without_system(messages: Sequence[ChatMessage]) -> tuple[ChatMessage, ...]:
    """The same messages with system messages put in front of the first user message."""
    instructions = [message.content for message in messages if message.role == "system"]
    rest = [message for message in messages if message.role != "system"]
    for index, message in enumerate(rest):
        if instructions and message.role == "user":
            rest[index] = message.model_copy(update={"content": "\n\n".join([*instructions, message.content])})
            break
    return tuple(rest)


def with_bos(ids: Sequence[int], bos: int | None) -> list[int]:
    """The ids with the beginning-of-sequence token in front, once: base models answer nonsense without it."""
    if bos is None or (ids and ids[0] == bos):
        return list(ids)
    return [bos, *ids]
