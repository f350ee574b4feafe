"""Claude's Message Batches: many pages handed in at once, answered within a day, for less.

    batches/NAME.json    one a batch that was not collected yet: what was asked, and its id as soon as there is one

A batch is written down before it is handed in. A job that is killed finds what it had handed in, by its id or, where it
was killed just then, among the newest batches by what they answer, and pays nothing again.
"""

from __future__ import annotations

import itertools
import json
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, NamedTuple

import anthropic

from tdtrain.data.storage import Folder
from tdtrain.options import Price
from tdtrain.teachers.services.answers import BATCHES, Answers, GaveUp, Kept, Tried, moment
from tdtrain.teachers.services.asking import Patience, cost_of
from tdtrain.teachers.services.attempt import Said, failure
from tdtrain.teachers.services.claude import Claude
from tdtrain.teachers.services.service import NOTHING, Answer, Busy, Denied, Fixed, Question, Refused, Unusable, Usage

SMALLEST = 20
"""A round is no smaller than the first over this, while pages are left: it may take a day."""
POLL_S = 30.0
"""How often it is looked whether a batch has ended."""
STATUSES = {
    "invalid_request_error": 400, "authentication_error": 401, "billing_error": 402, "permission_error": 403,
    "not_found_error": 404, "request_too_large": 413, "rate_limit_error": 429,
}  # fmt: skip
"""What a page's error in a batch would be, were it asked about alone; those of the service are left out."""
Watch = Callable[[int, int], None]
MOST, MOST_BYTES = 1_000, 150_000_000
"""Pages of a batch, and bytes of their requests; the service takes more of both."""


class Page(Tried):
    """A page in a batch: its picture's SHA-256, and what became of it before."""

    image: str = ""


class Batch(Fixed):
    """What is to be handed in, by the key of each answer."""

    question: Question
    pages: dict[str, Page]
    id: str | None = None
    known: tuple[str, ...] | None = None
    """The service's newest batches before this one was handed in; None: it was not yet."""


class Budget(NamedTuple):
    """Of one job: what a page may use, and how many pages and US dollars are the most; None: any."""

    price: Price = Price()
    most: Usage = NOTHING
    max_pages: int | None = None
    max_cost_usd: float | None = None

    def pages(self, spent: Usage) -> int | None:
        """How many pages may be handed in after what was spent; None: any number."""
        cost = cost_of(self.most, self.price)
        if self.max_cost_usd is None or not cost:
            return None
        return max(0, int((self.max_cost_usd - cost_of(spent, self.price)) / cost + 1e-9))


UNLIMITED = Budget()


def pending(folder: Folder) -> list[str]:
    """Batches of a folder of answers that were not collected yet."""
    return [f"{BATCHES}/{name}" for name in folder.files(BATCHES) if name.endswith(".json")]


