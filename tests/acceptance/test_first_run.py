"""The first run on real weights, as `make run ARGS=--once` has it once the environment is there."""

from pathlib import Path

import pytest

from tests import stack as stacks
from tests.stack import free_port

EXPERTS = Path(__file__).parents[1] / "smol_experts.toml"
FIRST_RUN_S = 400


@pytest.mark.engine
@pytest.mark.timeout(FIRST_RUN_S + 30)
def test_a_real_question_is_answered_by_real_experts_on_one_load(tmp_path: Path) -> None:
    data_dir = tmp_path / "muster"
    stacks.give_weights(data_dir)
    arguments = ["--data-dir", str(data_dir), "--port", str(free_port()), "--experts", str(EXPERTS)]
    printed = tmp_path / "printed.txt"
    process = stacks.start(*arguments, "--device", "cpu", "--once", output=printed)
    assert process.wait(FIRST_RUN_S) == 0, printed.read_text()
    text = printed.read_text()
    stages = ["Profiling the pool", "The question", "Skills it needs", "Recruited", "Answers", "Fused answer"]
    places = [text.index(stage) for stage in stages]
    assert places == sorted(places)
    worker_log = (data_dir / "logs" / "w0.log").read_text(errors="replace")
    assert worker_log.count("workers.loader: loaded ") == 1, "both experts share one set of weights"
