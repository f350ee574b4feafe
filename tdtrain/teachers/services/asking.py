"""Asking a service about one picture until it has answered: once, patiently, and within the budget."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from typing import NamedTuple

from tdtrain.options import Price
from tdtrain.teachers.services.answers import Answers, GaveUp, Kept, Tried, key_of, moment
from tdtrain.teachers.services.desk import AnyDesk, Closed
from tdtrain.teachers.services.in_time import UnderWay, in_time
from tdtrain.teachers.services.service import (
    ANSWER_S,
    NOTHING,
    Answer,
    Busy,
    Denied,
    Fixed,
    Refused,
    Service,
    Unusable,
    Usage,
)


def cost_of(usage: Usage, price: Price) -> float:
    """US dollars."""
    less = 1.0 - price.batch_share
    tokens = (
        price.per_million_input_tokens * (usage.input_tokens - less * usage.batched_input_tokens)
        + price.per_million_output_tokens * (usage.output_tokens - less * usage.batched_output_tokens)
    )  # fmt: skip
    return price.per_page * usage.pages + tokens / 1e6


class Patience(Fixed):
    """How long one picture is tried."""

    attempts: int = 8
    """Calls that are not answered, at most."""
    unusable: int = 3
    """Answers that cannot be used, at most."""
    first_wait_s: float = 1.0
    """After the first call that is not answered; twice as long after each other."""
    longest_wait_s: float = 60.0
    deadline_s: float = ANSWER_S
    """An answer that is not whole by then is none."""

    def wait_s(self, failed: int, draw: float) -> float:
        """How long to wait after so many failed calls: anything up to a limit that doubles, so that workers that failed
        together do not come back together (Brooker 2015, Exponential Backoff And Jitter, "full jitter").

        Args:
            draw: in [0, 1).
        """
        return draw * min(self.longest_wait_s, self.first_wait_s * 2.0 ** (failed - 1))


class GivenUp(Exception):
    """There is no answer for this picture, or `for_good`: there will be none. What was paid for trying is `paid`, what
    came of it `unused`."""

    def __init__(self, reason: str, paid: Usage, for_good: bool = False, unused: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.paid, self.for_good, self.unused = paid, for_good, unused


UNSTORED = "answers cannot be stored"


class Unstored(OSError):
    """An answer came and could not be written down: the disk is full, or the folder may not be written to."""


def ask(
    service: Service,
    image: bytes,
    answers: Answers,
    desk: AnyDesk,
    price: Price = Price(),  # noqa: B008 - frozen
    expected: Usage = NOTHING,
    patience: Patience = Patience(),  # noqa: B008
    again: str | None = None,
    opened: bool = False,
    sleep: Callable[[float], None] = time.sleep,
    draw: Callable[[], float] = random.random,
) -> Kept:
    """The service's answer, the one that is kept or a new one, which is kept from then on.

    Args:
        image: a PNG or JPEG file.
        expected: what an attempt may use, set aside of the budget until it is known.
        again: ask even where it was given up for good before this `moment`.
        opened: whether the desk has it among its pages.

    Raises: GivenUp where the service does not answer, or not so that it can be used; Closed where nobody may ask.
    """
    key = key_of(service.question, image)
    if (kept := answers.get(key)) is not None:
        return kept
    with answers.alone(key):
        if (kept := answers.get(key)) is not None:  # of another job, meanwhile
            return kept
        if (hopeless := answers.hopeless(key, again)) is not None:
            raise GivenUp(hopeless.reason, hopeless.paid, for_good=True)
        before = answers.tried(key)
        if not opened:
            desk.open()
        page = Page(service, image, answers, key, desk, price)
        try:
            return _attempts(page, expected, patience, sleep, draw, before)
        except GivenUp as error:
            if error.for_good:
                page.gave_up(str(error), error.paid, error.unused)
            raise


class Attempt(NamedTuple):
    """A call: the desk's number of it, how many there were with it, and when it began."""

    call: int
    number: int
    began: float


_WRITING = [threading.Lock() for _ in range(64)]
"""Calls about one picture may end at the same time: what they cost is added up by one after the other."""


