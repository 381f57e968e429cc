"""What the environment may say, and that a wrong value is told with its name."""

import pydantic
import pytest

from orchestrator import recruiting
from orchestrator.fusion import fusion
from orchestrator.settings import Settings


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("strategy", "paperr", "unknown strategy 'paperr': there are posterior, adaptive"),
        ("fusion", "majority", "'auto', 'vote', 'aggregate' or 'best_single'"),
        ("annotation", "none", "'embedding' or 'llm'"),
        ("k", "0", "greater than or equal to 1"),
    ],
)
def test_a_wrong_value_is_told_with_its_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str) -> None:
    monkeypatch.setenv(f"MUSTER_{name.upper()}", value)
    with pytest.raises(pydantic.ValidationError) as caught:
        Settings()
    (wrong,) = caught.value.errors()
    assert wrong["loc"] == (name,)
    assert told in wrong["msg"]


@pytest.mark.parametrize(("name", "values"), [("strategy", recruiting.STRATEGIES), ("fusion", fusion.METHODS)])
def test_every_strategy_and_fusion_may_be_the_default(
    monkeypatch: pytest.MonkeyPatch, name: str, values: tuple[str, ...]
) -> None:
    for value in values:
        monkeypatch.setenv(f"MUSTER_{name.upper()}", value)
        assert getattr(Settings(), name) == value
