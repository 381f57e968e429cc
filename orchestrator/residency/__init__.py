"""The residency plan: which model next on which worker, for how long, and which chunks into its window. Pure.

`plan(queues, workers, chunk_units=…, models=…)`: the same values in, the same actions out. `planning.py` says how.
"""

from orchestrator.residency.actions import Action, Load, Prefetch, Send
from orchestrator.residency.costs import UNKNOWN, Costs
from orchestrator.residency.loads import fewest_loads
from orchestrator.residency.online import DEMAND_STAY_S
from orchestrator.residency.overdue import BULK_TURN_S, GRACE_S
from orchestrator.residency.planning import HOLD_S, plan
from orchestrator.residency.queue import Queue, waited_for
from orchestrator.residency.worker import Worker

__all__ = [
    "BULK_TURN_S",
    "DEMAND_STAY_S",
    "GRACE_S",
    "HOLD_S",
    "UNKNOWN",
    "Action",
    "Costs",
    "Load",
    "Prefetch",
    "Queue",
    "Send",
    "Worker",
    "fewest_loads",
    "plan",
    "waited_for",
]
