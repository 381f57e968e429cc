"""Turns a GGUF file into a folder in Hugging Face form: config, tokenizer, chat template, weights in bfloat16.

Direct: gguf, numpy and tokenizers only, a third of the time that transformers takes. It knows the architectures
in `ARCHITECTURES` and refuses others.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from workers import gguf_tokenizer
from workers.engines.engine import ModelError

Array = npt.NDArray[Any]
Config = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One weight on its way: its name there, and how to get its values (row-major, float32)."""

    name: str
    shape: tuple[int, ...]
    values: Callable[[], Array]


class Header:
    """The metadata of a GGUF file."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader
        self.architecture: str = self.get("general.architecture")

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key."""
        field = self._reader.fields.get(key)
        return default if field is None else field.contents()

    def own(self, key: str, default: Any = None) -> Any:
        """The value of a key of the architecture. Raises ModelError where it is missing and has no default."""
        value = self.get(f"{self.architecture}.{key}", default)
        if value is None:
            raise ModelError(f"the GGUF file lacks {self.architecture}.{key}")
        return value


def write(source: Path, folder: Path) -> None:
    """Fill `folder` from the GGUF file `source`. Raises ModelError if the file is of a kind that is not known."""
    try:
        reader = gguf.GGUFReader(source)
    except (ValueError, IndexError) as error:
        raise ModelError(f"{source.name} is no GGUF file: {error}") from error
    header = Header(reader)
    if header.architecture not in ARCHITECTURES:
        raise ModelError(
            f"{source.name}: the architecture {header.architecture} is not known here"
            f" ({', '.join(ARCHITECTURES)} are); use a hub: or path: source in Hugging Face form"
        )
    architecture = ARCHITECTURES[header.architecture]
    config = architecture.config(header)
    tensors = [_tensor(each, architecture, config) for each in reader.tensors if each.name != "rope_freqs.weight"]
    config["tie_word_embeddings"] = all(tensor.name != "lm_head.weight" for tensor in tensors)
    config["vocab_size"] = next(each.shape[0] for each in tensors if each.name == "model.embed_tokens.weight")
    tokens = gguf_tokenizer.write(header.get, folder, context_tokens=config["max_position_embeddings"])
    _write_json(folder / "config.json", config | tokens)
    _write_json(folder / "generation_config.json", tokens)
    write_safetensors(folder / "model.safetensors", tensors)


def write_safetensors(path: Path, tensors: list[Tensor]) -> None:
    """Write tensors in bfloat16, one after another: no more than one is in memory."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        size = 2 * int(np.prod(tensor.shape))
        entries[tensor.name] = {"dtype": "BF16", "shape": tensor.shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for tensor in tensors:
            file.write(to_bfloat16(tensor.values()).tobytes())


def to_bfloat16(values: Array) -> npt.NDArray[np.uint16]:
    """Float32 values as the bits of bfloat16, rounded to nearest, ties to even. Same shape."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounding = ((bits >> 16) & 1) + np.uint32(0x7FFF)
    return ((bits + rounding) >> 16).astype(np.uint16)


def unpermuted(values: Array, heads: int) -> Array:
    """Undo llama.cpp's order of rotary pairs in the rows of a q or k projection, (heads * size, hidden)."""
    half = values.shape[0] // heads // 2
    return values.reshape(heads, half, 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def _llama_config(header: Header) -> Config:
    heads = header.own("attention.head_count")
    hidden = header.own("embedding_length")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "head_dim": header.own("attention.key_length", hidden // heads),
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        **_shared_config(header),
    }


def _llama_values(name: str, values: Array, config: Config) -> Array:
    if name.endswith("attn_q.weight"):
        return unpermuted(values, config["num_attention_heads"])
    if name.endswith("attn_k.weight"):
        return unpermuted(values, config["num_key_value_heads"])
    return values


def _gemma3_config(header: Header) -> Config:
    head_dim = header.own("attention.key_length")
    return {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "head_dim": head_dim,
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "query_pre_attn_scalar": head_dim,
        "sliding_window": header.own("attention.sliding_window"),
        "sliding_window_pattern": 6,
        "rope_local_base_freq": 10_000.0,
        **_shared_config(header),
    }


def _gemma3_values(name: str, values: Array, config: Config) -> Array:
    # GGUF stores a norm's factor, Gemma's checkpoint what is added to 1.
    return values - 1 if name.endswith("norm.weight") else values


def _shared_config(header: Header) -> Config:
    heads = header.own("attention.head_count")
    return {
        "hidden_size": header.own("embedding_length"),
        "intermediate_size": header.own("feed_forward_length"),
        "num_hidden_layers": header.own("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": header.own("attention.head_count_kv", heads),
        "max_position_embeddings": header.own("context_length"),
        # Stored as float32: 9.99999997e-07 was 1e-06.
        "rms_norm_eps": float(f"{header.own('attention.layer_norm_rms_epsilon'):.6g}"),
        "rope_theta": float(header.own("rope.freq_base", 10_000.0)),
        "torch_dtype": "bfloat16",
        # Whose names these are. Without it transformers takes every tokenizer for one of Mistral's broken ones.
        "transformers_version": "4.57.0",
    }


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """How one family of models is written down in GGUF and in a checkpoint."""

    config: Callable[[Header], Config]
    values: Callable[[str, Array, Config], Array]
    """GGUF name, values, config -> values."""
    layer_names: dict[str, str]
    """Name within a layer in GGUF -> in the checkpoint."""


_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
ARCHITECTURES = {
    "llama": Architecture(
        config=_llama_config,
        values=_llama_values,
        layer_names=_LAYER_NAMES | {"ffn_norm": "post_attention_layernorm"},
    ),
    "gemma3": Architecture(
        config=_gemma3_config,
        values=_gemma3_values,
        layer_names=_LAYER_NAMES
        | {
            "attn_q_norm": "self_attn.q_norm",
            "attn_k_norm": "self_attn.k_norm",
            "post_attention_norm": "post_attention_layernorm",
            "ffn_norm": "pre_feedforward_layernorm",
            "post_ffw_norm": "post_feedforward_layernorm",
        },
    ),
}
_TOP_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.weight")


def _tensor(raw: Any, architecture: Architecture, config: Config) -> Tensor:
    shape = tuple(int(size) for size in reversed(raw.shape))

    def values() -> Array:
        whole = gguf.dequantize(raw.data, raw.tensor_type).astype(np.float32, copy=False).reshape(shape)
        return architecture.values(raw.name, whole, config)

    return Tensor(name=_name(raw.name, architecture), shape=shape, values=values)


def _name(name: str, architecture: Architecture) -> str:
    if name in _TOP_NAMES:
        return _TOP_NAMES[name]
    layer = _LAYER.fullmatch(name)
    if layer is None or layer[2] not in architecture.layer_names:
        raise ModelError(f"the GGUF file holds a tensor that is not known: {name}")
    return f"model.layers.{layer[1]}.{architecture.layer_names[layer[2]]}.weight"


def _write_json(path: Path, value: Config) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
