"""Reading experts.toml: every mistake names the file, the expert and the field."""

from pathlib import Path

import pytest

from orchestrator.pool import experts_file
from orchestrator.pool.experts_file import ExpertsFileError
from orchestrator.settings import PROJECT_DIR


def _read(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "experts.toml"
    path.write_text(text, encoding="utf-8")
    return [expert.name for expert in experts_file.read(path)]


def test_the_demo_pool_shares_one_model_and_says_so() -> None:
    demo = experts_file.read(PROJECT_DIR / "experts.toml")
    assert len(demo) > 1
    assert len({expert.model_value().key for expert in demo}) == 1
    assert len({(expert.system_prompt, expert.sampling) for expert in demo}) == len(demo)
    assert all("shared" in expert.description for expert in demo)


def test_an_expert_that_is_not_enabled_is_left_out_but_still_checked(tmp_path: Path) -> None:
    text = '[[expert]]\nname = "a"\nmodel = "stub:a"\n[[expert]]\nname = "b"\nmodel = "stub:b"\nenabled = false\n'
    assert _read(tmp_path, text) == ["a"]
    with pytest.raises(ExpertsFileError, match="temprature"):
        _read(tmp_path, text + "temprature = 1\n")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[[expert]]\nname = 'a'\n", "experts.toml: expert 'a': model: is missing"),
        ("[[expert]]\nmodel = 'stub:a'\n", "expert 'number 1': name: is missing"),
        ("[[expert]]\nname = 'a'\nmodel = 'stub:a'\n" * 2, "expert 'a': name: is given twice"),
        ("[expert]\nname = 'a'\n", "in double brackets"),
        ("[[experts]]\nname = 'a'\n", "'experts' is not known"),
        ("[[expert]]\nname = 'a'\nmodel = 'stub:a'\nenabled = 'no'\n", "enabled: must be true or false"),
        ("[[expert]]\nname = \n", "not TOML"),
    ],
)
def test_a_mistake_is_told_with_its_place(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ExpertsFileError) as caught:
        _read(tmp_path, text)
    assert told in str(caught.value)
    assert "experts.toml" in str(caught.value)


def test_a_missing_file_says_how_to_name_another(tmp_path: Path) -> None:
    with pytest.raises(ExpertsFileError, match="MUSTER_EXPERTS_FILE"):
        experts_file.read(tmp_path / "none.toml")
