"""Lets bulk prompts into an engine a few at a time while queries are about: long prompts make long steps."""

import asyncio
import time
from collections import deque
from collections.abc import Callable

ACTIVE_S = 30.0
"""So long after a query, prompts are let in piece by piece; without queries, all at once, which is a little faster."""
PATIENCE_S = 2.0
"""A prompt waits no longer: what was given and never computed (it was aborted) would keep the gate closed."""


class PrefillGate:
    """How many prompt tokens an engine was given and has not computed yet.

    While queries are about, a bulk prompt is let in when it fits into `tokens` with what is not computed yet, or when
    nothing is. Queries are never held up.
    """

    def __init__(self, tokens: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._tokens = tokens
        self._clock = clock
        self._outstanding = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._query_at = -ACTIVE_S

    def query(self, tokens: int) -> None:
        """A query's prompt goes in."""
        self._query_at = self._clock()
        self._outstanding += tokens

    async def bulk(self, tokens: int) -> None:
        """Wait until a bulk prompt may go in; first come, first served."""
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((tokens, admitted))
        self._let_in()
        try:
            await asyncio.wait_for(asyncio.shield(admitted), PATIENCE_S)
        except TimeoutError:
            self._outstanding = 0
            self._let_in()
        except asyncio.CancelledError:
            if not admitted.cancel():  # it was let in, and will not go
                self.computed(tokens)
            raise
        await admitted

    def computed(self, tokens: int) -> None:
        """The engine has computed so many tokens of prompts."""
        self._outstanding = max(0, self._outstanding - tokens)
        self._let_in()

    def _let_in(self) -> None:
        is_narrow = self._clock() - self._query_at < ACTIVE_S
        while self._waiting:
            tokens, admitted = self._waiting[0]
            if admitted.done():  # cancelled
                self._waiting.popleft()
                continue
            if is_narrow and self._outstanding and self._outstanding + tokens > self._tokens:
                return
            self._waiting.popleft()
            self._outstanding += tokens
            admitted.set_result(None)
