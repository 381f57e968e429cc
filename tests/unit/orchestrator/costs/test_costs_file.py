"""The costs file: what ships is whole, and a wrong one says what is wrong."""

import json
from pathlib import Path

import pytest

from orchestrator import residency
from orchestrator.costs import costs_file
from orchestrator.costs.costs_file import CostsError


def test_the_planner_assumes_of_an_unknown_model_what_the_file_says() -> None:
    assert costs_file.read().typical == residency.UNKNOWN


def test_costs_follow_from_the_size_unless_stated() -> None:
    read = costs_file.read()
    by_name = {model.name: read.costs(model) for model in read.models}
    assert by_name["llama-3.1-8b"].decode_tps == 1400
    assert by_name["phi-3.5-mini"].load_s < by_name["llama-3.1-8b"].load_s < by_name["mistral-nemo-12b"].load_s
    assert by_name["mistral-nemo-12b"].memory_bytes == 42_000_000_000


def test_json_serves_as_well_as_toml(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    path.write_text(json.dumps(costs_file.read().model_dump()))
    assert costs_file.read(path) == costs_file.read()


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "cannot be read"), ("{}", "device: Field required"), ('{"speed": 1}', "device: Field required")],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "costs.json"
    path.write_text(text)
    with pytest.raises(CostsError, match=said) as caught:
        costs_file.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_shares_that_the_file_lacks_are_refused() -> None:
    with pytest.raises(CostsError, match="no shares named 'even'; it has paper, posterior"):
        costs_file.read().shares("even")
