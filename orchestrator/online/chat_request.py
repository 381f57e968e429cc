"""The body of `POST /v1/chat/completions`, and of a batch's lines: OpenAI's, with the object `muster` beside it."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator import wrong_field
from orchestrator.online import free_text
from orchestrator.online.query import Options, Query, QueryRefused
from workers.messages import ChatMessage

POOL = "muster"
"""The model name that stands for the whole pool."""
TextField = Annotated[str, Field(max_length=4_000_000)]


class TextPart(BaseModel):
    model_config = ConfigDict(extra="ignore")

    type: Literal["text"]
    text: TextField


class Message(BaseModel):
    """One turn. Content is text, whole or in parts."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: TextField | Annotated[list[TextPart], Field(min_length=1, max_length=1000)] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None

    def text(self) -> str:
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content)
        return self.content or ""


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="ignore")

    include_usage: bool = False


class ChatRequest(BaseModel):
    """What OpenAI's clients send. Fields that cannot be honoured are refused by name, never dropped in silence."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "model": "muster",
                    "messages": [
                        {"role": "user", "content": "Which gas do plants take in?\nA. Oxygen\nB. Carbon dioxide"}
                    ],
                    "muster": {"k": 3, "fusion": "vote"},
                }
            ]
        },
    )

    model: str = Field(min_length=1, max_length=200)
    messages: list[Message] = Field(min_length=1, max_length=10_000)
    muster: Options | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1, le=10_000_000)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=10_000_000)
    stop: Annotated[str, Field(min_length=1)] | Annotated[list[str], Field(max_length=16)] | None = None
    seed: int | None = Field(default=None, ge=-(2**63), le=2**63 - 1)
    response_format: dict[str, Any] | None = None
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    n: int | None = Field(default=None, ge=1, le=128)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    logit_bias: dict[str, float] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    functions: list[dict[str, Any]] | None = None
    function_call: str | dict[str, Any] | None = None
    # Accepted because clients send them by default; they change no answer here.
    parallel_tool_calls: bool | None = None
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    modalities: list[Literal["text"]] | None = None

    def overrides(self) -> dict[str, Any]:
        """`Sampling` fields that the client set."""
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(filter(None, self.stop or ()))
        given = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_completion_tokens or self.max_tokens,
            "stop": stop or None,
            "seed": self.seed,
            "response_format": self.response_format,
            "extra": self._extra() or None,
        }
        return {name: value for name, value in given.items() if value is not None}

    def _extra(self) -> dict[str, Any]:
        """What goes to engines that know it."""
        given = {
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "n": self.n if self.n != 1 else None,
            "logprobs": self.logprobs or None,
            "top_logprobs": self.top_logprobs if self.logprobs else None,
            "logit_bias": self.logit_bias or None,
            "tools": self.tools or None,
            "tool_choice": self.tool_choice if self.tools else None,
        }
        return {name: value for name, value in given.items() if value is not None}

    def query(self, query_id: str) -> Query:
        """The query it asks. Raises `QueryRefused` naming the field that stands in the way."""
        is_pool = self.model == POOL
        self._refuse_unsupported(is_pool)
        conversation = self._conversation()
        question = free_text.read(conversation[-1].content)
        return Query(
            id=query_id,
            question=question,
            conversation=conversation,
            expert=None if is_pool else self.model,
            options=self.muster or Options(),
            overrides=self.overrides(),
        )

    def _refuse_unsupported(self, is_pool: bool) -> None:
        if not is_pool and self.muster is not None:
            raise refuse("muster", f"is about the whole pool; {self.model!r} is asked directly")
        for name in ("functions", "function_call"):
            if getattr(self, name):
                raise refuse(name, "is not supported; send tools to an expert that knows them")
        if self.stream and (self.n or 1) > 1:
            raise refuse("n", "must be 1 in a streamed answer")
        if not is_pool:
            return
        if (self.n or 1) > 1:
            raise refuse("n", "must be 1 for the pool; an expert asked by name can give several")
        for name in ("logprobs", "top_logprobs", "logit_bias", "tools", "tool_choice"):
            if getattr(self, name) and getattr(self, name) != "none":
                raise refuse(name, "does not work for the pool; ask an expert by name")

    def _conversation(self) -> tuple[ChatMessage, ...]:
        turns = []
        for number, message in enumerate(self.messages):
            if message.role == "tool" or message.tool_calls:
                raise refuse(f"messages.{number}", "turns of tools are not supported yet")
            text = message.text().replace("\0", "")
            if message.role == "user" and not text.strip():
                raise refuse(f"messages.{number}.content", "is empty: there is nothing to answer")
            role = "system" if message.role == "developer" else message.role
            if text.strip():
                turns.append(ChatMessage(role=role, content=text))
        if not turns or turns[-1].role != "user":
            raise refuse("messages", "must end with what the user asks (role 'user')")
        return tuple(turns)


def refuse(param: str, message: str) -> QueryRefused:
    return QueryRefused(f"{param} {message}", param=param, code="unsupported_value")


def read(body: Mapping[str, Any]) -> ChatRequest:
    """A body that is known to be a JSON object. Raises `QueryRefused` for its first wrong field."""
    try:
        return ChatRequest.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        wrong = wrong_field.describe(first, first["loc"])
        raise QueryRefused(wrong.message, param=wrong.param, code=wrong.code) from None
