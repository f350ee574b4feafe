"""Calls of all jobs keep to one rate, as the service counts them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdtrain.teachers.services.rate import FIRST_S, FORGOTTEN_S, LONGEST_CALL_S, TRAVEL_S, Rate


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
