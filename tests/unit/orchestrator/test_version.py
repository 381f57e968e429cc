import tomllib

from orchestrator.settings import PROJECT_DIR
from orchestrator.version import VERSION


def test_the_package_and_its_reports_have_one_version() -> None:
    assert tomllib.loads((PROJECT_DIR / "pyproject.toml").read_text())["project"]["version"] == VERSION
