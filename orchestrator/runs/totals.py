"""What a run's units came to once it has ended: kept with the run, so that `/metrics` need not count them again."""

from typing import Any

import sqlalchemy as sa
from sqlmodel import Session

_TOTALS = sa.text(
    """
    SELECT stage, state, count(*) AS units, coalesce(sum(attempts), 0) AS attempts, coalesce(sum(losses), 0) AS losses,
        coalesce(sum((completion->>'prompt_tokens')::bigint), 0) AS prompt_tokens,
        coalesce(sum((completion->>'completion_tokens')::bigint), 0) AS completion_tokens,
        sum(device_s) AS device_s, sum(load_s) AS load_s
    FROM unit WHERE run_id = :run GROUP BY stage, state ORDER BY stage, state
    """
)


def of(session: Session, run_id: str) -> dict[str, Any]:
    """Units, tokens, charged seconds, failed tries and losses by stage and state."""
    rows = session.execute(_TOTALS, {"run": run_id})
    return {"units": [{name: _plain(value) for name, value in row._mapping.items()} for row in rows]}


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | float) else int(value)
