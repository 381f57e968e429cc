"""The set-up script: what it asks of the machine, and when it has nothing to do."""

import sys
from pathlib import Path

import pytest

from setup import environment


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with locks and an empty environment, in place of this one."""
    venv = tmp_path / ".venv"
    (tmp_path / "locks").mkdir()
    venv.mkdir()
    for name in ("cpu", "cpu-test", "cuda", "cuda-test"):
        (tmp_path / "locks" / f"{name}.lock").write_text(f"{name}==1\n")
    places = {"LOCKS": tmp_path / "locks", "VENV": venv, "STAMP": venv / "stamp", "PYTHON": venv / "bin" / "python"}
    for name, value in places.items():
        monkeypatch.setattr(environment, name, value)
    return tmp_path


def has_nothing_to_do(*, tests: bool, flavour: str = "cpu") -> bool:
    """Installing would first look at the machine, which is replaced here by a complaint."""
    try:
        environment.install_environment(flavour, tests=tests)
    except environment.Missing:
        return False
    return True


@pytest.fixture(autouse=True)
def _nothing_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_flavour: str) -> None:
        raise environment.Missing("would install")

    monkeypatch.setattr(environment, "check_machine", refuse)


def stamp(checkout: Path, lock: str) -> None:
    environment.STAMP.write_text(environment.stamp_of(checkout / "locks" / f"{lock}.lock"))


def test_a_stamped_environment_is_left_alone(checkout: Path) -> None:
    assert not has_nothing_to_do(tests=False)
    stamp(checkout, "cpu")
    assert has_nothing_to_do(tests=False)


def test_an_environment_for_tests_serves_a_run_but_not_the_other_way_round(checkout: Path) -> None:
    stamp(checkout, "cpu-test")
    assert has_nothing_to_do(tests=False)
    stamp(checkout, "cpu")
    assert not has_nothing_to_do(tests=True)


def test_a_changed_lock_or_another_flavour_is_installed(checkout: Path) -> None:
    stamp(checkout, "cpu")
    assert not has_nothing_to_do(tests=False, flavour="cuda")
    (checkout / "locks" / "cpu.lock").write_text("cpu==2\n")
    assert not has_nothing_to_do(tests=False)


def test_a_moved_checkout_is_set_up_again(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stamp(checkout, "cpu")
    monkeypatch.setattr(environment, "VENV", checkout / "elsewhere")
    assert not has_nothing_to_do(tests=False)


@pytest.mark.parametrize("version", [(3, 9, 2), (3, 12, 1), (3, 14, 0)])
def test_another_python_is_refused_in_one_line_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, version: tuple[int, ...]
) -> None:
    monkeypatch.setattr(sys, "version_info", version)
    with pytest.raises(environment.Missing, match=r"^needs Python 3\.11 .*install python3\.11.*PYTHON=") as caught:
        environment.check_python()
    assert "\n" not in str(caught.value)


def test_torch_comes_from_pips_folder_or_from_its_own_index_but_never_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UV_FIND_LINKS", raising=False)
    monkeypatch.setattr(environment, "pip_settings", lambda: {"find-links": "/a /b"})
    assert environment.sources("cpu") == ["--find-links=/a", "--find-links=/b"]
    monkeypatch.setattr(environment, "pip_settings", dict)
    assert environment.sources("cpu") == ["--torch-backend=cpu"]
    assert environment.sources("cuda") == []


def test_uv_is_told_what_pip_knows_unless_it_was_told_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "pip_settings", lambda: {"index-url": "https://mirror/simple", "cert": "/ca.pem"})
    monkeypatch.setenv("SSL_CERT_FILE", "/mine.pem")
    monkeypatch.delenv("UV_DEFAULT_INDEX", raising=False)
    told = environment.uv_environment()
    assert (told["UV_DEFAULT_INDEX"], told["SSL_CERT_FILE"]) == ("https://mirror/simple", "/mine.pem")
