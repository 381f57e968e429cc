"""What models cost, as far as workers have measured it; what is not known yet comes from the costs file that ships."""

import time
from collections.abc import Mapping
from dataclasses import replace

from sqlmodel import Session

from orchestrator.costs import costs_file
from orchestrator.pool import measured_costs
from orchestrator.pool.measured_costs import ModelCost
from orchestrator.residency import Costs
from workers.messages import Model

REFRESH_S = 10.0
_NOTHING = ModelCost()


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
            measured = measured_costs.costs(session)
            self._known = {key: self._of(model, measured.get(key, _NOTHING)) for key, model in models.items()}
        return self._known

    def _of(self, model: Model, measured: ModelCost) -> Costs:
        unknown = self._unknown
        return replace(
            unknown,
            devices=model.tensor_parallel,
            load_s=measured.load_s or unknown.load_s,
            wake_s=measured.wake_s,
            prefill_tps=measured.prefill_tps or unknown.prefill_tps,
            decode_tps=measured.decode_tps or unknown.decode_tps,
        )
