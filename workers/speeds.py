"""How fast a model computes, from what its engine reports while it works. Pure: moving figures, no clock."""

from dataclasses import dataclass

DECAY = 0.98
"""Weight that older windows keep at each new one: of windows of a second, the last minute counts."""
PROMPT_SHARE = 1 / 8
"""What a prompt token is taken to cost beside a token of a completion, where the windows do not tell them apart."""
PRIOR = 0.01
"""Weight of that guess, relative to what was seen."""
WINDOW_S = 0.2
"""Windows with less device time than this are put together with the next."""
MOSTLY = 0.9
"""A window tells the speed of a full batch if so much of its time was spent in one."""
CHEAPEST = 1e-3
"""A prompt token costs no less than this part of a completion's."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Tokens per second."""

    prefill_tps: float
    """Of device time, in a full batch, everything together; 0: there was no full batch yet."""
    decode_tps: float
    """The same."""
    answer_tps: float
    """That one answer came with, beside the others; 0: none has ended yet."""
    query_tps: float
    """The same, of answers to queries: they go first."""


class _Pace:
    """Tokens per second of single answers, the latest weighing most."""

    def __init__(self) -> None:
        self._tokens = self._seconds = 0.0

    def add(self, tokens: int, seconds: float) -> None:
        self._tokens = self._tokens * DECAY + tokens
        self._seconds = self._seconds * DECAY + seconds

    @property
    def tps(self) -> float:
        return self._tokens / self._seconds if self._seconds else 0.0


class Speeds:
    """Seconds per prompt token and per completion token: least squares over windows of work, the latest weighing most.

    A window that took T seconds for P prompt tokens and D completion tokens says T = P a + D b. Where all windows have
    the same mixture of both, only the sum is known, and `PROMPT_SHARE` divides it. Only windows of full batches count:
    an engine makes many times more tokens for many requests than for one.
    """

    def __init__(self) -> None:
        self._seen = (0, 0, 0.0, 0.0)
        self._pp = self._pd = self._dd = self._pt = self._dt = 0.0
        self._bulk, self._online = _Pace(), _Pace()

    def begin(self, prompt_tokens: int, completion_tokens: int, busy_s: float, full_s: float) -> None:
        """The counters of an engine that was just loaded, or woken."""
        self._seen = (prompt_tokens, completion_tokens, busy_s, full_s)

    def at(self, prompt_tokens: int, completion_tokens: int, busy_s: float, full_s: float) -> bool:
        """The engine's counters as they are now; each only grows. Returns whether that closed a window.

        `full_s`: the part of `busy_s` in which there was a full batch.
        """
        prompt, completion = prompt_tokens - self._seen[0], completion_tokens - self._seen[1]
        seconds = busy_s - self._seen[2]
        if seconds < WINDOW_S or prompt + completion == 0:
            return False
        is_full = full_s - self._seen[3] >= MOSTLY * seconds
        self._seen = (prompt_tokens, completion_tokens, busy_s, full_s)
        if not is_full:
            return True
        self._pp = self._pp * DECAY + prompt * prompt
        self._pd = self._pd * DECAY + prompt * completion
        self._dd = self._dd * DECAY + completion * completion
        self._pt = self._pt * DECAY + prompt * seconds
        self._dt = self._dt * DECAY + completion * seconds
        return True

    def answered(self, completion_tokens: int, seconds: float, *, online: bool) -> None:
        """An answer of so many tokens took so long in the engine."""
        if completion_tokens and seconds > 0:
            (self._online if online else self._bulk).add(completion_tokens, seconds)

    @property
    def speed(self) -> Speed | None:
        """None until a window of a full batch has closed, or an answer has ended."""
        answer_tps = self._bulk.tps or self._online.tps
        prefill_tps, decode_tps = self._full_batch()
        if not (answer_tps or decode_tps):
            return None
        return Speed(prefill_tps=prefill_tps, decode_tps=decode_tps, answer_tps=answer_tps, query_tps=self._online.tps)

    def _full_batch(self) -> tuple[float, float]:
        """Prompt and completion tokens per second; zeros until a window has closed."""
        weight = PRIOR * (self._pp + self._dd)
        if not weight:
            return 0.0, 0.0
        pp, dd = self._pp + weight, self._dd + weight * PROMPT_SHARE**2
        pd = self._pd - weight * PROMPT_SHARE
        determinant = pp * dd - pd * pd
        prompt_s = (self._pt * dd - self._dt * pd) / determinant
        completion_s = (self._dt * pp - self._pt * pd) / determinant
        if completion_s < prompt_s:
            # A completion's token is computed as a prompt's is, and alone: it is never cheaper. The best fit with both
            # alike, T = (P + D) a.
            prompt_s = completion_s = (self._pt + self._dt) / (self._pp + 2 * self._pd + self._dd)
        prompt_s = max(prompt_s, CHEAPEST * completion_s)
        return 1 / prompt_s, 1 / completion_s
