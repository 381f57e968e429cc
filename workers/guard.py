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
    whole: Collection[str] = (),
    fresh: Collection[str] = (),
    now_s: float,
) -> Decision:
    """Serve tickets in turn, online before bulk, first come first served; a model in use is never evicted.

    `resident` maps a model to the number of its users, least recently used first; the models in `whole` need the
    device to themselves. A ticket whose model is absent, with no room and no idle model to evict, makes resident
    models run dry: tickets behind it for those must wait, so that its turn comes. Models in `fresh` were loaded only
    just now: an online ticket waits while there is work for them.
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
            continue
        if key in users or key in on_the_way or key in running_dry.values():
            continue
        if capacity is None or _fits(key, users.keys() | on_the_way, capacity=capacity, whole=whole):
            on_the_way.add(key)
            continue
        kept = [name for name in users if name not in running_dry]
        leaving = _who_must_go(key, kept, users, wanted=wanted, whole=whole)
        if ticket.online and any(name in fresh and (users[name] or name in wanted) for name in leaving):
            continue
        left = (users.keys() - set(leaving)) | on_the_way
        if all(users[name] == 0 for name in leaving) and _fits(key, left, capacity=capacity, whole=whole):
            for name in leaving:
                del users[name]
            evict += leaving
            on_the_way.add(key)
        else:
            running_dry.update(dict.fromkeys(leaving, key))
    load = tuple(key for key in _in_turn(waiting, now_s) if key in on_the_way and key not in loading)
    return Decision(admit=tuple(admit), evict=tuple(evict), load=load)


def _fits(key: str, others: Collection[str], *, capacity: int, whole: Collection[str]) -> bool:
    """Whether there is room for the model beside the others."""
    return not others or (len(others) < capacity and not any(name in whole for name in (key, *others)))


def _who_must_go(
    key: str, kept: Sequence[str], users: Mapping[str, int], *, wanted: Collection[str], whole: Collection[str]
) -> list[str]:
    """Of the models `kept`, those whose places the model needs: all, or else one, rather an idle one nobody wants."""
    if key in whole:
        return list(kept)
    large = [name for name in kept if name in whole]
    return large or sorted(kept, key=lambda name: (users[name], users[name] == 0 and name in wanted))[:1]


def _turn(ticket: Ticket, now_s: float) -> tuple[bool, int]:
    patient = not ticket.online and now_s - ticket.since_s < BULK_PATIENCE_S
    return (patient, ticket.number)


def _in_turn(waiting: Sequence[Ticket], now_s: float) -> list[str]:
    """Distinct model keys of tickets, in turn."""
    return list(dict.fromkeys(ticket.model_key for ticket in sorted(waiting, key=lambda each: _turn(each, now_s))))
