"""Several pictures in one call, of services that take them: what these leave is asked about one by one."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Protocol, runtime_checkable

from tdtrain.options import Price
from tdtrain.teachers.services.answers import Answers, key_of
from tdtrain.teachers.services.asking import Attempt, Page, Patience, cost_of
from tdtrain.teachers.services.desk import AnyDesk, Closed
from tdtrain.teachers.services.in_time import UnderWay, in_time
from tdtrain.teachers.services.service import NOTHING, Answer, Busy, Denied, Refused, Service, Usage

Said = Sequence[Answer | Busy | Refused]
ATTEMPTS = 3
"""Calls about the same pictures; then a smaller one may be easier to answer."""


@runtime_checkable
class TakesSeveral(Service, Protocol):
    """A service that answers several pictures in one call."""

    most_bytes: int
    """Of the pictures of one call."""

    def ask_several(self, images: Sequence[bytes]) -> Said:
        """One attempt: an answer for each picture, or what is wrong with it. Raises Busy, Refused or Denied."""
        ...


def ask_together(
    service: TakesSeveral, images: Iterable[bytes], answers: Answers, desk: AnyDesk, price: Price, expected: Usage,
    patience: Patience, opened: set[str], again: str | None = None, sleep: Callable[[float], None] = time.sleep,
    draw: Callable[[], float] = random.random,
) -> None:  # fmt: skip
    """Asks about those that nobody has answered yet, and keeps what comes, as `ask` does. What has no answer, for
    whatever reason, is for `ask`, which waits, tries again, or hears why nobody may ask.

    Args:
        opened: gets the keys of all that the desk has among its pages from now on.
    """
    pictures = {key_of(service.question, image): image for image in images}
    with answers.free(pictures) as free:
        pages: list[Page] = []
        for key in free:
            if answers.get(key) is None and answers.hopeless(key, again) is None:
                try:
                    desk.open()
                except Closed:
                    break
                opened.add(key)
                pages.append(Page(service, pictures[key], answers, key, desk, price))
        for group in _groups(pages, service.most_bytes):
            left, failed = group, 0
            while len(left) > 1 and failed < ATTEMPTS:
                sleep(patience.wait_s(failed, draw()) if failed else 0.0)
                left, failed = _call(service, left, expected, patience.deadline_s), failed + 1


def _groups(pages: Sequence[Page], most_bytes: int) -> Iterator[list[Page]]:
    group: list[Page] = []
    size = 0
    for page in pages:
        if group and size + len(page.image) > most_bytes:
            yield group
            group, size = [], 0
        group.append(page)
        size += len(page.image)
    if group:
        yield group


def _call(service: TakesSeveral, pages: Sequence[Page], expected: Usage, deadline_s: float) -> list[Page]:
    """One attempt. Returns those that may be answered if they are asked about together once more."""
    desk, price = pages[0].desk, pages[0].price
    try:
        call = desk.begin(len(pages) * cost_of(expected, price), pages=len(pages))
    except Closed:  # what is left may be enough for some of them
        return []
    attempt = Attempt(call, 1, time.perf_counter())

    def ended(said: Said | BaseException) -> None:
        """Keeps what came, whoever waits for it, and says what it cost. Raises what the first that was not kept did."""
        answers = list(zip(pages, said, strict=True)) if isinstance(said, Sequence) else []
        used = sum((one.usage for _, one in answers if isinstance(one, Answer | Refused)), NOTHING)
        wrong: list[Exception] = []
        for page, one in answers:
            try:
                _keep(page, attempt, one)
            except Exception as error:  # the others were paid as well
                wrong.append(error)
        desk.ended(call, cost_of(used, price))
        if wrong:
            raise wrong[0]

    said: Said | BaseException
    try:
        said = in_time(partial(service.ask_several, [page.image for page in pages]), ended, deadline_s)
    except UnderWay:
        return []
    except Exception as error:
        said = error
    ended(said)
    if isinstance(said, Denied):
        desk.close(str(said))
    if isinstance(said, Busy):
        desk.hold(said.retry_after_s or 0.0)
        return list(pages)
    if isinstance(said, BaseException):  # each is asked about alone, and says so
        return []
    return [page for page, one in zip(pages, said, strict=True) if isinstance(one, Busy)]


def _keep(page: Page, attempt: Attempt, said: Answer | Busy | Refused) -> None:
    if isinstance(said, Answer):
        page.answered(said, attempt)
    elif isinstance(said, Refused):
        tried = page.unusable(said)
        page.gave_up(str(said), tried.paid, tried.unused)
