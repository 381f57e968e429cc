"""Lets bulk prompts into an engine a few at a time while queries are about: long prompts make long steps."""

import asyncio
import time
from collections import deque
from collections.abc import Callable

ACTIVE_S = 30.0
"""So long after a query, prompts are let in piece by piece; without queries, all at once, which is a little faster."""
STEPS_AHEAD = 2
"""What is given during one step is computed in the next; so much may lie there that no step waits for its prompts."""
PATIENCE_S = 2.0
"""A prompt waits no longer: what was given and never computed (it was aborted) would keep the gate closed."""


class PrefillGate:
    """How many prompt tokens an engine was given during its present step, and in all has not computed yet.

    While queries are about, a bulk prompt is let in where it fits into what `tokens` allow for a step; one that is
    longer goes alone. Queries are never held up.
    """

    def __init__(self, tokens: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._tokens = tokens
        self._clock = clock
        self._given = 0
        self._outstanding = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._query_at = -ACTIVE_S

    def query(self, tokens: int) -> None:
        """A query's prompt goes in."""
        self._query_at = self._clock()
        self._give(tokens)

    async def bulk(self, tokens: int) -> None:
        """Wait until a bulk prompt may go in; first come, first served."""
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((tokens, admitted))
        self._let_in()
        try:
            await asyncio.wait_for(asyncio.shield(admitted), PATIENCE_S)
        except TimeoutError:
            self._given = self._outstanding = 0
            self._let_in()
        except asyncio.CancelledError:
            if not admitted.cancel():  # it was let in, and will not go
                self._outstanding = max(0, self._outstanding - tokens)
                self._let_in()
            raise
        await admitted

    def step(self, prompt_tokens: int) -> None:
        """The engine has ended a step, and with it the computing of prompts of so many tokens."""
        self._given = 0
        self._outstanding = max(0, self._outstanding - prompt_tokens)
        self._let_in()

    def _give(self, tokens: int) -> None:
        self._given += tokens
        self._outstanding += tokens

    def _let_in(self) -> None:
        is_narrow = self._clock() - self._query_at < ACTIVE_S
        while self._waiting:
            tokens, admitted = self._waiting[0]
            if admitted.done():  # cancelled
                self._waiting.popleft()
                continue
            if is_narrow and not self._fits(tokens):
                return
            self._waiting.popleft()
            self._give(tokens)
            admitted.set_result(None)

    def _fits(self, tokens: int) -> bool:
        if self._outstanding == 0:
            return True
        is_within_step = self._given == 0 or self._given + tokens <= self._tokens
        return is_within_step and self._outstanding + tokens <= STEPS_AHEAD * self._tokens
