"""Whether a device is lost, by what nvidia-smi says."""

from pathlib import Path

import pytest

from workers import device


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What nvidia-smi does here: a script, to be written."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return tmp_path / "nvidia-smi"


def say(smi: Path, script: str) -> None:
    smi.write_text(f"#!/bin/sh\n{script}\n")
    smi.chmod(0o755)


def test_a_gpu_that_answers_is_there(smi: Path) -> None:
    say(smi, 'test "$3" = --id=0,1 && echo GPU-1 || exit 15')
    assert device.lost("cuda:0,1") is None


def test_a_gpu_that_fell_off_the_bus_is_lost(smi: Path) -> None:
    say(smi, "echo 'GPU is lost.  Reboot the system to recover this GPU'; exit 15")
    lost = device.lost("cuda:0")
    assert lost is not None
    assert "fallen off the bus" in lost
    assert "Reboot the system" in lost


def test_a_question_that_nvidia_smi_does_not_understand_says_nothing_about_the_gpu(smi: Path) -> None:
    say(smi, "exit 6")
    assert device.lost("cuda:0") is None


def test_an_nvidia_smi_that_hangs_stands_before_a_gpu_that_is_lost(smi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "ASK_S", 0.05)
    say(smi, "exec sleep 5")
    assert "does not answer" in (device.lost("cuda:0") or "")


def test_without_a_gpu_or_nvidia_smi_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert device.lost("cpu") is None
    assert device.lost("none") is None
    assert device.lost("cuda:0") is None
