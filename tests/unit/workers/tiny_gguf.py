"""Writes a tiny llama as GGUF, as llama.cpp's converter would from the checkpoint that is handed in."""

from pathlib import Path

import gguf
import numpy as np

from workers.gguf_folder import Array

HEADS, KV_HEADS, HIDDEN, INNER, LAYERS = 4, 2, 64, 96, 2
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "a", "b", "c", "ab", "abc", "Ġ", "1", "2"]
MERGES = ["a b", "ab c"]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"


def permuted(values: Array, heads: int) -> Array:
    """llama.cpp's order of the rows of a q or k projection."""
    half = values.shape[0] // heads // 2
    return values.reshape(heads, 2, half, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def checkpoint(seed: int = 0) -> dict[str, Array]:
    """Random weights under their names in Hugging Face form, float32."""
    draw = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (len(TOKENS), HIDDEN),
        "model.norm.weight": (HIDDEN,),
    }
    head = HIDDEN // HEADS
    for layer in range(LAYERS):
        start = f"model.layers.{layer}."
        shapes |= {
            f"{start}input_layernorm.weight": (HIDDEN,),
            f"{start}post_attention_layernorm.weight": (HIDDEN,),
            f"{start}self_attn.q_proj.weight": (HIDDEN, HIDDEN),
            f"{start}self_attn.k_proj.weight": (KV_HEADS * head, HIDDEN),
            f"{start}self_attn.v_proj.weight": (KV_HEADS * head, HIDDEN),
            f"{start}self_attn.o_proj.weight": (HIDDEN, HIDDEN),
            f"{start}mlp.gate_proj.weight": (INNER, HIDDEN),
            f"{start}mlp.up_proj.weight": (INNER, HIDDEN),
            f"{start}mlp.down_proj.weight": (HIDDEN, INNER),
        }
    return {name: draw.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write(path: Path, weights: dict[str, Array], *, architecture: str = "llama") -> None:
    """Matrices in Q8_0, vectors in float32."""
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_merges(MERGES)
    writer.add_token_types([3, 3, 3] + [1] * (len(TOKENS) - 3))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)
    for name, values in weights.items():
        short = name.removesuffix(".weight")
        layer, _, inner = short.removeprefix("model.layers.").partition(".")
        new = f"blk.{layer}.{NAMES[inner]}" if short.startswith("model.layers.") else NAMES[short]
        if new.endswith("attn_q"):
            values = permuted(values, HEADS)
        if new.endswith("attn_k"):
            values = permuted(values, KV_HEADS)
        if values.ndim == 1:
            writer.add_tensor(f"{new}.weight", values)
        else:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(f"{new}.weight", gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
