"""Where calls to a service are handed out: how fast, and for how much money."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import Protocol

from tdtrain.teachers.services.rate import LONGEST_CALL_S, AnyRate, Rate


class AnyDesk(Protocol):
    """What askers need of a desk; see `Desk`."""

    def open(self) -> None: ...

    def begin(self, may_cost_usd: float = 0.0, asker: str = "", pages: int = 1) -> int: ...

    def ended(self, call: int, cost_usd: float) -> None: ...

    def hold(self, seconds: float) -> None: ...

    def close(self, reason: str) -> None: ...

    def counts(self) -> Counts: ...


class Closed(Exception):
    """No call may begin: the budget is used up, or the service denies everybody."""


@dataclass(frozen=True)
class Counts:
    """Of one job so far. `cost_usd` includes what calls under way may cost."""

    calls: int = 0
    pages: int = 0
    cost_usd: float = 0.0
    denied: str = ""
    """Why the service answers nobody, if it does not."""


class Desk:
    """Lets calls begin one after the other, within a rate and a budget. One for all workers, safe to share between
    threads.

    Args:
        per_second: calls, at most; None: as they come. See `Rate`.
        max_pages: pages that may be asked about.
        max_cost_usd: what they may cost together.
        rate: that other jobs share.
        job: whose desk it is, for them.
        at_once: calls of all these jobs that may be under way.
    """

    def __init__(
        self,
        per_second: float | None = None,
        max_pages: int | None = None,
        max_cost_usd: float | None = None,
        rate: AnyRate | None = None,
        job: str = "",
        at_once: int | None = None,
    ) -> None:
        self._at_once = at_once
        self._per_second, self._max_pages, self._max_cost_usd = per_second, max_pages, max_cost_usd
        self._rate, self._job, self._changed = rate or Rate(), job, threading.Condition()
        self._counts, self._aside, self._dearest = Counts(), dict[int, tuple[float, int]](), 0.0

    def open(self) -> None:
        """One more page. Raises Closed where those were all."""
        with self._changed:
            self._check_denied()
            now = self._counts
            if self._max_pages is not None and now.pages >= self._max_pages:
                raise Closed(f"max_pages={self._max_pages} pages were asked about")
            self._counts = replace(now, pages=now.pages + 1)

    def begin(self, may_cost_usd: float = 0.0, asker: str = "", pages: int = 1) -> int:
        """Sets a call's cost aside, and waits until it may begin. Returns its number. Raises Closed.

        Args:
            may_cost_usd: at most; where pages before cost more, that is set aside.
            asker: the process that calls; see `Rate`.
            pages: that it is about.
        """
        with self._changed:
            # Calls under way may cost less than was set aside.
            self._changed.wait_for(
                lambda: self._counts.denied or self._affordable(may_cost_usd, pages) or not self._aside, LONGEST_CALL_S
            )
            self._check_denied()
            aside = self._at_most(may_cost_usd, pages)
            if not self._affordable(may_cost_usd, pages):
                raise Closed(
                    f"max_cost_usd={self._max_cost_usd:g}: {self._counts.cost_usd:.4f} are spent or set aside, and the "
                    f"next call may cost {aside:.4f}"
                )
            now = self._counts
            self._counts = replace(now, calls=now.calls + 1, cost_usd=now.cost_usd + aside)
            waiting = -now.calls - 1  # it has no number yet
            self._aside[waiting] = (aside, pages)
            while not self._counts.denied:
                begun = self._rate.begin(self._per_second, asker, self._job, self._at_once)
                if begun.call is not None:
                    self._aside[begun.call] = self._aside.pop(waiting)
                    return begun.call
                self._changed.wait(min(begun.wait_s, self._rate.recheck_s))
            del self._aside[waiting]
            now = self._counts
            self._counts = replace(now, calls=now.calls - 1, cost_usd=now.cost_usd - aside)
            raise Closed(now.denied)

    def _check_denied(self) -> None:
        if self._counts.denied:
            raise Closed(self._counts.denied)

    def _at_most(self, may_cost_usd: float, pages: int) -> float:
        return max(may_cost_usd, pages * self._dearest)

    def _affordable(self, may_cost_usd: float, pages: int) -> bool:
        cost = self._counts.cost_usd + self._at_most(may_cost_usd, pages)
        return self._max_cost_usd is None or cost <= self._max_cost_usd

    def ended(self, call: int, cost_usd: float) -> None:
        """Puts what a call cost in the place of what was set aside for it."""
        with self._changed:
            now, (aside, pages) = self._counts, self._aside.pop(call)
            self._counts = replace(now, cost_usd=now.cost_usd + cost_usd - aside)
            self._dearest = max(self._dearest, cost_usd / pages)
            self._rate.end(call)
            self._changed.notify_all()

    def hold(self, seconds: float) -> None:
        """The service asked everybody to wait."""
        with self._changed:
            self._rate.hold(seconds)

    def close(self, reason: str) -> None:
        """The service answers nobody: no page is opened and no call begins any more."""
        with self._changed:
            self._counts = replace(self._counts, denied=self._counts.denied or reason)
            self._changed.notify_all()

    def counts(self) -> Counts:
        """What was asked and spent."""
        return self._counts
