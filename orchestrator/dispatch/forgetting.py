"""Workers not heard of for a day are forgotten, here and nowhere else.

Where containers name workers, each one that is made anew is another worker: its rows, keys and measured costs would be
kept for ever, and the costs of machines that are gone would count in every mean.
"""

from collections.abc import Sequence

import redis
import sqlalchemy as sa
from sqlmodel import Session

from workers.messages import WORKERS_KEY, bulk_queue, online_queue

FORGET_S = 24 * 3600.0
"""Longer than any repair that ends with the same machine, and than a claim or a message is kept (`CLAIM_TTL_S`)."""

_GONE = sa.text("SELECT name FROM worker WHERE seen_at < now() - make_interval(secs => :forget_s)")
_FORGET = sa.text("DELETE FROM worker WHERE name = ANY(:names)")
# The newest figures of a model stay, whoever measured them: nobody knows better.
_FORGET_COSTS = sa.text(
    """
    DELETE FROM model_cost AS old WHERE worker NOT IN (SELECT name FROM worker) AND EXISTS (
        SELECT FROM model_cost AS newer WHERE newer.model_key = old.model_key AND newer.updated_at > old.updated_at)
    """
)


def workers(session: Session, client: redis.Redis, *, unread_s: float) -> Sequence[str]:
    """Forget who was silent for `FORGET_S` before the last `unread_s`, of which progress is not read yet. Returns them.

    The keys in Redis go first: what is cut short is done again. A chunk that still lies in such a worker's queue was
    given up when its lease passed.
    """
    names = session.scalars(_GONE, params={"forget_s": FORGET_S + unread_s}).all()
    if names:
        client.hdel(WORKERS_KEY, *names)
        client.delete(*(queue(name) for name in names for queue in (bulk_queue, online_queue)))
        session.execute(_FORGET, {"names": list(names)})
    session.execute(_FORGET_COSTS)
    return names
