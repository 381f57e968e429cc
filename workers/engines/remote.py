"""Any OpenAI-compatible server as an engine, over httpx."""

import asyncio
import json
import os
import random
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import httpx
import httpx_aiohttp

from workers.engines.engine import Computed, EngineError, ModelError, RequestError
from workers.messages import Completion, Delta, Model, Request

CONNECT_S = 10.0
READ_S = 300.0
"""Longest silence: an answer that is not streamed may take this long."""
TRIES = 4
"""Tries of a request that is refused for now (429, 5xx, no connection)."""
BACK_OFF_S = 0.5
BACK_OFF_MOST_S = 30.0
CONNECTIONS = 256
_WHOLE_ONLY = frozenset({"n", "logprobs", "top_logprobs", "tools", "tool_choice", "functions"})
"""Parameters whose answer is more than one text: asked for in one piece, kept in `Completion.choices`."""


class RemoteEngine:
    """One model of one server. Several requests share its connections; retries honour Retry-After."""

    def __init__(self, model: Model, transport: httpx.AsyncBaseTransport | None = None) -> None:
        """`transport` replaces the network."""
        self._model = model
        self._url = model.source.rstrip("/") + "/chat/completions"
        self._closed = False
        self._computed = Computed()
        self._transport = transport
        self._client: httpx.AsyncClient | None = None

    @property
    def died(self) -> str | None:
        return "the engine was closed" if self._closed else None

    @property
    def computed(self) -> Computed:
        return self._computed

    @property
    def sleep_bytes(self) -> int | None:
        return None

    async def load(self) -> int:
        """Nothing is loaded here; only the settings are looked at."""
        headers = {}
        if self._model.api_key_env is not None:
            key = os.environ.get(self._model.api_key_env)
            if not key:
                raise ModelError(f"the environment variable {self._model.api_key_env} is not set in the worker")
            headers["Authorization"] = f"Bearer {key}"
        if not self._model.remote_name:
            raise ModelError(f"the model at {self._model.source} has no remote_name: say which model to ask for")
        limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
        # httpx's own transport collapses at 64 concurrent requests; aiohttp's does not.
        transport = self._transport or httpx_aiohttp.AiohttpTransport(limits=limits)
        timeout = httpx.Timeout(READ_S, connect=CONNECT_S)
        self._client = httpx.AsyncClient(headers=headers, transport=transport, timeout=timeout)
        return 0

    async def generate(self, request: Request, *, stream: bool) -> AsyncGenerator[Delta, None]:
        if self._client is None or self._closed:
            raise EngineError("the engine is not open")
        if request.adapter is not None:
            raise RequestError("adapters are for models that are loaded here, not for remote ones")
        body = self._body(request)
        if not stream or _WHOLE_ONLY & request.sampling.extra.keys():
            completion = _whole(request.id, await self._ask(body))
            self._count(completion)
            if stream and completion.text:
                yield Delta(text=completion.text)
            yield Delta(completion=completion)
            return
        async for delta in self._stream(request.id, body):
            if delta.completion is not None:
                self._count(delta.completion)
            yield delta

    def _count(self, completion: Completion) -> None:
        prompt, done = self._computed
        self._computed = Computed(prompt + completion.prompt_tokens, done + completion.completion_tokens)

    async def sleep(self) -> None:
        raise EngineError("a remote model has nothing to keep in memory")

    async def wake(self) -> None:
        raise EngineError("a remote model has nothing to keep in memory")

    async def close(self) -> None:
        self._closed = True
        if self._client is not None:
            await self._client.aclose()

    def _body(self, request: Request) -> dict[str, Any]:
        sampling = request.sampling
        body: dict[str, Any] = {
            "model": self._model.remote_name,
            "messages": [message.model_dump() for message in request.messages],
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
        }
        if "max_completion_tokens" not in sampling.extra:
            body["max_tokens"] = sampling.max_tokens
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        if sampling.response_format is not None:
            body["response_format"] = sampling.response_format
        return body | sampling.extra

    async def _ask(self, body: dict[str, Any]) -> dict[str, Any]:
        response = await self._open(body)
        try:
            content = await response.aread()
            answer = json.loads(content)
        except httpx.TransportError as error:
            raise EngineError(f"{self._url}: {_told(error)}") from error
        except ValueError:
            raise EngineError(f"{self._url} answered with something that is not JSON") from None
        finally:
            await response.aclose()
        if not isinstance(answer, dict) or not answer.get("choices"):
            raise EngineError(f"{self._url} answered without choices")
        return answer

    async def _stream(self, request_id: str, body: dict[str, Any]) -> AsyncIterator[Delta]:
        response = await self._open(body | {"stream": True, "stream_options": {"include_usage": True}})
        texts: list[str] = []
        finish: str | None = None
        usage: dict[str, Any] = {}
        try:
            async for event in _events(response):
                if "error" in event:
                    raise EngineError(f"{self._url}: {_message(event)}")
                usage = event.get("usage") or usage
                for choice in event.get("choices", []):
                    finish = choice.get("finish_reason") or finish
                    if text := (choice.get("delta") or {}).get("content"):
                        texts.append(text)
                        yield Delta(text=text)
        except httpx.TransportError as error:
            raise EngineError(f"{self._url} broke off in mid-answer: {_told(error)}") from error
        except ValueError:
            raise EngineError(f"{self._url} sent an event that is not JSON") from None
        finally:
            await response.aclose()
        if finish is None:
            raise EngineError(f"{self._url} broke off in mid-answer")
        yield Delta(
            completion=Completion(
                id=request_id,
                text="".join(texts),
                finish_reason="length" if finish == "length" else "stop",
                prompt_tokens=usage.get("prompt_tokens", 0),
                completion_tokens=usage.get("completion_tokens", len(texts)),
            )
        )

    async def _open(self, body: dict[str, Any]) -> httpx.Response:
        """A successful response, its body not read yet. What is refused for now is tried again."""
        assert self._client is not None
        trouble = ""
        for attempt in range(TRIES):
            wait_s = min(BACK_OFF_S * 2**attempt, BACK_OFF_MOST_S) * random.uniform(0.5, 1.0)
            try:
                request = self._client.build_request("POST", self._url, json=body)
                response = await self._client.send(request, stream=True)
            except httpx.ReadTimeout:
                raise EngineError(f"{self._url} said nothing for {READ_S:.0f} s") from None
            except httpx.TransportError as error:
                trouble = _told(error)
            except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                raise ModelError(f"{self._url}: {error}") from None
            else:
                if response.is_success:
                    return response
                trouble = await _refusal(response, self._url)
                wait_s = max(wait_s, min(_retry_after_s(response), BACK_OFF_MOST_S))
            if attempt + 1 < TRIES:
                await asyncio.sleep(wait_s)
        raise EngineError(f"{self._url}: {trouble} ({TRIES} tries)")


