"""`muster simulate` as it is typed."""

import json
from pathlib import Path

from typer.testing import CliRunner

from orchestrator.cli.app import app
from orchestrator.cli.simulate import lower_bound

ASKED = ["simulate", "--experts", "4", "--instances", "50", "--k", "2", "--gpus", "2"]


def test_it_prints_json_and_draws_a_picture(tmp_path: Path) -> None:
    picture = tmp_path / "gantt.svg"
    done = CliRunner().invoke(app, [*ASKED, "--gantt", str(picture), "--json"])
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    asked_for = {"makespan_s", "lower_bound_s", "ratio", "loads", "distinct_models", "naive_makespan_s", "plan_seconds"}
    assert asked_for <= found.keys()
    assert picture.read_text().startswith("<svg")


def test_it_prints_a_table_for_people() -> None:
    done = CliRunner().invoke(app, ASKED)
    assert done.exit_code == 0
    assert "first come, first served" in done.stdout
    assert "lower bound: " in done.stdout


def test_the_lower_bound_is_explained_by_the_greatest_of_its_three_parts() -> None:
    found = {"workers": 4, "bounds": {"work_and_loads_s": 70.4, "longest_path_s": 30.2, "stages_s": 90.6}}
    said = lower_bound(found)
    assert said.startswith("91 s, one stage's work over all workers")
    assert said.index("91 s") < said.index("70 s, all work") < said.index("30 s, the longest question")


def test_a_missing_costs_file_is_named(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, [*ASKED, "--costs", str(tmp_path / "none.toml")])
    assert done.exit_code == 2
    assert "none.toml: cannot be read" in done.stderr.replace("\n", "")
