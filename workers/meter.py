"""Whose work a device's time goes to."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable


class Meter:
    """The time of one device, divided evenly at every moment among the requests in its engines.

    A request is charged ∫ dt / n(t) over the time it is in an engine, where n(t) counts the requests that are in one:
    an engine's step computes one piece of each. So the charges add up to the time in which anything was in an engine.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, full: int = 1) -> None:
        """`full`: so many requests of one model at once show how fast it is in a full batch."""
        self._clock = clock
        self.full = full
        self._at = clock()
        self._each_s = 0.0
        self._running: Counter[str] = Counter()
        self._busy_s: defaultdict[str, float] = defaultdict(float)
        self._full_s: defaultdict[str, float] = defaultdict(float)

    def begin(self, model_key: str) -> float:
        """A request enters an engine; returns the mark that `end` and `so_far` want."""
        self._advance()
        self._running[model_key] += 1
        return self._each_s

    def so_far(self, mark: float) -> float:
        """Seconds charged since the mark to a request that is still in."""
        self._advance()
        return self._each_s - mark

    def end(self, model_key: str, mark: float) -> float:
        """The request leaves; returns the seconds it is charged."""
        seconds = self.so_far(mark)
        self._running[model_key] -= 1
        return seconds

    def busy_s(self, model_key: str | None = None) -> float:
        """Seconds charged so far to one model's requests, or to all."""
        self._advance()
        return sum(self._busy_s.values()) if model_key is None else self._busy_s[model_key]

    def full_s(self, model_key: str) -> float:
        """Of a model's `busy_s`, what was charged while at least `full` of its requests were in."""
        self._advance()
        return self._full_s[model_key]

    def _advance(self) -> None:
        now = self._clock()
        if (count := self._running.total()) > 0:
            each_s = (now - self._at) / count
            self._each_s += each_s
            for model_key, running in self._running.items():
                self._busy_s[model_key] += each_s * running
                if running >= self.full:
                    self._full_s[model_key] += each_s * running
        self._at = now


class Account:
    """What one loaded model's requests are charged: their shares of the device's time, and its load, once."""

    def __init__(self, meter: Meter, model_key: str, *, has_device: bool = True) -> None:
        """`has_device`: False for a remote model: its requests take no device time of ours and are charged none."""
        self._meter = meter
        self._model_key = model_key
        self._has_device = has_device
        self._unpaid_s = 0.0

    @property
    def busy_s(self) -> float:
        """Seconds of the meter that went to this model."""
        return self._meter.busy_s(self._model_key)

    @property
    def full_s(self) -> float:
        """Of these, in a batch that was full enough to tell its speed."""
        return self._meter.full_s(self._model_key)

    def owe(self, load_s: float) -> None:
        """The model was loaded, or woken: whoever uses it first pays."""
        self._unpaid_s += load_s

    def pay_load(self) -> float:
        """Seconds of loading that this user is charged; 0 for all but the first."""
        unpaid_s, self._unpaid_s = self._unpaid_s, 0.0
        return unpaid_s

    def begin(self, *, load_s: float = 0.0) -> "Share":
        """A request enters the engine, with its part of what its user paid for the load."""
        return Share(self._meter, self._model_key, load_s=load_s, has_device=self._has_device)


class Share:
    """One request's charge."""

    def __init__(self, meter: Meter, model_key: str, *, load_s: float, has_device: bool) -> None:
        self._meter = meter
        self._model_key = model_key
        self._has_device = has_device
        self._mark = meter.begin(model_key)
        self._device_s: float | None = None
        self.load_s = load_s

    def end(self) -> None:
        """The request left the engine. May be called twice."""
        if self._device_s is None:
            self._device_s = self._meter.end(self._model_key, self._mark)

    def as_fields(self) -> dict[str, float]:
        """The `Completion` fields it fills, in seconds."""
        device_s = self._meter.so_far(self._mark) if self._device_s is None else self._device_s
        return {"device_s": round(device_s if self._has_device else 0.0, 6), "load_s": round(self.load_s, 6)}
