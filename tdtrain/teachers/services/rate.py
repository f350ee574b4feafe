"""When calls to a service may begin, so that no second has more of them than the limit, as the service counts."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable

TRAVEL_S = 0.5
"""So long after it began, a call has reached the service, if not before. Slower lines need a lower limit."""
FIRST_S = 5.0
"""The same, while its asker has had no answer yet: an SDK's first call imports and builds much of what it needs."""


class Rate:
    """Calls begin evenly; what is not used is not saved up.

    A call may begin when fewer than the limit may still have reached the service within the last second: of those that
    ended, it had by their end, and of the others `TRAVEL_S` (or `FIRST_S`) after they began. So of any `limit` + 1
    calls, the last one to begin was not let go before the first of them had been there for a second.

    Args:
        per_second: at most; None: as they come. Where it is not a whole number, that many in the shortest time of a
            second or more that makes it one, such as 1 in 2 s.
    """

    def __init__(self, per_second: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._most = math.ceil(per_second) if per_second else None
        self._window_s = self._most / per_second if self._most and per_second else 0.0
        self._apart_s = 1 / per_second if per_second else 0.0
        self._next = -math.inf
        self._calls = itertools.count()
        self._there_by: dict[int, float] = {}
        self._askers: dict[int, str] = {}
        self._answered: set[str] = set()

    def wait_s(self) -> float:
        """How long until a call may begin, as far as is known; less where others end before. 0: now."""
        now = self._clock()
        wait = self._next - now
        if self._most is not None:
            self._there_by = {call: by for call, by in self._there_by.items() if by + self._window_s > now}
            if len(self._there_by) >= self._most:
                wait = max(wait, min(self._there_by.values()) + self._window_s - now)
        return max(0.0, wait)

    def begin(self, asker: str = "") -> int:
        """A call begins, of whatever process. Returns its number."""
        now, call = self._clock(), next(self._calls)
        if self._most is not None:
            self._next = max(self._next, now - self._apart_s) + self._apart_s
            self._there_by[call] = now + (TRAVEL_S if asker in self._answered else FIRST_S)
            self._askers[call] = asker
        return call

    def end(self, call: int) -> None:
        """A call has its answer, or none."""
        if call in self._there_by:
            self._there_by[call] = min(self._there_by[call], self._clock())
        if call in self._askers:
            self._answered.add(self._askers.pop(call))

    def hold(self, seconds: float) -> None:
        """No call begins for so long."""
        self._next = max(self._next, self._clock() + seconds)
