import dataclasses
import json
import os
import xml.etree.ElementTree
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from orchestrator import annotation, recruiting
from orchestrator.baselines import Judged
from orchestrator.cli.app import app
from orchestrator.replay import curve, published, recorded, replay
from orchestrator.replay import report as replay_report
from orchestrator.replay.embedding_cache import EmbeddingCache
from orchestrator.replay.replay import Material
from skills.evidence import Floats
from tests.unit.orchestrator import recorded_folder
from tests.unit.orchestrator.made_up import SPECIALISTS

SPLITS = {"train": 240, "test": 120}


def material(folder: Path, **bare: bool) -> Material:
    recorded_folder.write(folder, SPECIALISTS, splits=SPLITS, **bare)
    read = recorded.read(folder, pool="P")
    return replay.material(read, profile=["train"], test=["test"], embed=SPECIALISTS.embed)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return material(tmp_path_factory.mktemp("recorded"))


def test_the_default_strategy_beats_the_best_single_expert(given: Material) -> None:
    outcome = replay.run(given, strategy="posterior", k=3, calls=None, seed=0)
    report = replay_report.build(given, outcome, k=3, seed=0)
    assert report["accuracy"] > report["baselines"]["best_single"] + 0.1
    assert report["versus_best_single"]["ci95"][0] > 0
    assert report["mean_calls"] == 3
    assert report["baselines"]["oracle"] >= report["accuracy"]


@pytest.mark.parametrize("strategy", recruiting.STRATEGIES)
@pytest.mark.parametrize("missing", ["text", "skills", "options"])
def test_every_strategy_runs_whatever_is_missing(tmp_path: Path, strategy: str, missing: str) -> None:
    bare = material(tmp_path, **{missing: False})
    outcome = replay.run(bare, strategy=strategy, k=2, calls=None, seed=0)
    report = replay_report.build(bare, outcome, k=2, seed=0)
    assert 0.2 < report["accuracy"] <= 1
    assert report["mean_calls"] <= 2


def test_the_same_seed_replays_the_same(given: Material) -> None:
    first = replay.run(given, strategy="random", k=2, calls=None, seed=3)
    assert replay.run(given, strategy="random", k=2, calls=None, seed=3).lines == first.lines
    assert replay.run(given, strategy="random", k=2, calls=None, seed=4).lines != first.lines


@pytest.mark.parametrize("calls", [1.0, 2.5, 3.0])
def test_adaptive_calls_never_exceed_their_mean(given: Material, calls: float) -> None:
    outcome = replay.run(given, strategy="adaptive", k=None, calls=calls, seed=0)
    assert outcome.mean_calls <= calls
    for line in outcome.lines:
        recruited = [recruit.expert for recruit in line.recruitment.recruits]
        assert len(set(recruited)) == len(recruited) == line.calls


@pytest.mark.parametrize("strategy", ["posterior", "adaptive", "paper"])
def test_tokens_are_kept_to_in_the_mean(given: Material, strategy: str) -> None:
    assert given.tokens is not None
    one = float(np.nanmean(given.tokens))
    for calls in (1.2, 2.5):
        outcome = replay.run(given, strategy=strategy, tokens=calls * one, seed=0)
        assert outcome.mean_tokens <= calls * one * 1.02
        assert outcome.mean_tokens == pytest.approx(outcome.mean_calls * one, rel=0.1)


def test_the_paper_takes_turns_to_spend_as_many_tokens(given: Material) -> None:
    drawn_from = published.weights(given.evidence, given.asks)
    judged = [
        [Judged(answer=answer or "", correct=right == 1) for answer, right in zip(row, correct, strict=True)]
        for row, correct in zip(given.answers, given.correct, strict=True)
    ]
    tokens = np.full(given.correct.shape, 10, np.float32)
    two, three = (published.credit(drawn_from, judged, k=k, draws=4, seed=0) for k in (2, 3))
    found = published.spending(drawn_from, judged, tokens, mean=25, draws=4, seed=0)
    assert found == pytest.approx((two + three) / 2)


def test_answers_of_experts_that_were_not_recruited_play_no_part(given: Material) -> None:
    """Blot out everybody else's answers: nothing may change."""
    outcome = replay.run(given, strategy="adaptive", k=None, calls=3.0, seed=0)
    blotted = []
    for line, row in zip(outcome.lines, given.answers, strict=True):
        recruited = {recruit.expert for recruit in line.recruitment.recruits}
        names = zip(SPECIALISTS.experts, row, strict=True)
        blotted.append(tuple(answer if name in recruited else "Z" for name, answer in names))
    again = replay.run(
        dataclasses.replace(given, answers=tuple(blotted)), strategy="adaptive", k=None, calls=3.0, seed=0
    )
    assert again.lines == outcome.lines


