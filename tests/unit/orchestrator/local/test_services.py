"""Which workers a local Muster starts: on which GPUs, with which arguments."""

from pathlib import Path

import pytest

from orchestrator.local import services
from orchestrator.settings import Settings

FOUR = {0: "GPU-0aa1", 1: "GPU-0ab2", 2: "GPU-1cc3", 3: "GPU-1dd4"}


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        (None, (0, 1, 2, 3)),
        ("2,3", (2, 3)),
        ("3, 1", (3, 1)),
        ("GPU-1cc3,0", (2, 0)),
        ("GPU-1d", (3,)),
        ("1,1", (1,)),
        ("", ()),
        ("-1", ()),
        ("2,-1,3", (2,)),
    ],
)
def test_workers_get_the_gpus_that_are_visible_under_their_own_numbers(
    wanted: str | None, chosen: tuple[int, ...]
) -> None:
    assert services.visible_gpus(wanted, FOUR) == chosen


@pytest.mark.parametrize("wanted", ["4", "GPU-0a", "GPU-9", "MIG-1cc3", "cuda:1"])
def test_a_gpu_that_is_not_there_or_not_one_is_named(wanted: str) -> None:
    with pytest.raises(services.UnknownGpu, match=wanted):
        services.visible_gpus(wanted, FOUR)


def test_devices_are_those_nvidia_smi_lists_and_cuda_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi = tmp_path / "nvidia-smi"
    listed = "\n".join(f"{number}, {uuid}" for number, uuid in FOUR.items())
    smi.write_text(f"#!/bin/sh\ntest \"$1\" = --query-gpu=index,uuid && cat <<'END'\n{listed}\nEND\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(services, "has_cuda_build", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-1dd4")
    assert services.devices() == ("cuda:2", "cuda:3")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert services.devices() == ("cuda:0", "cuda:1", "cuda:2", "cuda:3")
    monkeypatch.setattr(services, "has_cuda_build", lambda: False)
    assert services.devices() == ("cpu",)


def test_worker_arguments_go_to_every_worker_with_a_device() -> None:
    layout = services.Layout(devices=("cuda:2", "cuda:3"), worker_args=("--residents", "2"))
    own = {name: list(service.arguments) for name, service in services.own_services(Settings(), layout).items()}
    for name, device in (("w0", "cuda:2"), ("w1", "cuda:3")):
        assert own[f"worker {name}"][:5] == ["workers", "--name", name, "--device", device]
        assert own[f"worker {name}"][-2:] == ["--residents", "2"]
    assert [name for name, arguments in own.items() if "--residents" in arguments] == ["worker w0", "worker w1"]


def test_the_workers_own_parser_judges_its_arguments() -> None:
    assert services.wrong_worker_args(["--residents", "2", "--gpu-memory-share", "0.9"]) is None


@pytest.mark.parametrize(
    ("further", "told"),
    [
        (["--resident-models", "2"], "unrecognized arguments: --resident-models 2"),
        (["--residents", "0"], "0 is not above 0"),
        (["--sleep-bytes", "much"], "invalid int value: 'much'"),
        (["--device=cuda:0,1"], "`muster up --device` says where workers run"),
    ],
)
def test_what_is_wrong_with_worker_arguments_is_told_before_anything_starts(further: list[str], told: str) -> None:
    assert told in (services.wrong_worker_args(further) or "")
