"""docs/settings.md has every setting of the code, with its default."""

import re
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from orchestrator.settings import PROJECT_DIR, Settings
from workers.settings import WorkerSettings

TABLE = (PROJECT_DIR / "docs" / "settings.md").read_text()
FROM_THE_ENVIRONMENT = {"redis_url", "data_dir"}
"""Of a worker's settings; the API's and the orchestrator's table has them."""


def documented(prefix: str) -> dict[str, str]:
    """The rows with a default, by setting."""
    rows = re.findall(rf"^\| `({prefix}[\w-]*)` \| (\S+) \|", TABLE, re.MULTILINE)
    return {name: default.strip("`") for name, default in rows}


def shown(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}"
        case Path():
            return str(value.relative_to(PROJECT_DIR) if value.is_absolute() else value)
        case _:
            return str(value) or "none"


def test_the_table_of_settings_is_that_of_the_code() -> None:
    of_the_code = {
        str(field.validation_alias or f"MUSTER_{name.upper()}"): shown(field.default)
        for name, field in Settings.model_fields.items()
    }
    assert documented("(?:MUSTER_|DATABASE_URL|REDIS_URL)") == of_the_code


def test_the_table_of_a_workers_flags_is_that_of_the_code() -> None:
    of_the_code = {
        f"--{field.name.replace('_', '-')}": "needed" if field.default is MISSING else shown(field.default)
        for field in fields(WorkerSettings)
        if field.name not in FROM_THE_ENVIRONMENT
    }
    assert documented("--") == of_the_code
