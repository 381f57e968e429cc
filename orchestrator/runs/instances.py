"""Instances as units see them: which to lock before their units change, and which to show to the stager after.

Both the stager and whoever ends units lock the instance before they touch its units. So neither can miss what
the other just wrote, and an instance that waits for nothing is always marked ready.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlmodel import Session

_LOCK_OF_UNITS = sa.text(
    """
    SELECT id FROM instance
    WHERE id IN (SELECT instance_id FROM unit WHERE id = ANY(CAST(:units AS bigint[])))
    ORDER BY id FOR UPDATE
    """
)
_LOCK = sa.text("SELECT id FROM instance WHERE id = ANY(CAST(:ids AS bigint[])) ORDER BY id FOR UPDATE")
# OFFSET 0 keeps the units of each line looked up by its id: joined, all units of all runs might be read.
_WAKE = sa.text(
    """
    UPDATE instance SET ready = true
    WHERE id = ANY(CAST(:ids AS bigint[])) AND stage <> 'done' AND NOT ready
      AND NOT EXISTS (
        SELECT FROM unit
        WHERE unit.instance_id = instance.id AND unit.state IN ('pending', 'sent')
          AND (unit.stage <> 'baseline' OR instance.stage = 'grade')
        OFFSET 0
      )
    """
)


def lock_of_units(session: Session, unit_ids: Sequence[int]) -> None:
    """Lock the instances of these units, in order."""
    session.execute(_LOCK_OF_UNITS, {"units": list(unit_ids)})


def lock(session: Session, ids: Sequence[int]) -> None:
    """Lock these instances, in order."""
    session.execute(_LOCK, {"ids": list(ids)})


def wake(session: Session, ids: Sequence[int]) -> None:
    """Mark those ready that wait for no unit any more. An instance waits for baselines only once it is graded."""
    if ids:
        session.execute(_WAKE, {"ids": list(ids)})
