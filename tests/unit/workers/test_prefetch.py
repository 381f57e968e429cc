"""The next model's weights, read ahead."""

import asyncio
import logging
from pathlib import Path

import pytest

from workers.messages import Model
from workers.prefetch import PIECE_BYTES, Prefetcher, read_through


def weights_of(folder: Path, size: int) -> Model:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"x" * size)
    return Model(source=f"path:{folder}")


async def settled(prefetcher: Prefetcher) -> None:
    assert prefetcher._task is not None
    await asyncio.wait([prefetcher._task])


def test_a_file_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"x" * (PIECE_BYTES + 7))
    assert read_through(path) == PIECE_BYTES + 7


async def test_weights_are_read_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    model = weights_of(tmp_path / "model", 3 << 20)
    prefetcher = Prefetcher(tmp_path)
    for _ in range(2):
        prefetcher.begin(model)
        await settled(prefetcher)
    assert [record.message.partition(" of ")[0] for record in caplog.records] == ["prefetched 3 MiB"]


async def test_the_latest_wish_is_kept_while_another_model_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    first, second, third = (weights_of(tmp_path / name, 1 << 20) for name in ("one", "two", "three"))
    prefetcher = Prefetcher(tmp_path)
    for model in (first, second, third):
        prefetcher.begin(model)
        await asyncio.sleep(0)  # the first is being read from here on
    await settled(prefetcher)
    read = [record.message.split(" ")[4] for record in caplog.records]
    assert read == [first.source, third.source]


async def test_models_that_are_resident_or_asleep_are_not_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor one that became so while it waited for its turn."""
    caplog.set_level(logging.INFO)
    first, second = (weights_of(tmp_path / name, 1 << 20) for name in ("one", "two"))
    at_hand = {first.key}
    prefetcher = Prefetcher(tmp_path, is_at_hand=at_hand.__contains__)
    prefetcher.begin(first)
    assert prefetcher._task is None
    at_hand.clear()
    for model in (first, second):
        prefetcher.begin(model)
        await asyncio.sleep(0)
    at_hand.add(second.key)
    await settled(prefetcher)
    assert [record.message.split(" ")[4] for record in caplog.records] == [first.source]


async def test_weights_that_the_cache_cannot_hold_are_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    prefetcher = Prefetcher(tmp_path, available_bytes=lambda: 1 << 20)
    prefetcher.begin(weights_of(tmp_path / "model", 1 << 20))
    await settled(prefetcher)
    assert "do not fit" in caplog.text


async def test_weights_that_are_not_there_only_leave_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    prefetcher = Prefetcher(tmp_path)
    prefetcher.begin(Model(source=f"path:{tmp_path / 'nowhere'}"))
    await settled(prefetcher)
    assert "no model folder" in caplog.text


async def test_models_without_weights_here_are_not_looked_for(tmp_path: Path) -> None:
    prefetcher = Prefetcher(tmp_path)
    prefetcher.begin(Model(source="stub:a"))
    assert prefetcher._task is None
