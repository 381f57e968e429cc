"""Replies go out together, and in order."""

import time
from collections.abc import Mapping

from workers.messages import Completion, Delta
from workers.replies import Replies

SOON_S = time.time() + 3600


class Listener:
    """A broker that can be away."""

    def __init__(self) -> None:
        self.rounds: list[dict[str, Delta]] = []
        self.away = False

    async def reply(self, deltas: Mapping[str, Delta], deadlines_s: Mapping[str, float], now_s: float) -> None:
        if self.away:
            raise ConnectionError("away")
        self.rounds.append(dict(deltas))


def done(text: str) -> Delta:
    return Delta(completion=Completion(id="q", text=text))


async def test_a_steps_deltas_for_all_requests_are_one_round_trip() -> None:
    listener = Listener()
    replies = Replies(listener)
    for text in ("Hel", "lo"):
        replies.put("q1", Delta(text=text), deadline_s=SOON_S)
        replies.put("q2", Delta(text=text), deadline_s=SOON_S)
    replies.put("q1", done("Hello"), deadline_s=SOON_S)
    await replies.flush()
    assert len(listener.rounds) == 1
    assert {key: delta.text for key, delta in listener.rounds[0].items()} == {"q1": "Hello", "q2": "Hello"}
    assert listener.rounds[0]["q1"].completion is not None


async def test_replies_wait_for_a_broker_that_is_away() -> None:
    listener = Listener()
    replies = Replies(listener)
    listener.away = True
    replies.put("q1", Delta(text="Hel"), deadline_s=SOON_S)
    assert not await replies.flush()
    replies.put("q1", Delta(text="lo"), deadline_s=SOON_S)
    replies.put("q1", done("Hello"), deadline_s=SOON_S)
    listener.away = False
    assert await replies.flush()
    assert [round_["q1"].text for round_ in listener.rounds] == ["Hello"]


async def test_replies_that_nobody_waits_for_are_not_kept() -> None:
    listener = Listener()
    replies = Replies(listener)
    listener.away = True
    replies.put("q1", done("Hello"), deadline_s=time.time() - 1)
    assert not await replies.flush()
    listener.away = False
    assert await replies.flush()
    assert listener.rounds == []
