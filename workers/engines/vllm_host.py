"""The process that vLLM runs in. The only file that imports vLLM.

vLLM spawns its engine core from here and imports this module again in it, so the core too is tied to its parent.
"""

from workers.engines import lifeline

lifeline.tie()

import asyncio  # noqa: E402  nothing may be imported before the process is tied to its parent
import json  # noqa: E402
import logging  # noqa: E402
import sys  # noqa: E402
from collections.abc import AsyncGenerator, Sequence  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from workers.engines import host, prompt, wire  # noqa: E402
from workers.engines.engine import Computed, Engine, EngineError, ModelError, RequestError  # noqa: E402
from workers.engines.prefill_gate import PrefillGate  # noqa: E402
from workers.messages import Completion, Delta, Request  # noqa: E402

PASSED_ON = frozenset(
    {
        "allowed_token_ids",
        "bad_words",
        "frequency_penalty",
        "ignore_eos",
        "include_stop_str_in_output",
        "logit_bias",
        "min_p",
        "min_tokens",
        "n",
        "presence_penalty",
        "repetition_penalty",
        "skip_special_tokens",
        "stop_token_ids",
        "top_k",
    }
)
"""The parameters of `Sampling.extra` that vLLM takes under the same name."""


ADAPTERS = 8
"""Adapters in an engine at once. vLLM gets a slot more: on a CPU it computes requests without an adapter with the last
slot's weights whenever the batch holds one with an adapter (0.32.0), so there that slot must stay empty."""


ONLINE_PRIORITY, BULK_PRIORITY = 0, 1
"""Of the requests that wait inside vLLM, those with the lower number come first."""


