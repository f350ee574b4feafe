"""When calls to a service may begin, so that no second has more of them than the limit, as the service counts, and no
more are under way than may be at once."""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

TRAVEL_S = 0.5
"""So long after it began, a call has reached the service, if not before. Slower lines need a lower limit."""
FIRST_S = 5.0
"""The same, while its asker has had no answer yet: an SDK's first call imports and builds much of what it needs."""
MADE_UP_S = 0.5
"""So far calls may lag behind an even pace and catch up: a machine stalls now and then."""
TURN_S = 0.01
"""After so long a job asks again that lets another go first."""
GIVES_UP_S = 0.5
"""A job that was told to wait and has not asked again for so long waits no more."""
FORGOTTEN_S = 60.0
"""A job of which nothing was heard for so long leaves the rate to the others."""
LONGEST_CALL_S = 400.0
"""No call is under way for longer; one that was killed never ends."""
SLOT_S = 1.0
"""After so long it is looked again whether a call has ended, where nobody says so."""


class AnyRate(Protocol):
    """What a desk needs of a rate; see `Rate`."""

    recheck_s: float
    """After so long a wait may be shorter than was said."""

    def begin(self, per_second: float | None, asker: str = "", job: str = "", at_once: int | None = None) -> Begun: ...

    def end(self, call: int) -> None: ...

    def hold(self, seconds: float) -> None: ...


@dataclass(frozen=True)
class Begun:
    """A call may begin, as `call`; or it is None, and after `wait_s` one may, as far as is known: sooner where others
    end before."""

    call: int | None
    wait_s: float = 0.0


@dataclass
class _Job:
    """Its limit: so many in any second. Where that is not a whole number, as many in the shortest time of a second or
    more that makes it one, such as 1 in 2 s."""

    per_second: float
    at_once: float
    asked: float
    heard: float
    waits: bool = False
    began: float = -math.inf

    def waits_at(self, now: float) -> bool:
        return self.waits and self.asked + GIVES_UP_S > now

    @property
    def most(self) -> float:
        return math.ceil(self.per_second) if self.per_second < math.inf else math.inf

    @property
    def window_s(self) -> float:
        return self.most / self.per_second if self.per_second < math.inf else 0.0


@dataclass(frozen=True)
class _Call:
    asker: str
    job: str
    began: float


class Rate:
    """Calls begin evenly; what is not used is not saved up, but for `MADE_UP_S`.

    A call may begin when fewer than the limit may still have reached the service within the last second: of those that
    ended, it had by their end, and of the others `TRAVEL_S` (or `FIRST_S`) after they began. So of any `limit` + 1
    calls, the last one to begin was not let go before the first of them had been there for a second.

    Args:
        heir: of calls before it nothing is known, so none begins for a second, or for as long as the limit speaks of.
    """

    recheck_s = math.inf

    def __init__(self, heir: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next, self._heir_from = clock(), clock() if heir else -math.inf
        self._calls = itertools.count(random.getrandbits(48))  # unlike those of another one, before or after
        self._there_by: dict[int, float] = {}
        self._under_way: dict[int, _Call] = {}
        self._answered: set[str] = set()
        self._jobs: dict[str, _Job] = {}
        self._longest_s = 1.0

    def begin(self, per_second: float | None, asker: str = "", job: str = "", at_once: int | None = None) -> Begun:
        """Lets a call begin, or says when to ask again.

        Args:
            per_second: calls of all jobs, at most; None: as they come. Where jobs differ, the lowest is kept to. They
                take turns.
            asker: the process that calls.
            job: whose limits these are.
            at_once: calls of all jobs that may be under way; None: any number.
        """
        now = self._clock()
        own = self._jobs.setdefault(job, _Job(math.inf, math.inf, now, now))
        own.per_second, own.at_once, own.asked, own.heard = per_second or math.inf, at_once or math.inf, now, now
        self._jobs = {name: one for name, one in self._jobs.items() if one.heard + FORGOTTEN_S > now}
        lowest = min(self._jobs.values(), key=lambda one: one.per_second)
        wait = self._wait_s(lowest, now) or (SLOT_S if self._full(now) else 0.0)
        if not wait and any(one.waits_at(now) and one.began < own.began for one in self._jobs.values()):
            wait = TURN_S  # their turn
        own.waits = wait > 0
        if wait:
            return Begun(None, wait)
        call, own.began = next(self._calls), now
        apart_s = 1 / lowest.per_second
        self._next = max(self._next, now - max(MADE_UP_S, apart_s)) + apart_s
        self._there_by[call] = now + (TRAVEL_S if asker in self._answered else FIRST_S)
        self._under_way[call] = _Call(asker, job, now)
        return Begun(call)

    def _wait_s(self, lowest: _Job, now: float) -> float:
        self._longest_s = max(self._longest_s, lowest.window_s)
        self._there_by = {call: by for call, by in self._there_by.items() if by + self._longest_s > now}
        recent = sorted(by for by in self._there_by.values() if by + lowest.window_s > now)
        wait = max(self._next, self._heir_from + max(1.0, lowest.window_s)) - now
        if len(recent) >= lowest.most:
            wait = max(wait, recent[-int(lowest.most)] + lowest.window_s - now)
        return max(0.0, wait)

    def _full(self, now: float) -> bool:
        self._under_way = {call: one for call, one in self._under_way.items() if one.began + LONGEST_CALL_S > now}
        of_jobs = sum(one.job in self._jobs for one in self._under_way.values())
        return of_jobs >= min(one.at_once for one in self._jobs.values())

    def end(self, call: int) -> None:
        """A call has its answer, or none."""
        if call in self._there_by:
            self._there_by[call] = min(self._there_by[call], self._clock())
        if ended := self._under_way.pop(call, None):
            self._answered.add(ended.asker)
            if ended.job in self._jobs:
                self._jobs[ended.job].heard = self._clock()

    def hold(self, seconds: float) -> None:
        """No call begins for so long."""
        self._next = max(self._next, self._clock() + seconds)
