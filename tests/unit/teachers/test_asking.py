"""Services are asked evenly, patiently, within a budget, and never twice."""

from __future__ import annotations

import errno
import itertools
import math
import multiprocessing as mp
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdtrain.data.storage import open_folder
from tdtrain.options import Price
from tdtrain.teachers.services.answers import Answers, key_of, moment
from tdtrain.teachers.services.asking import GivenUp, Patience, ask
from tdtrain.teachers.services.attempt import failure, seconds_of
from tdtrain.teachers.services.desk import Closed, Desk
from tdtrain.teachers.services.rate import FIRST_S, FORGOTTEN_S, LONGEST_CALL_S, TRAVEL_S, Rate
from tdtrain.teachers.services.service import Answer, Busy, Denied, Question, Refused, SpokenLine, Unusable, Usage

QUESTION = Question(service="fake/1", prompt="Read this.", form="lines-1")


class Fake:
    """Does what a script says, an attempt a step: an exception is raised, anything else answered; then it answers."""

    def __init__(self, *script: Exception | str, question: Question = QUESTION) -> None:
        self.question, self.script, self.complaints = question, list(script), []

    def ask(self, image: bytes, complaint: str | None = None) -> Answer:
        self.complaints.append(complaint)
        step = self.script.pop(0) if self.script else image.decode()
        if isinstance(step, Exception):
            raise step
        return Answer(lines=(SpokenLine(text=step),), usage=Usage(input_tokens=100, output_tokens=10), raw="{}")


def asked(service: Fake, folder: Path, image: bytes = b"a", **options: object):
    slept: list[float] = []
    kept = ask(service, image, Answers(open_folder(folder)), sleep=slept.append, **({"desk": Desk()} | options))  # type: ignore[arg-type]
    return kept, slept


def test_what_was_answered_once_is_not_asked_again(tmp_path: Path) -> None:
    service = Fake()
    first, _ = asked(service, tmp_path)
    again, _ = asked(service, tmp_path)
    assert again == first and first.answer.lines[0].text == "a" and len(service.complaints) == 1
    for other in ({"service": "fake/2"}, {"prompt": "Read that."}, {"form": "lines-2"}):
        asked(Fake(question=QUESTION.model_copy(update=other)), tmp_path)
    asked(service, tmp_path, b"b")
    assert len(list(tmp_path.glob("answers/*/*.json"))) == 5


def test_an_answer_that_is_none_is_named(tmp_path: Path) -> None:
    asked(Fake(), tmp_path)
    (path,) = tmp_path.glob("answers/*/*.json")
    path.write_text('{"question": 1')
    with pytest.raises(ValueError, match=f"{path.name} is no answer .*remove it to ask again"):
        asked(Fake(), tmp_path)


def test_failures_are_tried_again_with_longer_waits_and_retry_after_holds_everybody(tmp_path: Path) -> None:
    desk = Desk()
    service = Fake(Busy("500"), Busy("429", retry_after_s=0.7), Busy("no answer in 120 s"))
    began = time.monotonic()
    kept, slept = asked(service, tmp_path, desk=desk, draw=lambda: 0.5)
    assert kept.attempts == 4 and kept.paid.input_tokens == 100
    assert slept == [0.5, 1.0, 2.0] and time.monotonic() - began >= 0.7
    assert desk.counts().calls == 4 and desk.counts().pages == 1


def test_it_is_told_what_was_wrong_and_every_attempt_is_paid(tmp_path: Path) -> None:
    price = Price(per_page=0.01, per_million_input_tokens=1000.0)
    desk = Desk()
    service = Fake(Unusable("timeblocks: Field required", Usage(input_tokens=50)), Busy("500"))
    kept, _ = asked(service, tmp_path, desk=desk, price=price, expected=Usage(input_tokens=500))
    assert service.complaints == [None, "timeblocks: Field required", "timeblocks: Field required"]
    assert kept.paid == Usage(pages=2, input_tokens=150, output_tokens=10) and kept.attempts == 3
    assert desk.counts().cost_usd == pytest.approx(2 * 0.01 + 150 * 0.001)


@pytest.mark.parametrize(
    ("service", "why"),
    [
        (Fake(*[Busy("503")] * 8), "no answer to 8 calls, the last: 503"),
        (Fake(*[Unusable("no JSON", Usage())] * 3), "3 answers could not be used, the last: no JSON"),
        (Fake(Refused("no picture")), "no picture"),
    ],
)
def test_what_never_comes_is_given_up_in_words(service: Fake, why: str, tmp_path: Path) -> None:
    with pytest.raises(GivenUp, match=why):
        asked(service, tmp_path)
    assert not list(tmp_path.glob("answers/*/*.json"))