@dataclass(frozen=True)
class Page:
    """A picture that is asked about, and where its answer belongs."""

    service: Service
    image: bytes
    answers: Answers
    key: str
    desk: AnyDesk
    price: Price

    @property
    def digest(self) -> str:
        return sha256(self.image).hexdigest()

    def keep(self, entry: Kept | GaveUp | Tried) -> None:
        try:
            self.answers.put(self.key, entry)
        except OSError as error:
            why = f"{UNSTORED} ({error})"  # all that comes would be paid and lost
            self.desk.close(why)
            raise Unstored(why) from error

    def gave_up(self, reason: str, paid: Usage, unused: tuple[str, ...]) -> None:
        """There will be no answer."""
        question = self.service.question
        self.keep(GaveUp(question=question, image=self.digest, reason=reason, paid=paid, at=moment(), unused=unused))

    def answered(self, answer: Answer, attempt: Attempt) -> Kept:
        """Keeps it before anything else happens with it: the desk may be gone. Where one that came late is kept, this
        one is paid as well."""
        with self._writing():
            kept = self._with(answer, attempt)
            self.keep(kept)
        return kept

    def _with(self, answer: Answer, attempt: Attempt) -> Kept:
        if (there := self.answers.get(self.key)) is not None:
            return there.model_copy(update={"paid": there.paid + answer.usage})
        before = self.answers.tried(self.key)
        return Kept(
            question=self.service.question, image=self.digest, answer=answer, paid=before.paid + answer.usage,
            attempts=attempt.number, seconds=round(time.perf_counter() - attempt.began, 3),
            answered=datetime.now(UTC).isoformat(timespec="seconds"), unused=before.unused,
        )  # fmt: skip

    def unusable(self, said: Unusable | Refused, late: bool = False) -> Tried:
        """Keeps what it was and cost, with what else was tried; where that is over by now, with how it ended."""
        with self._writing():
            before = self.answers.tried(self.key)
            ended: Kept | GaveUp | None = self.answers.get(self.key)
            if ended is None and late and not before.unusable:
                ended = self.answers.gave_up(self.key)
            tried = before.after(said)
            if ended is None:
                self.keep(tried)
            else:
                now = Tried(paid=ended.paid, unused=ended.unused).after(said)
                self.keep(ended.model_copy(update={"paid": now.paid, "unused": now.unused}))
        return tried

    def late(self, attempt: Attempt, said: Answer | BaseException) -> None:
        """What a call brought that nobody waits for any more: it is paid all the same."""
        used = said.usage if isinstance(said, Answer | Unusable | Refused) else NOTHING
        try:
            if isinstance(said, Answer):
                self.answered(said, attempt)
            elif isinstance(said, Unusable | Refused):
                self.unusable(said, late=True)
        finally:
            self.desk.ended(attempt.call, cost_of(used, self.price))

    def _writing(self) -> threading.Lock:
        return _WRITING[int(self.key[:8], 16) % len(_WRITING)]


def _attempts(
    page: Page,
    expected: Usage,
    patience: Patience,
    sleep: Callable[[float], None],
    draw: Callable[[], float],
    before: Tried,
) -> Kept:
    service = page.service
    failed, tried = 0, before
    while True:
        if failed and (kept := page.answers.get(page.key)) is not None:  # late, see above
            return kept
        call = page.desk.begin(cost_of(expected, page.price))
        attempt = Attempt(call, failed + tried.unusable + 1, time.perf_counter())
        used, under_way = NOTHING, False
        try:
            answer = in_time(
                partial(service.ask, page.image, tried.complaint), partial(page.late, attempt), patience.deadline_s
            )
            used = answer.usage
            return page.answered(answer, attempt)
        except Unusable as error:
            used = error.usage
            tried = page.unusable(error)
            if tried.unusable >= patience.unusable:
                why = f"{tried.unusable} answers could not be used, the last: {error}"
                raise GivenUp(why, tried.paid, for_good=True, unused=tried.unused) from error
        except Busy as error:
            under_way = isinstance(error, UnderWay)
            failed += 1
            if failed >= patience.attempts:
                raise GivenUp(f"no answer to {failed} calls, the last: {error}", tried.paid) from error
            if error.retry_after_s:
                page.desk.hold(error.retry_after_s)
            sleep(patience.wait_s(failed, draw()))
        except Refused as error:
            used = error.usage
            tried = page.unusable(error)
            raise GivenUp(str(error), tried.paid, for_good=True, unused=tried.unused) from error
        except Denied as error:
            page.desk.close(str(error))
            raise Closed(str(error)) from error
        finally:
            if not under_way:
                page.desk.ended(call, cost_of(used, page.price))
