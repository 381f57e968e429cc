"""Which model is resident, and who is let in."""

from hypothesis import assume, given
from hypothesis import strategies as st

from workers import guard
from workers.guard import BULK_PATIENCE_S, Decision, Ticket


def bulk(number: int, key: str, since_s: float = 0.0) -> Ticket:
    return Ticket(number=number, model_key=key, online=False, since_s=since_s)


def online(number: int, key: str) -> Ticket:
    return Ticket(number=number, model_key=key, online=True, since_s=0.0)


def decide(
    waiting: list[Ticket],
    resident: dict[str, int],
    *,
    loading: tuple[str, ...] = (),
    capacity: int | None = 1,
    whole: str = "",
    fresh: str = "",
    now_s: float = 0.0,
) -> Decision:
    return guard.decide(
        waiting=waiting, resident=resident, loading=loading, capacity=capacity, whole=whole, fresh=fresh, now_s=now_s
    )


def test_a_ticket_for_a_resident_model_is_let_in() -> None:
    ticket = bulk(1, "a")
    assert decide([ticket], {"a": 3}) == Decision(admit=(ticket,))


def test_a_model_is_loaded_where_there_is_room() -> None:
    assert decide([bulk(1, "a")], {}) == Decision(load=("a",))


def test_an_idle_model_makes_room() -> None:
    assert decide([bulk(1, "b")], {"a": 0}) == Decision(evict=("a",), load=("b",))


def test_a_model_in_use_is_never_evicted() -> None:
    assert decide([bulk(1, "b")], {"a": 1}) == Decision()


def test_nothing_is_loaded_twice() -> None:
    assert decide([bulk(1, "a"), bulk(2, "a")], {}, loading=("a",)) == Decision()


def test_who_comes_after_a_waiting_model_does_not_keep_it_waiting() -> None:
    assert decide([bulk(1, "b"), bulk(2, "a")], {"a": 1}) == Decision()


def test_who_came_before_a_waiting_model_goes_before_it() -> None:
    first = bulk(1, "a")
    assert decide([first, bulk(2, "b")], {"a": 0}) == Decision(admit=(first,))


def test_online_goes_before_bulk() -> None:
    query = online(2, "a")
    assert decide([bulk(1, "b"), query], {"a": 1}) == Decision(admit=(query,))


def test_queries_for_one_model_cannot_starve_a_run_on_another() -> None:
    assert decide([bulk(1, "b", since_s=0.0), online(2, "a")], {"a": 1}, now_s=BULK_PATIENCE_S) == Decision()


def test_with_room_for_two_the_model_that_nobody_wants_goes() -> None:
    kept = bulk(2, "a")
    decision = decide([bulk(1, "c"), kept], {"a": 0, "b": 0}, capacity=2)
    assert decision == Decision(admit=(kept,), evict=("b",), load=("c",))


def test_without_a_device_there_is_always_room() -> None:
    assert decide([bulk(1, "a"), bulk(2, "b")], {"c": 0}, capacity=None) == Decision(load=("a", "b"))


def test_a_query_that_comes_too_late_for_a_model_waits_while_the_next_has_hardly_begun() -> None:
    query, chunk = online(1, "a"), bulk(2, "b")
    assert decide([query, chunk], {"b": 1}, fresh="b") == Decision(admit=(chunk,))
    assert decide([query, chunk], {"b": 0}, fresh="b") == Decision(admit=(chunk,))
    assert decide([query], {"b": 0}, fresh="b") == Decision(evict=("b",), load=("a",))
    assert decide([query, chunk], {"b": 1}) == Decision()


def test_a_model_that_needs_the_whole_device_makes_all_others_go() -> None:
    assert decide([bulk(1, "c")], {"a": 0, "b": 0}, capacity=3, whole="c") == Decision(evict=("a", "b"), load=("c",))
    # While one is in use neither is let in again, nor is anything evicted too soon.
    assert decide([bulk(1, "c"), bulk(2, "a"), bulk(3, "b")], {"a": 0, "b": 1}, capacity=3, whole="c") == Decision()
    assert decide([bulk(1, "c"), bulk(2, "a")], {"a": 0}, loading=("b",), capacity=3, whole="c") == Decision()


def test_beside_a_model_that_has_the_whole_device_there_is_no_room() -> None:
    assert decide([bulk(1, "a")], {"c": 1}, capacity=3, whole="c") == Decision()
    assert decide([bulk(1, "a")], {}, loading=("c",), capacity=3, whole="c") == Decision()
    assert decide([bulk(1, "a"), bulk(2, "b")], {"c": 0}, capacity=3, whole="c") == Decision(
        evict=("c",), load=("a", "b")
    )


tickets = st.lists(
    st.builds(
        Ticket,
        number=st.integers(0, 50),
        model_key=st.sampled_from("abcd"),
        online=st.booleans(),
        since_s=st.floats(0, 100),
    ),
    max_size=12,
    unique_by=lambda ticket: ticket.number,
)


@given(
    waiting=tickets,
    resident=st.dictionaries(st.sampled_from("abcd"), st.integers(0, 2), max_size=2),
    capacity=st.integers(2, 3),
    whole=st.sampled_from(["", "a", "cd"]),
    fresh=st.sampled_from(["", "b", "abcd"]),
)
def test_no_decision_breaks_the_rules(
    waiting: list[Ticket], resident: dict[str, int], capacity: int, whole: str, fresh: str
) -> None:
    assume(len(resident) < 2 or not set(resident) & set(whole))
    decision = decide(waiting, resident, capacity=capacity, whole=whole, fresh=fresh, now_s=100.0)
    assert all(resident[key] == 0 for key in decision.evict)
    assert all(ticket.model_key in resident and ticket.model_key not in decision.evict for ticket in decision.admit)
    assert not set(decision.load) & (set(resident) - set(decision.evict))
    there = (resident.keys() - set(decision.evict)) | set(decision.load)
    assert len(there) <= capacity
    assert len(there) < 2 or not there & set(whole)


@given(
    waiting=tickets.filter(bool),
    resident=st.dictionaries(st.sampled_from("abcd"), st.just(0), max_size=2),
    capacity=st.integers(1, 3),
    whole=st.sampled_from(["", "a", "cd"]),
    fresh=st.sampled_from(["", "b", "abcd"]),
)
def test_an_idle_device_always_has_something_to_do(
    waiting: list[Ticket], resident: dict[str, int], capacity: int, whole: str, fresh: str
) -> None:
    assume(len(resident) <= capacity and (len(resident) < 2 or not set(resident) & set(whole)))
    decision = decide(waiting, resident, capacity=capacity, whole=whole, fresh=fresh)
    assert decision.admit or decision.load
