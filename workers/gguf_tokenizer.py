"""Rebuilds a GGUF file's tokenizer: byte-level BPE (the GPT-2 family) or Gemma's sentencepiece BPE."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from workers.engines.engine import ModelError

CONTROL, USER_DEFINED = 3, 4
"""GGUF's token types: special tokens; ordinary text that is one token."""
SPACE = "▁"
_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
Get = Callable[..., Any]


def write(get: Get, folder: Path, *, context_tokens: int) -> dict[str, Any]:
    """Write tokenizer.json and tokenizer_config.json; returns the ids of the special tokens, as configs have them.

    `get` reads a key of the GGUF file. Raises ModelError for a tokenizer of an unknown kind.
    """
    tokens: list[str] = get("tokenizer.ggml.tokens")
    kind = get("tokenizer.ggml.model")
    if kind == "gpt2":
        tokenizer = _byte_level(tokens, get("tokenizer.ggml.merges"), get("tokenizer.ggml.pre", "default"))
    elif kind == "llama" and not get("tokenizer.ggml.add_space_prefix", True):
        tokenizer = _sentencepiece(tokens, get("tokenizer.ggml.scores"), get("tokenizer.ggml.unknown_token_id", 0))
    else:
        raise ModelError(f"the GGUF file's tokenizer ({kind}) is not known here; use a hub: or path: source")
    types = get("tokenizer.ggml.token_type")
    tokenizer.add_special_tokens([_added(token) for token, kind in zip(tokens, types, strict=True) if kind == CONTROL])
    tokenizer.add_tokens([_added(token) for token, kind in zip(tokens, types, strict=True) if kind == USER_DEFINED])
    ids = {
        f"{name}_token_id": get(f"tokenizer.ggml.{key}_token_id")
        for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))
        if get(f"tokenizer.ggml.{key}_token_id") is not None
    }
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_tokens,
        "clean_up_tokenization_spaces": False,
        **{name.removesuffix("_id"): tokens[number] for name, number in ids.items()},
    }
    if (unknown := get("tokenizer.ggml.unknown_token_id")) is not None:
        config["unk_token"] = tokens[unknown]
    if (template := get("tokenizer.chat_template")) is not None:
        config["chat_template"] = template
    if get("tokenizer.ggml.add_bos_token", False) and "bos_token_id" in ids:
        bos = tokens[ids["bos_token_id"]]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, ids["bos_token_id"])]
        )
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return ids


def merges_by_score(tokens: Sequence[str], scores: Sequence[float]) -> list[tuple[str, str]]:
    """Merges of a sentencepiece BPE model, best first: every way to make a token of two others.

    The order is the one that transformers derives from a sentencepiece model.
    """
    number = {token: index for index, token in enumerate(tokens)}
    ways: list[tuple[float, int, int, str, str]] = []
    for token, score in zip(tokens, scores, strict=True):
        splits = [(token[:at], token[at:]) for at in range(1, len(token))]
        pairs = [(left, right) for left, right in splits if left in number and right in number]
        pairs.sort(key=lambda pair: (number[pair[0]], number[pair[1]]))
        ways += [(score, len(left), len(right), left, right) for left, right in pairs]
    ways.sort(key=lambda way: way[:3], reverse=True)
    return [(left, right) for *_, left, right in ways]


def _byte_level(tokens: Sequence[str], merges: Sequence[str], split: str) -> Tokenizer:
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    splitters: dict[str, Any] = {
        "default": byte_level,
        "gpt-2": byte_level,
        "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level]),
        "llama-bpe": pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_LLAMA3_SPLIT), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        ),
    }
    if split not in splitters:
        raise ModelError(f"the GGUF file's way to split text ({split}) is not known here; use a hub: or path: source")
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=pairs))
    tokenizer.pre_tokenizer = splitters[split]
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def _sentencepiece(tokens: Sequence[str], scores: Sequence[float], unknown: int) -> Tokenizer:
    tokenizer = Tokenizer(
        models.BPE(
            vocab={token: i for i, token in enumerate(tokens)},
            merges=merges_by_score(tokens, scores),
            unk_token=tokens[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def _added(token: str) -> AddedToken:
    return AddedToken(token, normalized=False)
