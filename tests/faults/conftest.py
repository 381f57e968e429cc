"""The house that the faults happen to, and the table of how it bore them."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.checker import check_house
from tests.faults.house import House
from tests.faults.ledger import Fault, Ledger
from tests.stack import WEIGHTS

IS_FULL = os.environ.get("MUSTER_FAULTS") == "full"
"""`make faults`: all tries, and what takes minutes."""
_ledger = Ledger()


@pytest.fixture(scope="session")
def standing_house() -> Iterator[House]:
    if not WEIGHTS.exists():
        pytest.skip(f"no embedder in {WEIGHTS}: run `make run` once")
    with (
        tempfile.TemporaryDirectory(prefix="muster-faults-", ignore_cleanup_errors=True) as folder,
        House(Path(folder)) as house,
    ):
        yield house


@pytest.fixture
def house(standing_house: House) -> Iterator[House]:
    """Everything up and idle, whatever the last test did; looked over once this one is through."""
    standing_house.mend()
    yield standing_house
    check_house(standing_house)


@pytest.fixture
def fault(request: pytest.FixtureRequest) -> Fault:
    """The fault that this test is about, by its mark."""
    mark = request.node.get_closest_marker("fault")
    assert mark is not None, "mark it: @pytest.mark.fault(number, name)"
    return _ledger.fault(*mark.args)


@pytest.fixture(scope="session")
def is_full() -> bool:
    return IS_FULL


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if table := _ledger.table():
        terminalreporter.section("faults" if IS_FULL else "faults (short form)")
        for line in table:
            terminalreporter.write_line(line)
