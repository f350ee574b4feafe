"""Several pictures in one call of Google's real client, against a local server."""

from __future__ import annotations

import base64
import io
import random
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tdtrain.asking_pages import ask_pages
from tdtrain.config import AskRun
from tdtrain.data.storage import open_folder
from tdtrain.options import Price
from tdtrain.teachers.services.answers import Answers, key_of
from tdtrain.teachers.services.asking import Patience
from tdtrain.teachers.services.desk import Desk
from tdtrain.teachers.services.document import picture
from tdtrain.teachers.services.fitted import fitted
from tdtrain.teachers.services.google_vision import GoogleVision
from tdtrain.teachers.services.service import NOTHING, Refused
from tdtrain.teachers.services.together import ask_together
from tests.unit.teachers.test_reading_services import vision
from tests.unit.teachers.test_services import Server, hangs_up, says

PATIENCE = Patience(first_wait_s=0.0)


def each(*faults: int) -> object:
    """A step that answers each picture with its own bytes as the text, but for those with a google.rpc.Code."""

    def step(handler: BaseHTTPRequestHandler, request: dict) -> None:
        said = []
        for number, one in enumerate(request["requests"]):
            text = base64.b64decode(one["image"]["content"])[-2:].decode("latin-1")
            code = faults[number] if number < len(faults) else 0
            right = vision(((text, 0.9, (0, 0, 10, 10)),))["responses"][0]
            said.append({"error": {"code": code, "message": "no"}} if code else right)
        says({"responses": said})(handler, request)

    return step


@pytest.fixture
def google(server: Server, monkeypatch: pytest.MonkeyPatch) -> GoogleVision:
    monkeypatch.setenv("GOOGLE_API_KEY", "planted-secret")
    return GoogleVision("m", server.url.removesuffix("/v1"), timeout_s=5.0)


def pictures(num: int) -> list[bytes]:
    return [b"\x89PNG" + f"{number:02}".encode() for number in range(num)]


def asked(google: GoogleVision, answers: Answers, desk: Desk, images: list[bytes]) -> set[str]:
    return ask_together(
        google, images, answers, desk, Price(per_page=0.01), NOTHING, PATIENCE, sleep=lambda s: None, draw=lambda: 0.0
    )


def test_each_picture_has_its_own_answer_of_one_call(google: GoogleVision, server: Server, tmp_path: Path) -> None:
    answers, desk, images = Answers(open_folder(str(tmp_path))), Desk(), pictures(16)
    server.script = [each()] * 9
    opened = asked(google, answers, desk, images)
    assert opened == {key_of(google.question, image) for image in images}
    for number, image in enumerate(images):
        kept = answers.get(key_of(google.question, image))
        assert kept and [line.text for line in kept.answer.lines] == [f"{number:02}"] and kept.paid.pages == 1
    counts = desk.counts()
    assert len(server.requests) == 1 == counts.calls and counts.pages == 16 and counts.cost_usd == pytest.approx(0.16)
    assert asked(google, answers, desk, images) == set() and len(server.requests) == 1


def test_what_a_call_leaves_is_tried_again_with_the_others_that_it_left(
    google: GoogleVision, server: Server, tmp_path: Path
) -> None:
    answers, desk, images = Answers(open_folder(str(tmp_path))), Desk(), pictures(4)
    server.script = [hangs_up, each(0, 14, 3, 8), each()]
    asked(google, answers, desk, images)
    keys = [key_of(google.question, image) for image in images]
    assert [len(request["requests"]) for request in server.requests] == [4, 4, 2]
    assert [answers.get(key) is not None for key in keys] == [True, True, False, True]
    refused = answers.hopeless(keys[2])
    assert refused is not None and refused.reason == "3: no" and desk.counts().cost_usd == pytest.approx(0.03)


def test_what_somebody_else_asks_for_is_left_to_them(google: GoogleVision, server: Server, tmp_path: Path) -> None:
    answers, images = Answers(open_folder(str(tmp_path))), pictures(3)
    server.script = [each()]
    with answers.alone(key_of(google.question, images[1])):
        opened = asked(google, answers, Desk(), images)
    assert len(opened) == 2 and len(server.requests[0]["requests"]) == 2


def test_pages_go_sixteen_a_call_and_a_budget_of_pages_is_kept(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_API_KEY", "planted-secret")
    (tmp_path / "scans").mkdir()
    rng = np.random.default_rng(0)
    for number in range(40):
        Image.fromarray(rng.integers(0, 255, (20, 20, 3), np.uint8)).save(tmp_path / "scans" / f"{number}.png")
    server.script = [each(*(14 if random.Random(n).random() < 0.2 else 0 for n in range(16)))] * 2 + [each()] * 99
    run = AskRun.model_validate(dict(
        task="text", service="google-vision", service_url=server.url.removesuffix("/v1"), calls_per_second=None,
        dataset_path=str(tmp_path / "scans"), output_dir=str(tmp_path / "out"), num_workers=0, max_pages=35,
        min_confidence=0.1,
    ))  # fmt: skip
    assert run.pages_per_call == 16
    told = ask_pages(run)
    assert (told.done, told.left, told.counts.pages) == (35, 5, 35) and max(
        len(request["requests"]) for request in server.requests
    ) == 16
    num = len(server.requests)
    assert ask_pages(run).done == 40 and len(server.requests) <= num + 5


def noise(side: int) -> bytes:
    made = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(made, "PNG")
    return made.getvalue()


def test_a_picture_that_is_too_large_goes_smaller_and_its_lines_stay_where_they_were(
    google: GoogleVision, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(google, "most_bytes", 20_000)
    server.script = [says(vision((("Art", 0.9, (10, 20, 30, 40)),)))]
    (line,) = google.ask(noise(200)).lines
    sent = base64.b64decode(server.requests[0]["requests"][0]["image"]["content"])
    with Image.open(io.BytesIO(sent)) as page:
        scale = page.width / 200
    assert len(sent) <= 20_000 and scale < 1
    assert line.quad == pytest.approx([value / scale for value in (10, 20, 30, 20, 30, 40, 10, 40)])


def test_pictures_are_fitted_in_bytes_and_sides() -> None:
    small = noise(50)
    assert fitted(small, len(small), 50) == (small, 1.0)
    assert fitted(small, len(small) - 1).content != small
    wide, scale = fitted(small, 10**6, 25)
    with Image.open(io.BytesIO(wide)) as page:
        assert page.size == (25, 25) and scale == 0.5
    with pytest.raises(Refused, match="cannot be decoded"):
        fitted(b"x" * 100, 99)
    kind, _ = picture(small)
    assert kind == "image/png"