async def _refusal(response: httpx.Response, url: str) -> str:
    """What the server says against the request. Raises unless trying again may help."""
    status = response.status_code
    try:
        said = _message(json.loads(await response.aread()))
    except (ValueError, httpx.TransportError):
        said = response.reason_phrase
    finally:
        await response.aclose()
    told = f"{url} answered {status}: {said}"
    if status in (401, 403, 404):
        raise ModelError(told)
    if status < 500 and status not in (408, 409, 425, 429):
        raise RequestError(told)
    return f"{status}: {said}"


async def _events(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """The JSON of server-sent events, until `[DONE]`."""
    async for line in response.aiter_lines():
        if line.startswith("data:"):
            data = line.removeprefix("data:").strip()
            if data == "[DONE]":
                return
            event = json.loads(data)
            if isinstance(event, dict):
                yield event


def _whole(request_id: str, answer: dict[str, Any]) -> Completion:
    choices = tuple(answer["choices"])
    usage = answer.get("usage") or {}
    message = choices[0].get("message") or {}
    plain = len(choices) == 1 and not choices[0].get("logprobs") and not message.get("tool_calls")
    return Completion(
        id=request_id,
        text=message.get("content") or "",
        finish_reason="length" if choices[0].get("finish_reason") == "length" else "stop",
        prompt_tokens=usage.get("prompt_tokens", 0),
        completion_tokens=usage.get("completion_tokens", 0),
        choices=() if plain else choices,
    )


def _retry_after_s(response: httpx.Response) -> float:
    """Seconds the server asks to wait; 0 if it names none (or a date, which servers of this kind do not)."""
    try:
        return max(0.0, float(response.headers.get("retry-after", 0.0)))
    except ValueError:
        return 0.0


def _message(answer: object) -> str:
    """The text of an error in OpenAI's shape, or whatever there is."""
    error = answer.get("error", answer) if isinstance(answer, dict) else answer
    text = error.get("message", error) if isinstance(error, dict) else error
    return str(text)[:500]


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