def simulate(
    per_second: float, gaps: list[float], trips: list[tuple[float, float]], slowness: float = 1.0
) -> tuple[list[float], list[float]]:
    """When calls begin and when they are at the service; `trips` are how long ways there and back take, the ways there
    `slowness` times as long before there is an answer."""
    now, begun, there, ends, came_back, answered = [0.0], [], [], [], [], False
    rate = Rate(clock=lambda: now[0])
    for gap, (way, back) in zip(gaps, trips, strict=True):
        now[0] += gap
        while True:
            for end, call in sorted(ends):
                if end <= now[0]:
                    rate.end(call)
            ends = [(end, call) for end, call in ends if end > now[0]]
            said = rate.begin(per_second)
            if said.call is not None:
                break
            now[0] = min([now[0] + said.wait_s, *(end for end, _ in ends)])
        answered = answered or any(end <= now[0] for end in came_back)
        way *= 1.0 if answered else slowness
        begun.append(now[0])
        there.append(now[0] + way)
        came_back.append(now[0] + way + back)
        ends.append((came_back[-1], said.call))
    return begun, sorted(there)


TRIPS = st.tuples(st.floats(0, TRAVEL_S), st.floats(0, 3))


@given(st.lists(st.tuples(st.floats(0, 2), TRIPS), min_size=1, max_size=100), st.floats(0.5, 20))
def test_no_second_has_more_calls_than_the_limit(calls: list[tuple[float, tuple[float, float]]], rate: float) -> None:
    _, there = simulate(rate, [gap for gap, _ in calls], [trip for _, trip in calls], FIRST_S / TRAVEL_S)
    most = math.ceil(rate)
    assert all(later - first >= most / rate - 1e-6 for first, later in zip(there, there[most:], strict=False))


def test_a_limit_is_used_to_more_than_nine_tenths() -> None:
    begun, _ = simulate(20.0, [0.0] * 201, [(0.001, 0.05)] * 201)
    assert 0.9 * 20 <= 200 / begun[-1] <= 20
    begun, _ = simulate(20.0, [0.0] * 401, [(0.001, 30.0)] * 401)  # long answers
    steady = [at for at in begun if at >= 30]  # from the first one on
    assert 0.6 * 20 <= (len(steady) - 1) / (steady[-1] - steady[0]) <= 20


def test_jobs_share_a_rate_and_the_lowest_limit_holds_while_its_job_asks() -> None:
    now = [0.0]
    rate = Rate(clock=lambda: now[0])

    def within(seconds: float, limits: dict[str, float]) -> list[str]:
        """Whose calls begin; each is answered at once."""
        begun, until = [], now[0] + seconds
        while now[0] < until:
            for job, limit in limits.items():  # a always comes first
                if (call := rate.begin(limit, job=job).call) is not None:
                    rate.end(call)
                    begun.append(job)
            now[0] += 0.01
        return begun

    assert 95 <= len(within(10, {"a": 10.0})) <= 100
    both = within(10, {"a": 10.0, "b": 2.0})
    assert 18 <= len(both) <= 20 + 1 and abs(both.count("a") - both.count("b")) <= 1  # they take turns
    assert len(within(FORGOTTEN_S - 1, {"a": 10.0})) <= 2 * FORGOTTEN_S
    within(2, {"a": 10.0})  # nothing has been heard of b for long
    assert 95 <= len(within(10, {"a": 10.0})) <= 100


def test_jobs_share_what_may_be_under_way() -> None:
    now = [0.0]
    rate = Rate(clock=lambda: now[0])

    def begin(job: str, at_once: int) -> int | None:
        return rate.begin(None, job=job, at_once=at_once).call

    calls = [begin(job, 4) for job in "aabb"]
    assert None not in calls and begin("b", 4) is None
    rate.end(calls[0] or 0)
    assert begin("a", 3) is None  # the lowest limit holds for all
    rate.end(calls[1] or 0)
    now[0] = 1.0
    assert begin("b", 4) is not None and begin("a", 3) is None
    now[0] = FORGOTTEN_S + 0.5
    assert begin("a", 3) is None  # b was heard of
    began = now[0] = now[0] + 1
    assert None not in [begin("a", 3) for _ in range(3)]  # b was killed, and its calls with it
    for _ in range(8):
        now[0] += FORGOTTEN_S - 1
        assert (begin("a", 3) is None) == (now[0] < began + LONGEST_CALL_S)


def test_a_rate_that_takes_over_begins_with_silence() -> None:
    for limit, silence in ((20.0, 1.0), (0.25, 4.0), (None, 1.0)):
        rate = Rate(heir=True, clock=iter([0.0, 0.0, silence - 0.01, silence]).__next__)
        assert rate.begin(limit).wait_s == pytest.approx(0.01)
        assert rate.begin(limit).call is not None


def test_what_is_given_up_for_good_is_not_asked_again_unless_told(tmp_path: Path) -> None:
    hopeless = [Unusable("no JSON", Usage(input_tokens=10))] * 3
    for script, calls, paid in (([Refused("no picture")], 1, 0), (hopeless, 3, 30), ([Busy("503")] * 8, 8, 0)):
        image = str(calls).encode()
        service = Fake(*script)
        with pytest.raises(GivenUp):
            asked(service, tmp_path, image)
        assert len(service.complaints) == calls
        if calls == 8:  # it was busy, which passes
            assert asked(service, tmp_path, image)[0].attempts == 1
            continue
        with pytest.raises(GivenUp) as known:
            asked(service, tmp_path, image)
        assert known.value.paid.input_tokens == paid and len(service.complaints) == calls
        assert asked(service, tmp_path, image, again=moment())[0].paid.input_tokens == paid + 100