def test_a_question_of_both_splits_is_taken_out_of_the_profile(tmp_path: Path) -> None:
    recorded_folder.write(tmp_path, SPECIALISTS, splits=SPLITS)
    read = recorded.read(tmp_path, pool="P")
    found = replay.material(read, profile=["train", "test"], test=["test"], embed=SPECIALISTS.embed)
    assert len(found.contaminated) == 120
    assert len(found.evidence.questions) == 240
    with pytest.raises(recorded.RecordedError, match="every question to learn from"):
        replay.material(read, profile=["test"], test=["test"], embed=SPECIALISTS.embed)


def test_forecasts_are_binned_beside_what_came_true() -> None:
    found = replay_report.calibration([0.12, 0.18, 0.9, 0.9], [0, 1, 1, 1])
    assert found["bins"] == [
        {"from": 0.1, "n": 2, "said": 0.15, "was": 0.5},
        {"from": 0.9, "n": 2, "said": 0.9, "was": 1.0},
    ]
    assert found["error"] == pytest.approx(0.225)


def test_the_published_paper_draws_by_summed_marks(given: Material) -> None:
    weights = published.weights(given.evidence, given.asks)
    algebra = [row for row, question in enumerate(given.questions) if question.category == "algebra"]
    assert (weights[algebra].argmax(axis=1) == given.evidence.experts.index("mathy")).all()
    assert (weights >= 0).all()


def test_the_curve_is_a_picture_with_a_dot_per_point() -> None:
    drawn = curve.svg({"a & b": [(1, 0.5), (3, 0.6)]}, levels={"best": 0.4}, title="Accuracy <here>", cost="calls")
    root = xml.etree.ElementTree.fromstring(drawn)
    assert len(root.findall("{http://www.w3.org/2000/svg}circle")) == 2


class Counting:
    def __init__(self) -> None:
        self.texts: list[str] = []

    def embed(self, texts: Sequence[str]) -> Floats:
        self.texts += texts
        return np.array([[len(text), 1] for text in texts], np.float32)


def test_a_text_is_embedded_once_even_by_the_next_process(tmp_path: Path) -> None:
    embedder = Counting()
    EmbeddingCache(tmp_path / "kept.npz", lambda: embedder).embed(["a", "bb", "a"])
    found = EmbeddingCache(tmp_path / "kept.npz", lambda: embedder).embed(["bb", "ccc", "a"])
    assert embedder.texts == ["a", "bb", "ccc"]
    assert found[:, 0].tolist() == [2, 3, 1]


def test_the_command_prints_what_others_rely_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded_folder.write(tmp_path / "recorded", SPECIALISTS, splits=SPLITS)
    monkeypatch.setenv("MUSTER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr(annotation, "embedder", lambda folder: SPECIALISTS)
    wanted = ["--pool", "P", "--profile-split", "train", "--test-split", "test", "--k", "3", "--json"]
    found = CliRunner().invoke(app, ["replay", str(tmp_path / "recorded"), *wanted])
    assert found.exit_code == 0, found.output
    report = json.loads(found.stdout)
    assert report["strategy"] == "posterior"
    assert {"k", "pool", "n", "accuracy", "ci95", "mean_calls", "seconds", "baselines", "versus_paper"} <= set(report)
    assert {"best_single", "random", "majority_all", "paper", "oracle"} <= set(report["baselines"])


@pytest.mark.parametrize(
    "wrong",
    [
        ["--k", "3", "--calls", "2"],
        [],
        ["--k", "3", "--strategy", "psychic"],
        ["--calls", "2", "--tokens", "9"],
        ["--tokens", "90"],
    ],
)
def test_the_command_refuses_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: list[str]) -> None:
    recorded_folder.write(tmp_path / "recorded", SPECIALISTS, splits=SPLITS, text=False)
    monkeypatch.setenv("MUSTER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr(annotation, "embedder", lambda folder: SPECIALISTS)
    options = ["--pool", "P", "--profile-split", "train", "--test-split", "test", *wrong]
    found = CliRunner().invoke(app, ["replay", str(tmp_path / "recorded"), *options])
    assert found.exit_code == 2
    assert len(found.stderr.strip().splitlines()) == 1


RECORDED = os.environ.get("MUSTER_RECORDED", "")


@pytest.mark.skipif(not RECORDED, reason="MUSTER_RECORDED names no folder of recorded answers")
@pytest.mark.timeout(900)
def test_real_answers_are_fused_better_than_the_paper_and_the_best_expert_do() -> None:
    from orchestrator.settings import Settings

    settings = Settings()
    cache = EmbeddingCache(
        settings.data_dir / "replay" / "embeddings.npz", lambda: annotation.embedder(settings.packages_dir)
    )
    real = replay.material(recorded.read(Path(RECORDED), pool="PM"), profile=["train"], test=["dev"], embed=cache.embed)
    outcome = replay.run(real, strategy="posterior", k=3, calls=None, seed=0)
    report = replay_report.build(real, outcome, k=3, seed=0)
    assert report["accuracy"] > 0.52
    assert report["versus_paper"]["ci95"][0] > 0
    assert report["versus_best_single"]["ci95"][0] > 0
    assert report["calibration"]["experts"]["error"] < 0.1
