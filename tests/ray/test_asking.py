"""Services asked by workers of a cluster, which share one desk."""

from __future__ import annotations

import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tdtrain.asking_pages import ask_pages
from tdtrain.config import AskRun
from tests.unit.teachers.test_services import RIGHT, Server

pytestmark = pytest.mark.ray
PAGES, PER_SECOND = 160, 20


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
