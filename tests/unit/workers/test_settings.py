"""A worker's command line."""

from pathlib import Path

import pytest

from workers import settings

ENVIRONMENT = {"REDIS_URL": "redis://127.0.0.1:1/0", "MUSTER_DATA_DIR": "/data"}


def test_the_command_line_and_the_environment_make_settings() -> None:
    given = settings.from_command_line(["--name", "w1", "--device", "cuda:1", "--bulk-slots", "3"], ENVIRONMENT)
    assert (given.name, given.device, given.bulk_slots, given.data_dir) == ("w1", "cuda:1", 3, Path("/data"))
    assert given.engines == ("vllm", "stub")


def test_a_worker_without_a_device_holds_any_number_of_models() -> None:
    given = settings.from_command_line(["--name", "w1", "--device", "none"], ENVIRONMENT)
    assert given.capacity is None
    assert given.engines == ("remote", "stub")


@pytest.mark.parametrize(
    ("argv", "environ", "told"),
    [
        (["--name", "a b"], ENVIRONMENT, "--name"),
        (["--name", "a", "--device", "gpu"], ENVIRONMENT, "--device"),
        (["--name", "a"], {}, "REDIS_URL"),
        (["--name", "a", "--bulk-slots", "0"], ENVIRONMENT, "not above 0"),
    ],
)
def test_what_is_wrong_is_named(
    argv: list[str], environ: dict[str, str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        settings.from_command_line(argv, environ)
    assert told in capsys.readouterr().err
