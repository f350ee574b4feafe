"""Answers that come late, and those that several jobs ask for at once, are paid once and kept."""

from __future__ import annotations

import itertools
import multiprocessing as mp
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from tdtrain.data.storage import open_folder
from tdtrain.options import Price
from tdtrain.teachers.services.answers import Answers, key_of
from tdtrain.teachers.services.asking import Patience, ask
from tdtrain.teachers.services.desk import Desk
from tdtrain.teachers.services.service import Answer, Refused, Unusable, Usage
from tests.unit.teachers.fakes import QUESTION, Fake


def test_what_comes_late_is_kept_and_paid(tmp_path: Path) -> None:
    """Its cost stays set aside as long as it is under way, and it is not asked for again."""
    price, desk, service, answer = Price(per_million_output_tokens=1000.0), Desk(), Fake(), threading.Event()
    at_once = service.ask

    def slowly(image: bytes, complaint: str | None = None) -> Answer:
        answer.wait(600)
        return at_once(image, complaint)

    service.ask = slowly  # type: ignore[method-assign]
    aside: list[float] = []

    def sleep(seconds: float) -> None:
        aside.append(desk.counts().cost_usd)
        answer.set()
        while not list(tmp_path.glob("answers/*/*.json")):
            time.sleep(0.01)

    kept = ask(
        service, b"a", Answers(open_folder(tmp_path)), desk, price, Usage(output_tokens=50), Patience(deadline_s=0.05),
        sleep=sleep,
    )  # fmt: skip
    assert kept.answer.lines[0].text == "a" and kept.paid.output_tokens == 10 and len(service.complaints) == 1
    while desk.counts().cost_usd != pytest.approx(0.01):
        time.sleep(0.01)
    assert aside == [pytest.approx(0.05)] and desk.counts().calls == 1


USED = Usage(output_tokens=10)


@pytest.mark.parametrize("first", ["a", Unusable("no JSON", USED, raw="{"), Refused("no", USED, raw="?")])
@pytest.mark.parametrize("comes", ["before the second", "before the third", "last"])
def test_what_comes_late_is_paid_with_what_was_tried_meanwhile(
    first: str | Exception, comes: str, tmp_path: Path
) -> None:
    """The first call's outcome comes late, the second's cannot be used, and the third is right."""
    service, answers, release, came = Fake(), Answers(open_folder(tmp_path)), threading.Event(), threading.Event()
    calls, desk = itertools.count(), Desk()
    key = key_of(service.question, b"a")

    def paid() -> int:
        kept = answers.get(key)
        return (kept.paid if kept else answers.tried(key).paid).output_tokens

    def step(image: bytes, complaint: str | None = None) -> Answer:
        if (number := next(calls)) == 0:
            release.wait(600)
            came.set()
            service.script = [] if first == "a" else [first]
        elif comes == f"before the {('second', 'third')[number - 1]}":
            before = paid()
            release.set()
            while paid() == before:
                time.sleep(0.01)
        if number == 1:
            raise Unusable("cut short", USED, raw="[")
        return at_once(image, complaint)

    at_once, service.ask = service.ask, step  # type: ignore[method-assign]
    kept = ask(service, b"a", answers, desk, patience=Patience(deadline_s=0.5), sleep=lambda _: None)
    assert kept.answer.lines[0].text == "a"
    release.set()
    came.wait(600)
    all_paid = 10 * (2 if (first, comes) == ("a", "before the second") else 3)
    until = time.monotonic() + 60
    while paid() < all_paid and time.monotonic() < until:
        time.sleep(0.01)
    there = answers.get(key)
    assert there and there.paid.output_tokens == all_paid and not list(tmp_path.glob("tried/*/*"))
    assert set(there.unused) == {"[", *([] if isinstance(first, str) else [first.raw])}


class Counting(Fake):
    """Takes a while, and notes each answer it gives in a file."""

    def __init__(self, log: Path) -> None:
        super().__init__()
        self._log = log

    def ask(self, image: bytes, complaint: str | None = None) -> Answer:
        time.sleep(0.01)
        with self._log.open("ab", buffering=0) as file:
            file.write(image + b"\n")
        return super().ask(image, complaint)


def all_of_them(folder: str, num: int) -> None:
    """A job."""
    service = Counting(Path(folder) / "log")
    for number in range(num):
        ask(service, str(number).encode(), Answers(open_folder(folder)), Desk())


def test_jobs_that_run_together_and_are_killed_ask_once(tmp_path: Path) -> None:
    """Ten kills lose at most what was on its way: an answer that is on the disk is never asked for again."""
    spawn = mp.get_context("spawn")
    num = 60
    log = tmp_path / "log"
    log.touch()
    for kill in [True] * 5 + [False]:
        jobs = [spawn.Process(target=all_of_them, args=(str(tmp_path), num)) for _ in range(2)]
        for job in jobs:
            job.start()
        if kill:
            had = log.stat().st_size
            while log.stat().st_size == had and any(job.is_alive() for job in jobs):  # they import for seconds
                time.sleep(0.001)
            time.sleep(0.02)
            for job in jobs:
                job.kill()
        for job in jobs:
            job.join()
    assert [job.exitcode for job in jobs] == [0, 0]
    calls = Counter(log.read_text().split())
    assert set(calls) == {str(number) for number in range(num)}
    assert calls.total() <= num + 2 * 5
    answers = Answers(open_folder(tmp_path))
    assert all(answers.get(key_of(QUESTION, name.encode())) for name in calls)
