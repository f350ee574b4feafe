"""Several pictures in one call of Google's real client, against a local server."""

from __future__ import annotations

import base64
import io
import random
import re
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tdtrain.ask_config import AskRun
from tdtrain.asking_pages import ask_pages
from tdtrain.cli import parse
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
    return GoogleVision("m", server.url.removesuffix("/v1"), timeout_s=60.0)


def pictures(num: int) -> list[bytes]:
    return [b"\x89PNG" + f"{number:02}".encode() for number in range(num)]


def asked(google: GoogleVision, answers: Answers, desk: Desk, images: list[bytes]) -> set[str]:
    opened: set[str] = set()
    ask_together(
        google, images, answers, desk, Price(per_page=0.01), NOTHING, PATIENCE, opened, sleep=lambda s: None,
        draw=lambda: 0.0,
    )  # fmt: skip
    return opened


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


def scans(folder: Path, num: int) -> str:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(num):
        Image.fromarray(rng.integers(0, 255, (20, 20, 3), np.uint8)).save(folder / f"{number}.png")
    return str(folder)


@pytest.fixture
def run(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AskRun:
    """40 pages, as the command line asks about them."""
    monkeypatch.setenv("GOOGLE_API_KEY", "planted-secret")
    told = parse(AskRun, None, [
        "--task", "text", "--service", "google-vision", "--service_url", server.url.removesuffix("/v1"),
        "--dataset_path", scans(tmp_path / "scans", 40), "--output_dir", str(tmp_path / "out"), "--num_workers", "0",
        "--min_confidence", "0.1",
    ])  # fmt: skip
    return told.model_copy(update={"calls_per_second": None})


@pytest.mark.parametrize("at_once", [1, 8])
def test_pages_go_sixteen_a_call_and_a_budget_of_pages_is_kept(run: AskRun, server: Server, at_once: int) -> None:
    run = run.model_copy(update={"calls_at_once": at_once})
    server.script = [each(*(14 if random.Random(n).random() < 0.2 else 0 for n in range(16)))] * 2 + [each()] * 99
    told = ask_pages(run.model_copy(update={"max_pages": 35}))
    assert (told.done, told.left, told.counts.pages) == (35, 5, 35)
    num, most = len(server.requests), max(len(request["requests"]) for request in server.requests)
    assert ask_pages(run).done == 40
    if at_once == 1:  # calls side by side share what the budget allows as they come
        assert most == 16 and len(server.requests) == num + 1


def test_a_budget_of_money_is_used_up_and_never_overdrawn(run: AskRun, server: Server) -> None:
    server.script = [each()] * 99
    told = ask_pages(run.model_copy(update={"max_cost_usd": 0.305, "price": Price(per_page=0.01), "calls_at_once": 1}))
    assert told.done == 30 and told.counts.cost_usd == pytest.approx(0.3)
    assert [len(request["requests"]) for request in server.requests] == [16, *[1] * 14]  # 16 more may cost too much


def test_pages_are_counted_before_all_are_answered(
    run: AskRun, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.script = [each()] * 99
    assert ask_pages(run.model_copy(update={"calls_at_once": 1})).done == 40
    assert re.search(r"ask +16/40", capsys.readouterr().err)


def test_a_key_that_nobody_knows_ends_the_job_at_the_first_call(run: AskRun, server: Server) -> None:
    server.script = [says({"error": {"message": "who?"}}, 403)] * 99
    with pytest.raises(ValueError, match=r"answers nobody: 403: .*who\?; 40 pages were not asked about"):
        ask_pages(run.model_copy(update={"calls_at_once": 1}))
    assert len(server.requests) == 1


def test_what_cannot_be_kept_costs_no_other_answer(
    google: GoogleVision, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, desk, images = Answers(open_folder(str(tmp_path))), Desk(), pictures(3)
    first = key_of(google.question, images[0])
    put = Answers.put

    def fails_once(self: Answers, key: str, entry: object) -> None:
        if key == first:
            raise OSError("away")
        put(self, key, entry)  # type: ignore[arg-type]

    monkeypatch.setattr(Answers, "put", fails_once)
    server.script = [each()]
    with pytest.raises(OSError, match="away"):
        asked(google, answers, desk, images)
    assert [answers.get(key_of(google.question, image)) is not None for image in images] == [False, True, True]
    assert desk.counts().cost_usd == pytest.approx(0.03) and "cannot be stored" in desk.counts().denied


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
    assert picture(small)[0] == "image/png" and picture(small, most_side=25)[0] == "image/jpeg"
