"""How the embedder comes into a process."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from orchestrator import annotation
from skills.embed import Embedder


def test_threads_that_ask_first_together_load_the_embedder_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    loads: list[Path] = []

    def load(folder: Path) -> object:
        loads.append(folder)
        Event().wait(0.05)  # long enough for another thread to come in, were it let
        return object()

    monkeypatch.setattr(Embedder, "load", load)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(annotation.embedder, [tmp_path] * 4))
    assert loads == [tmp_path]
    assert len(set(map(id, found))) == 1
