"""Services asked by workers of a cluster, which share one desk."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tdtrain.ask_config import AskRun
from tdtrain.asking_pages import ask_pages
from tdtrain.ray_start import connect
from tdtrain.teachers.services.desk_on_ray import SharedDesk
from tdtrain.teachers.services.rate import GIVES_UP_S
from tests.unit.teachers.test_services import RIGHT, Server

pytestmark = pytest.mark.ray
PAGES, PER_SECOND = 160, 20


def test_jobs_that_ask_one_service_keep_to_one_rate_also_when_one_of_them_ends() -> None:
    connect()
    desks = [SharedDesk("a service", limit, None, None) for limit in (20.0, 30.0)]
    assert [desk.counts().calls for desk in desks] == [0, 0]  # both are there
    began: list[tuple[float, float, int]] = []  # each between two moments

    def ask(which: int, num: int) -> None:
        for _ in range(num):
            before = time.monotonic()
            call = desks[which].begin()
            began.append((before, time.monotonic(), which))
            desks[which].ended(call, 0.0)

    first, second = (threading.Thread(target=ask, args=told) for told in ((0, 30), (1, 80)))
    first.start()
    second.start()
    first.join()
    ended = time.monotonic()
    desks[0] = None  # type: ignore[call-overload]  # with it goes its actor
    second.join()
    assert len(began) == 110
    turns = began[10:40]
    ways = [[after for _, after, which in turns if which == job] for job in (0, 1)]
    away = any(later - one > GIVES_UP_S for way in ways for one, later in pairwise(way))  # nobody waits for such a job
    assert away or len(ways[0]) in range(10, 21)  # they take turns
    together, alone = ([one[:2] for one in began if (one[1] > ended) == late] for late in (False, True))
    for times, limit in ((together, 20), (alone, 30)):
        assert max(sum(at <= before and after < at + 1 for before, after in times) for at, _ in times) <= limit
    assert len(alone) > 30 and max(later[1] - one[1] for one, later in pairwise(alone)) < 10


def test_four_workers_keep_to_one_rate_and_one_budget(tmp_path: Path) -> None:
    came: list[float] = []

    def slow(handler: BaseHTTPRequestHandler, request: dict) -> None:
        came.append(time.monotonic())
        time.sleep(0.05)
        RIGHT(handler, request)

    server = Server()
    server.script = [slow] * PAGES
    (tmp_path / "images").mkdir()
    for number in range(PAGES):
        pixels = np.full((4, 4, 3), number, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number:03}.png")
    run = AskRun(
        service_model="qwen", service_url=server.url, dataset_path=str(tmp_path), output_dir=str(tmp_path / "out"),
        calls_per_second=PER_SECOND, calls_at_once=16, num_workers=4, max_pages=PAGES - 1,
    )  # fmt: skip
    asked = ask_pages(run)
    server.close()
    assert (asked.done, asked.left, len(came), asked.counts.calls) == (PAGES - 1, 1, PAGES - 1, PAGES - 1)
    came.sort()
    assert all(later - first >= 1 for first, later in zip(came, came[PER_SECOND:], strict=False))  # in any second
    steady = came[PER_SECOND:-PER_SECOND]  # while all workers are there
    assert (len(steady) - 1) / (steady[-1] - steady[0]) >= 0.9 * PER_SECOND
