"""Decides which models are resident and who may use them. Pure: values in, a decision out."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

BULK_PATIENCE_S = 60.0
"""A bulk ticket that waited so long goes by its number among online ones: queries cannot starve a run."""


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """Somebody waits to use a model: a chunk, an online request, or a load asked for ahead."""

    number: int
    """Order of arrival."""
    model_key: str
    online: bool
    since_s: float
    """When it began to wait, by the clock that `now_s` is read from."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What to do now: let tickets in, evict idle models, load models. In that order."""

    admit: tuple[Ticket, ...] = ()
    evict: tuple[str, ...] = ()
    load: tuple[str, ...] = ()


def decide(
    *,
    waiting: Sequence[Ticket],
    resident: Mapping[str, int],
    loading: Collection[str],
    capacity: int | None,
    now_s: float,
) -> Decision:
    """Serve tickets in turn, online before bulk, first come first served; a model in use is never evicted.

    `resident` maps a model to the number of its users, least recently used first. A ticket whose model is
    absent, with no room and no idle model to evict, makes one resident model run dry: tickets behind it
    for that model must wait, so that its turn comes.
    """
    users = dict(resident)
    on_the_way = set(loading)
    wanted = {ticket.model_key for ticket in waiting}
    running_dry: dict[str, str] = {}
    admit: list[Ticket] = []
    evict: list[str] = []
    for ticket in sorted(waiting, key=lambda ticket: _turn(ticket, now_s)):
        key = ticket.model_key
        if key in users and key not in running_dry:
            admit.append(ticket)
            users[key] += 1
        elif key in users or key in on_the_way or key in running_dry.values():
            continue
        elif capacity is None or len(users) + len(on_the_way) < capacity:
            on_the_way.add(key)
        elif idle := [name for name, count in users.items() if count == 0 and name not in running_dry]:
            victim = min(idle, key=lambda name: name in wanted)
            del users[victim]
            evict.append(victim)
            on_the_way.add(key)
        elif busy := [name for name in users if name not in running_dry]:
            running_dry[min(busy, key=lambda name: users[name])] = key
    load = tuple(key for key in _in_turn(waiting, now_s) if key in on_the_way and key not in loading)
    return Decision(admit=tuple(admit), evict=tuple(evict), load=load)


def _turn(ticket: Ticket, now_s: float) -> tuple[bool, int]:
    patient = not ticket.online and now_s - ticket.since_s < BULK_PATIENCE_S
    return (patient, ticket.number)


def _in_turn(waiting: Sequence[Ticket], now_s: float) -> list[str]:
    """Distinct model keys of tickets, in turn."""
    return list(dict.fromkeys(ticket.model_key for ticket in sorted(waiting, key=lambda each: _turn(each, now_s))))