def test_what_was_given_up_since_is_not_asked_again(tmp_path: Path) -> None:
    began = moment()
    with pytest.raises(GivenUp):
        asked(Fake(Refused("no picture")), tmp_path)
    service = Fake()
    with pytest.raises(GivenUp, match="no picture"):  # a page that is the same, of the same job
        asked(service, tmp_path, again=began)
    assert not service.complaints and asked(service, tmp_path, again=moment())[0].attempts == 1


def test_an_answer_is_kept_before_the_desk_hears_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk, service = Desk(), Fake()
    with monkeypatch.context() as patch, pytest.raises(ConnectionError):

        def gone(*_: object) -> None:
            raise ConnectionError

        patch.setattr(desk, "ended", gone)
        asked(service, tmp_path, desk=desk)
    assert asked(service, tmp_path)[0].answer and len(service.complaints) == 1


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


def test_a_date_to_come_back_at_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    monkeypatch.setattr(time, "time", now.timestamp)
    assert seconds_of(format_datetime(now + timedelta(seconds=60), usegmt=True)) == 60


def test_nobody_asks_where_answers_cannot_be_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk, service = Desk(), Fake()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Answers, "put", full)
    with pytest.raises(OSError, match="No space"):
        asked(service, tmp_path, desk=desk)
    with pytest.raises(Closed, match=r"cannot be stored .*No space"):
        asked(service, tmp_path, b"b", desk=desk)
    assert len(service.complaints) == 1


@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [
        (429, "Rate limit reached; add a payment method at https://platform.openai.com/account/billing", Busy),
        (429, "You exceeded your current quota (insufficient_quota)", Denied),
        (400, "You have reached your specified API usage limits. You will regain access on 2026-12-01", Denied),
        (400, "Could not process image", Refused),
    ],
)
def test_a_status_is_told_from_what_it_says(status: int, reason: str, kind: type[Exception]) -> None:
    assert type(failure(status, reason, "20")) is kind


def test_a_call_that_cost_more_than_was_thought_teaches_the_desk(tmp_path: Path) -> None:
    desk = Desk(max_cost_usd=1.0)
    desk.ended(desk.begin(0.1), 0.6)
    with pytest.raises(Closed, match=r"0\.6000 are spent or set aside, and the next call may cost 0\.6000"):
        desk.begin(0.1)


def test_a_service_that_knows_nobody_ends_it_all(tmp_path: Path) -> None:
    desk = Desk()
    service = Fake(Denied("401: who are you?"))
    for image in (b"a", b"b"):
        with pytest.raises(Closed, match="401: who are you"):
            asked(service, tmp_path, image, desk=desk)
    assert len(service.complaints) == 1 and desk.counts().denied == "401: who are you?"


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=50), st.floats(0, 5))
def test_the_budget_is_never_overspent(calls: list[tuple[float, float]], budget: float) -> None:
    """As long as no call costs more than was set aside for it."""
    desk, spent = Desk(max_cost_usd=budget), 0.0
    for aside, share in calls:
        try:
            call = desk.begin(aside)
        except Closed:
            break
        spent += aside * share
        desk.ended(call, aside * share)
    assert spent <= budget + 1e-9


def test_what_was_set_aside_and_not_spent_is_there_for_others() -> None:
    desk = Desk(max_cost_usd=0.05)
    calls = [desk.begin(0.02), desk.begin(0.02)]
    waiting = threading.Thread(target=lambda: desk.ended(desk.begin(0.02), 0.001))
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive()
    for call in calls:
        desk.ended(call, 0.001)
    waiting.join(600)
    assert not waiting.is_alive() and desk.counts().cost_usd == pytest.approx(0.003)
    with pytest.raises(Closed, match=r"0\.0030 are spent or set aside, and the next call may cost 0\.0500"):
        desk.begin(0.05)


def test_a_budget_of_pages_counts_pages_not_attempts(tmp_path: Path) -> None:
    desk = Desk(max_pages=2)
    asked(Fake(Busy("500"), Busy("500")), tmp_path, b"a", desk=desk)
    asked(Fake(), tmp_path, b"b", desk=desk)
    asked(Fake(), tmp_path, b"a", desk=desk)  # is there already
    with pytest.raises(Closed, match="max_pages=2"):
        asked(Fake(), tmp_path, b"c", desk=desk)


@given(st.integers(1, 30), st.floats(0, 1, exclude_max=True))
def test_waits_stay_below_their_limit(failed: int, draw: float) -> None:
    patience = Patience(first_wait_s=0.5, longest_wait_s=20.0)
    assert 0 <= patience.wait_s(failed, draw) <= min(20.0, 0.5 * 2 ** (failed - 1))


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
