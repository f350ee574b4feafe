"""Services are asked evenly, patiently, within a budget, and never twice."""

from __future__ import annotations

import errno
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdtrain.options import Price
from tdtrain.teachers.services.answers import Answers, moment
from tdtrain.teachers.services.asking import GivenUp, Patience
from tdtrain.teachers.services.attempt import failure, seconds_of
from tdtrain.teachers.services.desk import Closed, Desk
from tdtrain.teachers.services.service import Busy, Denied, Refused, Unusable, Usage
from tests.unit.teachers.fakes import QUESTION, Fake, asked


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
