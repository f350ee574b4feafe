"""Asking a service about one picture until it has answered: once, patiently, and within the budget."""

from __future__ import annotations

import math
import queue
import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256

from tdtrain.options import Price
from tdtrain.teachers.services.answers import Answers, GaveUp, Kept, key_of, moment
from tdtrain.teachers.services.desk import AnyDesk, Closed
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
    tokens = price.per_million_input_tokens * usage.input_tokens + price.per_million_output_tokens * usage.output_tokens
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
    """An answer that is not whole by then is none, however it drips: clients only limit each read."""

    def wait_s(self, failed: int, draw: float) -> float:
        """How long to wait after so many failed calls: anything up to a limit that doubles, so that workers that failed
        together do not come back together (Brooker 2015, Exponential Backoff And Jitter, "full jitter").

        Args:
            draw: in [0, 1).
        """
        return draw * min(self.longest_wait_s, self.first_wait_s * 2.0 ** (failed - 1))


class GivenUp(Exception):
    """There is no answer for this picture, or `for_good`: there will be none. What was paid for trying is `paid`."""

    def __init__(self, reason: str, paid: Usage, for_good: bool = False) -> None:
        super().__init__(reason)
        self.paid, self.for_good = paid, for_good


def ask(
    service: Service,
    image: bytes,
    answers: Answers,
    desk: AnyDesk,
    price: Price = Price(),  # noqa: B008 - frozen
    expected: Usage = NOTHING,
    patience: Patience = Patience(),  # noqa: B008
    again: str | None = None,
    sleep: Callable[[float], None] = time.sleep,
    draw: Callable[[], float] = random.random,
) -> Kept:
    """The service's answer, the one that is kept or a new one, which is kept from then on.

    Args:
        image: a PNG or JPEG file.
        expected: what an attempt may use, set aside of the budget until it is known.
        again: ask even where it was given up for good before this `moment`.

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
        before = answers.gave_up(key)
        desk.open()

        def keep(entry: Kept | GaveUp) -> None:
            try:
                answers.put(key, entry)
            except OSError as error:
                desk.close(f"what it says cannot be stored ({error})")  # all that comes would be paid and lost
                raise

        try:
            paid = before.paid if before else NOTHING
            return _attempts(service, image, desk, price, expected, patience, sleep, draw, paid, keep)
        except GivenUp as error:
            if error.for_good:
                digest, why = sha256(image).hexdigest(), str(error)
                keep(GaveUp(question=service.question, image=digest, reason=why, paid=error.paid, at=moment()))
            raise


def _attempts(
    service: Service,
    image: bytes,
    desk: AnyDesk,
    price: Price,
    expected: Usage,
    patience: Patience,
    sleep: Callable[[float], None],
    draw: Callable[[], float],
    paid: Usage,
    keep: Callable[[Kept], None],
) -> Kept:
    failed, unusable, complaint = 0, 0, None
    while True:
        call = desk.begin(cost_of(expected, price))
        used, began = NOTHING, time.perf_counter()
        try:
            answer = _in_time(service, image, complaint, patience.deadline_s)
            used = answer.usage
            paid += used
            kept = Kept(
                question=service.question, image=sha256(image).hexdigest(), answer=answer, paid=paid,
                attempts=failed + unusable + 1, seconds=round(time.perf_counter() - began, 3),
                answered=datetime.now(UTC).isoformat(timespec="seconds"),
            )  # fmt: skip
            keep(kept)  # before anything else happens with it: the desk may be gone
            return kept
        except Unusable as error:
            used, unusable, complaint = error.usage, unusable + 1, str(error)
            paid += used
            if unusable >= patience.unusable:
                why = f"{unusable} answers could not be used, the last: {error}"
                raise GivenUp(why, paid, for_good=True) from error
        except Busy as error:
            failed += 1
            if failed >= patience.attempts:
                raise GivenUp(f"no answer to {failed} calls, the last: {error}", paid) from error
            if error.retry_after_s:
                desk.hold(error.retry_after_s)
            sleep(patience.wait_s(failed, draw()))
        except Refused as error:
            used = error.usage
            raise GivenUp(str(error), paid + used, for_good=True) from error
        except Denied as error:
            desk.close(str(error))
            raise Closed(str(error)) from error
        finally:
            desk.ended(call, cost_of(used, price))


def _in_time(service: Service, image: bytes, complaint: str | None, deadline_s: float) -> Answer:
    """One attempt in a thread of its own, which is left behind where it takes too long."""
    ended: queue.SimpleQueue[Answer | BaseException] = queue.SimpleQueue()

    def attempt() -> None:
        try:
            ended.put(service.ask(image, complaint))
        except BaseException as error:  # raised below, in the caller's thread
            ended.put(error)

    threading.Thread(target=attempt, daemon=True).start()
    try:
        answer = ended.get(timeout=None if deadline_s == math.inf else deadline_s)
    except queue.Empty:
        raise Busy(f"no answer in {deadline_s:g} s") from None
    if isinstance(answer, BaseException):
        raise answer
    return answer