class Batches:
    """Asks in batches. Jobs that share a folder on a file system take turns.

    Args:
        patience: failed calls in a row, at most, before it gives up; the next run goes on.
    """

    def __init__(
        self, service: Claude, folder: Folder, budget: Budget = UNLIMITED, patience: int = 20,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        self._service, self._folder, self._answers = service, folder, Answers(folder)
        self._batches = service.client.messages.batches
        self._budget, self._patience, self._sleep = budget, patience, sleep
        self._spent, self._denied = NOTHING, ""

    def ask(self, pages: Mapping[str, Callable[[], bytes]], watch: Watch, again: str | None = None) -> None:
        """Collects what is still out, then asks about the rest of `pages` (key of each answer, and what reads its
        picture), and once more about what could not be used. What the service did not get to, or what is beyond the
        budget, is left unanswered.

        Args:
            watch: is called with how many pages of a batch are answered, and of how many.
            again: ask even where it was given up for good before this `moment`.

        Raises: Busy where the service does not answer for long; Denied.
        """
        with self._answers.alone(BATCHES):
            self._ask(pages, watch, again)

    def _ask(self, pages: Mapping[str, Callable[[], bytes]], watch: Watch, once_more: str | None) -> None:
        waiting = {key: Page(**self._answers.tried(key).model_dump()) for key in pages}
        done = [name for name in pending(self._folder) if self._read(name).question == self._service.question]
        for name in done:
            for key, page in self._collect(name, watch).items():
                waiting[key] = max(page, waiting.get(key, page), key=lambda one: one.unusable)
        self._spent = NOTHING  # by other jobs
        waiting = {key: page for key, page in waiting.items() if key in pages and self._open(key, once_more)}
        ranked = sorted(waiting.items(), key=lambda item: -item[1].unusable)  # those that were tried come first
        chosen = len(ranked) if self._budget.max_pages is None else self._budget.max_pages
        waiting, beyond = dict(ranked[:chosen]), dict(ranked[chosen:])
        first: int | None = None
        while True:
            if waiting and self._denied:
                raise Denied(self._denied)  # what there is to do lies in the files
            room = self._budget.pages(self._spent)
            first = room if first is None else first
            if room is not None and first is not None and SMALLEST * room < min(first, len(waiting)):
                room = 0  # what is left of the budget is not worth another day
            now = dict(list(waiting.items())[:room])
            names = list(self._hand_in(now, pages))
            rest = {key: page for key, page in waiting.items() if key not in now}
            if tried := {key: page for key, page in (beyond | rest).items() if page.unusable}:
                names.append(_new_name())
                self._write(names[-1], Batch(question=self._service.question, pages=tried))
            for name in done:
                self._folder.delete(name)
            if not now:
                break
            again: dict[str, Page] = {}
            for name in names:
                again |= self._collect(name, watch)
            waiting, done = {key: page for key, page in again.items() if key not in beyond} | rest, names

    def _open(self, key: str, again: str | None) -> bool:
        return self._answers.get(key) is None and self._answers.hopeless(key, again) is None

    def _hand_in(self, waiting: Mapping[str, Page], pages: Mapping[str, Callable[[], bytes]]) -> Iterable[str]:
        """Batches of at most so many pages and bytes. Yields the name of each."""
        requests: dict[str, Any] = {}
        tried: dict[str, Page] = {}
        size = 0
        for key, before in waiting.items():
            image = pages[key]()
            if requests and (len(requests) == MOST or size + 4 * len(image) / 3 > MOST_BYTES):
                yield self._create(requests, tried)
                requests, tried, size = {}, {}, 0
            page = before.model_copy(update={"image": sha256(image).hexdigest()})
            try:
                requests[key] = self._service.request(image, before.complaint)
            except Refused as error:
                self._give_up(key, page, str(error))
                continue
            tried[key] = page
            size += len(json.dumps(requests[key]))
        if requests:
            yield self._create(requests, tried)

    def _create(self, requests: Mapping[str, Any], tried: dict[str, Page]) -> str:
        name = _new_name()
        batch = Batch(question=self._service.question, pages=tried, known=tuple(made.id for made in self._newest()))
        self._write(name, batch)
        told: Any = [{"custom_id": key, "params": params} for key, params in requests.items()]
        found: str | None = None
        for failed in itertools.count(1):
            try:
                found = self._service.call(lambda: self._batches.create(requests=told)).id
                break
            except Busy as error:
                if failed == self._patience:
                    raise
                self._sleep(max(POLL_S, error.retry_after_s or 0.0))
                found = self._find(batch)  # its answer may have been lost
                if found:
                    break
        self._write(name, batch.model_copy(update={"id": found}))
        return name

    def _collect(self, name: str, watch: Watch) -> dict[str, Page]:
        """Waits for a batch and keeps its answers. Returns what has to be asked again, which the file holds from then
        on."""
        batch = self._read(name)
        found = batch.id or self._find(batch)
        again = self._results(found, batch, watch) if found else batch.pages
        self._write(name, Batch(question=batch.question, pages=again))
        return again

    def _find(self, batch: Batch) -> str | None:
        """The batch that was handed in when its id got lost: the one since then that answers these pages."""
        num = len(batch.pages)
        for made in self._newest() if batch.known is not None else ():
            counts = made.request_counts
            all_of_it = counts.processing + counts.succeeded + counts.errored + counts.canceled + counts.expired
            if made.id not in (batch.known or ()) and all_of_it == num and made.archived_at is None:
                self._wait(made.id, num, lambda done, total: None)
                if {told.custom_id for told in self._told(made.id, num)} == set(batch.pages):
                    return made.id
        return None

    def _newest(self) -> list[Any]:
        return self._patiently(lambda: self._batches.list(limit=100)).data

    def _read(self, name: str) -> Batch:
        return Batch.model_validate_json(self._folder.read(name))

    def _write(self, name: str, batch: Batch) -> None:
        self._folder.write(name, batch.model_dump_json().encode(), durable=True)

    def _told(self, batch_id: str, num: int) -> list[Any]:
        """The results of a batch of so many pages."""

        def results() -> list[Any]:
            try:
                told = list(self._batches.results(batch_id))
            except anthropic.AnthropicError:
                raise
            except Exception as error:  # while they arrive, past what the client looks after
                raise Busy(f"{type(error).__name__}: its results did not arrive") from error
            if (came := len({one.custom_id for one in told})) < num:  # of a body that ended early nobody is told
                raise Busy(f"{came} results of {num} arrived")
            return told

        return self._patiently(results)

    def _patiently(self, what: Callable[[], Said]) -> Said:
        for _ in range(self._patience - 1):
            try:
                return self._service.call(what)
            except Busy as error:
                self._sleep(max(POLL_S, error.retry_after_s or 0.0))
        return self._service.call(what)

    def _wait(self, batch_id: str, total: int, watch: Watch) -> bool:
        """Returns when it has ended: whether its results are there. They are kept for a month."""
        while True:
            now = self._patiently(lambda: self._known(batch_id))
            watch(total - now.request_counts.processing, total)
            if now.processing_status == "ended":
                return now.archived_at is None and now.results_url is not None
            self._sleep(POLL_S)

    def _known(self, batch_id: str) -> Any:
        try:
            return self._batches.retrieve(batch_id)
        except anthropic.NotFoundError as error:
            raise Denied(
                f"batch {batch_id} is not known to this key; use the one that handed it in, or delete what names it in "
                f"{self._folder.path(BATCHES)} and pay again"
            ) from error

    def _results(self, batch_id: str, batch: Batch, watch: Watch) -> dict[str, Page]:
        again: dict[str, Page] = {}
        there = self._wait(batch_id, len(batch.pages), watch)
        for told in self._told(batch_id, len(batch.pages)) if there else ():
            page = batch.pages.get(told.custom_id)
            if page is None:
                continue
            if told.result.type == "errored":
                error = told.result.error.error
                why = failure(STATUSES.get(error.type, 500), error.message, None)
                if isinstance(why, Refused):
                    self._give_up(told.custom_id, page, error.message)
                elif isinstance(why, Denied):  # whatever the picture
                    self._denied, again = str(why), again | {told.custom_id: page}
            elif told.result.type == "succeeded":
                once_more = self._keep(told.custom_id, page, told.result.message)
                again |= {told.custom_id: once_more} if once_more else {}
        return again

    def _keep(self, key: str, page: Page, message: Any) -> Page | None:
        """Keeps an answer; or returns the page, to be asked about once more."""
        try:
            answer = self._read_batched(message)
        except Unusable as error:
            self._spent += error.usage
            tried = page.after(error)
            if tried.unusable < Patience().unusable:
                return tried
            self._give_up(key, tried, f"{tried.unusable} answers could not be used, the last: {error}")
            return None
        except Refused as error:
            self._spent += error.usage
            self._give_up(key, page.after(error), str(error))
            return None
        except Busy as error:
            self._give_up(key, page, str(error))
            return None
        self._spent += answer.usage
        self._answers.put(key, Kept(
            question=self._service.question, image=page.image, answer=answer, paid=page.paid + answer.usage,
            attempts=page.unusable + 1, seconds=0.0, answered=datetime.now(UTC).isoformat(timespec="seconds"),
            unused=page.unused,
        ))  # fmt: skip
        return None

    def _read_batched(self, message: Any) -> Answer:
        try:
            answer = self._service.read(message)
        except (Unusable, Refused) as error:
            error.usage = error.usage.in_batch()
            raise
        return answer.model_copy(update={"usage": answer.usage.in_batch()})

    def _give_up(self, key: str, page: Page, reason: str) -> None:
        question = self._service.question
        self._answers.put(key, GaveUp(
            question=question, image=page.image, reason=reason, paid=page.paid, at=moment(), unused=page.unused,
        ))  # fmt: skip


def _new_name() -> str:
    return f"{BATCHES}/{uuid.uuid4().hex}.json"
