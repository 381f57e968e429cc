"""What models cost, as far as workers have measured it; what is not known yet comes from the costs file that ships."""

import time
from collections.abc import Mapping
from dataclasses import replace

import sqlalchemy as sa
from sqlmodel import Session

from orchestrator.costs import costs_file
from orchestrator.residency import Costs
from workers.messages import Model

REFRESH_S = 10.0
LOADS = 5
"""So many of the latest loads of a model make its load time."""
_LOADS = sa.text(
    """
    SELECT model_key, avg(seconds) AS seconds, max(memory_bytes) AS memory_bytes FROM (
        SELECT model_key, seconds, memory_bytes, row_number() OVER (PARTITION BY model_key ORDER BY id DESC) AS place
        FROM load WHERE error IS NULL AND model_key = ANY(:keys)
    ) AS latest WHERE place <= :loads GROUP BY model_key
    """
)


class CostsReader:
    """Reads costs, at most every `REFRESH_S`."""

    def __init__(self) -> None:
        self._unknown = costs_file.read().typical
        self._known: dict[str, Costs] = {}
        self._next = 0.0

    def read(self, session: Session, models: Mapping[str, Model]) -> Mapping[str, Costs]:
        """Costs by model key."""
        if time.monotonic() >= self._next or models.keys() - self._known.keys():
            self._next = time.monotonic() + REFRESH_S
            measured = {
                row.model_key: (float(row.seconds), int(row.memory_bytes or 0))
                for row in session.execute(_LOADS, {"keys": list(models), "loads": LOADS})
            }
            self._known = {key: self._of(model, measured.get(key)) for key, model in models.items()}
        return self._known

    def _of(self, model: Model, measured: tuple[float, int] | None) -> Costs:
        costs = replace(self._unknown, devices=model.tensor_parallel)
        return costs if measured is None else replace(costs, load_s=measured[0], memory_bytes=measured[1])