class VllmEngine:
    """vLLM's asynchronous engine. Its schedule is its own; how many requests it gets is the worker's."""

    def __init__(self, start: wire.Start) -> None:
        self._start = start
        self._llm: Any = None
        self._tokenizer: Any = None
        self._adapters: dict[str, int] = {}
        self._computed = Computed()
        self._sleep_bytes: int | None = None
        self._context_tokens = start.model.context_tokens
        self._gate = PrefillGate(start.prefill_tokens) if start.prefill_tokens else None

    @property
    def died(self) -> str | None:
        if self._llm is None or not self._llm.errored:
            return None
        return f"vLLM's engine died: {self._llm.dead_error}"

    @property
    def computed(self) -> Computed:
        return self._computed

    @property
    def sleep_bytes(self) -> int | None:
        return self._sleep_bytes

    async def load(self) -> int:
        from workers import weights  # not at the top: vLLM's own processes import this module and need none of it

        model = self._start.model
        folder = weights.resolve(model.source, revision=model.revision, data_dir=Path(self._start.data_dir))
        self._check_context(folder)
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        options: dict[str, Any] = self._start.options | {"dtype": model.dtype}
        if model.adapter_rank:
            options |= {"enable_lora": True, "max_lora_rank": model.adapter_rank, "max_loras": ADAPTERS + 1}
        arguments = AsyncEngineArgs(
            model=str(folder),
            quantization=model.quantization,
            max_model_len=model.context_tokens,
            tensor_parallel_size=model.tensor_parallel,
            trust_remote_code=model.trust_remote_code,
            max_num_seqs=self._start.sequences,
            scheduling_policy="priority",
            enable_log_requests=False,
            disable_log_stats=False,
            **options,
        )
        counter: Any = self._counter
        self._llm = AsyncLLM.from_engine_args(arguments, stat_loggers=[counter])
        self._tokenizer = self._llm.get_tokenizer()
        if options.get("enable_sleep_mode"):
            self._sleep_bytes = weights.size_bytes(folder)
        return _device_bytes(options) * model.tensor_parallel

    async def generate(self, request: Request, *, stream: bool) -> AsyncGenerator[Delta, None]:
        import vllm.inputs
        from vllm.exceptions import VLLMClientError
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        tokens = prompt.tokens(self._tokenizer, request.messages)
        room = self._context_tokens - len(tokens)
        if room < 1:
            raise RequestError(
                f"the prompt has {len(tokens)} tokens, which leaves no room in the model's context of"
                f" {self._context_tokens}; shorten it or give the model more context_tokens"
            )
        parameters, adapter = self._parameters(request, stream, room), await self._adapter(request)
        if self._gate is not None:
            if stream:
                self._gate.query(len(tokens))
            else:
                await self._gate.bulk(len(tokens))
        outputs = self._llm.generate(
            vllm.inputs.tokens_input(tokens),
            parameters,
            request.id,
            lora_request=adapter,
            priority=ONLINE_PRIORITY if stream else BULK_PRIORITY,
        )
        texts: list[str] = []
        counted = 0
        last: Any = None
        try:
            async for output in outputs:
                last = output
                counted += sum(len(each.token_ids) for each in output.outputs)
                if stream and (text := output.outputs[0].text):
                    texts.append(text)
                    yield Delta(text=text)
        except (VLLMClientError, ValueError, TypeError) as error:
            raise RequestError(str(error)) from error
        except (EngineDeadError, EngineGenerateError) as error:
            raise EngineError(f"vLLM: {type(error).__name__}: {error}") from error
        finally:
            await outputs.aclose()
        if last is None:
            raise EngineError("vLLM ended the request without an output")
        text = "".join(texts) if stream else last.outputs[0].text
        yield Delta(completion=_completion(request.id, text, len(tokens), counted, last.outputs))

    async def sleep(self) -> None:
        await self._llm.sleep(level=1)

    async def wake(self) -> None:
        if not await self._llm.wake_up():
            raise EngineError("vLLM says that it is not wholly awake")

    async def close(self) -> None:
        if self._llm is not None:
            self._llm.shutdown()

    def _check_context(self, folder: Path) -> None:
        """A model asked for more context than it has is refused by vLLM with a page of text; say it in a line."""
        config = json.loads((folder / "config.json").read_text())
        most = config.get("max_position_embeddings")
        if isinstance(most, int) and self._context_tokens > most and not config.get("rope_scaling"):
            raise ModelError(f"context_tokens is {self._context_tokens}, but the model was made for {most} at most")

    def _counter(self, *_: object) -> "_Counter":
        return _Counter(self)

    def count(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Tokens that one step computed."""
        prompt, completion = self._computed
        self._computed = Computed(prompt + prompt_tokens, completion + completion_tokens)
        if self._gate is not None:
            self._gate.step(prompt_tokens)

    def _parameters(self, request: Request, stream: bool, room: int) -> Any:
        from vllm import SamplingParams
        from vllm.exceptions import VLLMClientError
        from vllm.sampling_params import RequestOutputKind

        sampling = request.sampling
        unknown = sorted(sampling.extra.keys() - PASSED_ON)
        if unknown:
            raise RequestError(f"a model that is loaded here does not take the parameter {unknown[0]!r}")
        try:
            return SamplingParams.from_optional(  # unlike the class itself, it takes a logit_bias as JSON has it
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=min(sampling.max_tokens, room),
                stop=[*sampling.stop, *([] if self._tokenizer.chat_template else [prompt.PLAIN_STOP])] or None,
                seed=None if _is_cpu() else sampling.seed,
                structured_outputs=_structure(sampling.response_format),
                output_kind=RequestOutputKind.DELTA if stream else RequestOutputKind.FINAL_ONLY,
                **sampling.extra,
            )
        except (VLLMClientError, ValueError, TypeError) as error:
            raise RequestError(str(error)) from error

    async def _adapter(self, request: Request) -> Any:
        if request.adapter is None:
            return None
        if not self._start.model.adapter_rank:
            raise RequestError(f"adapter {request.adapter}: the model has adapter_rank 0, which turns adapters off")
        from vllm.lora.request import LoRARequest

        from workers import weights

        data_dir = Path(self._start.data_dir)
        try:
            folder = await asyncio.to_thread(weights.resolve, request.adapter, revision=None, data_dir=data_dir)
        except ModelError as error:
            raise RequestError(f"adapter {request.adapter}: {error}") from error
        if _is_cpu() and request.adapter not in self._adapters and len(self._adapters) >= ADAPTERS:
            raise RequestError(f"adapter {request.adapter}: on a CPU one engine takes {ADAPTERS} adapters at most")
        number = self._adapters.setdefault(request.adapter, len(self._adapters) + 1)
        return LoRARequest(lora_name=request.adapter, lora_int_id=number, lora_path=str(folder))


def _is_cpu() -> bool:
    """There vLLM takes prompts in pieces only without seeds: it would rewind the generator of a seeded request, which
    torch's generator for the CPU cannot, and the engine would die (0.32.0: "does not use offset")."""
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def _device_bytes(options: dict[str, Any]) -> int:
    """Memory of one GPU that vLLM took for itself; 0 on a CPU, where the worker measures the processes."""
    from vllm.platforms import current_platform

    share = options.get("gpu_memory_utilization", 0.0)
    return int(current_platform.get_device_total_memory() * share) if current_platform.is_cuda() else 0


class _Counter:
    """What vLLM calls a stat logger: hears of every step, also of those that end no request."""

    def __init__(self, engine: VllmEngine) -> None:
        self._engine = engine

    def record(self, scheduler_stats: Any, iteration_stats: Any, *_: Any, **__: Any) -> None:
        if iteration_stats is not None:
            self._engine.count(iteration_stats.num_prompt_tokens, iteration_stats.num_generation_tokens)

    def log_engine_initialized(self) -> None:
        pass

    def log(self) -> None:
        pass

    def record_sleep_state(self, *_: object) -> None:
        pass


def _completion(request_id: str, text: str, prompt_tokens: int, counted: int, outputs: Sequence[Any]) -> Completion:
    choices: tuple[dict[str, Any], ...] = ()
    if len(outputs) > 1:
        choices = tuple(
            {
                "index": each.index,
                "message": {"role": "assistant", "content": each.text},
                "finish_reason": each.finish_reason,
            }
            for each in outputs
        )
    return Completion(
        id=request_id,
        text=text,
        finish_reason="length" if outputs[0].finish_reason == "length" else "stop",
        prompt_tokens=prompt_tokens,
        completion_tokens=counted,
        choices=choices,
    )


def _structure(response_format: dict[str, Any] | None) -> Any:
    """OpenAI's response_format in vLLM's form."""
    kind = (response_format or {}).get("type", "text")
    if response_format is None or kind == "text":
        return None
    from vllm.sampling_params import StructuredOutputsParams

    if kind == "json_object":
        return StructuredOutputsParams(json_object=True)
    if kind == "json_schema":
        return StructuredOutputsParams(json=(response_format.get("json_schema") or {}).get("schema"))
    raise RequestError(f"response_format of type {kind!r} is not known; text, json_object and json_schema are")


async def _open(start: wire.Start) -> Engine:
    return VllmEngine(start)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s engine %(name)s: %(message)s")
    sys.exit(asyncio.run(host.serve(host.Pipes(), _open)))
