"""Services that read pages: the real client, or plain HTTP, against a local server; and one's own reader."""

from __future__ import annotations

import base64
import io
import json
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from tdtrain.ask_config import AskRun
from tdtrain.asking_pages import ask_pages
from tdtrain.data.card import load_card
from tdtrain.data.manifest import read_lines
from tdtrain.data.pack import pack
from tdtrain.data.rows import SPLITS
from tdtrain.data.sample.page import make_page
from tdtrain.teachers.services.google_vision import GoogleVision
from tdtrain.teachers.services.local import LocalReader
from tdtrain.teachers.services.paddle_served import PaddleServed
from tdtrain.teachers.services.service import Busy, Denied, Refused, Service
from tests.unit.teachers.test_services import Server, Step, cut_short, hangs_up, says

PICTURE = b"\x89PNG a page"
LINES = (("Mon 08:00", 0.9, (10, 10, 90, 20)), ("Art", 0.5, (10, 30, 60, 42)))


def corners(box: tuple[int, int, int, int]) -> list[tuple[int, int]]:
    left, top, right, bottom = box
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def vision(lines: tuple = LINES) -> dict:
    """What Google answers: words of letters with breaks behind them; a word has an equal share of its line's width."""
    words = []
    for text, confidence, (left, top, right, bottom) in lines:
        parts = text.split()
        for number, part in enumerate(parts):
            share = (right - left) / len(parts)
            box = (int(left + number * share), top, int(left + (number + 1) * share), bottom)
            symbols: list[dict] = [{"text": letter} for letter in part]
            kind = "SPACE" if number + 1 < len(parts) else "LINE_BREAK"
            symbols[-1]["property"] = {"detectedBreak": {"type": kind}}
            vertices = [{"x": x, "y": y} for x, y in corners(box)]
            words.append({"symbols": symbols, "confidence": confidence, "boundingBox": {"vertices": vertices}})
    text = {"text": "", "pages": [{"blocks": [{"paragraphs": [{"words": words}]}]}]}
    return {"responses": [{"fullTextAnnotation": text}]}


def paddle(lines: tuple = LINES) -> dict:
    """What PaddleX answers."""
    texts, scores, boxes = zip(*lines, strict=True)
    read = {"rec_texts": texts, "rec_scores": scores, "rec_polys": [corners(box) for box in boxes]}
    return {"logId": "1", "errorCode": 0, "errorMsg": "Success", "result": {"ocrResults": [{"prunedResult": read}]}}


def reads(wire: str) -> Step:
    """A call's pictures, of which each says the same."""

    def step(handler: BaseHTTPRequestHandler, request: dict) -> None:
        if wire == "google-vision":
            says({"responses": vision()["responses"] * len(request["requests"])})(handler, request)
        else:
            says(paddle())(handler, request)

    return step


WIRES = {"google-vision": (GoogleVision, vision), "paddleocr": (PaddleServed, paddle)}


@pytest.fixture(params=WIRES)
def wire(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("GOOGLE_API_KEY", "planted-secret")
    return request.param


def service(wire: str, server: Server) -> Service:
    return WIRES[wire][0]("some-model", server.url.removesuffix("/v1"), timeout_s=60.0)


def test_a_page_goes_as_a_picture_and_comes_back_as_lines_with_their_places(wire: str, server: Server) -> None:
    server.script = [says(WIRES[wire][1]())]
    answer = service(wire, server).ask(PICTURE)
    assert [(line.text, round(line.confidence or 0, 3)) for line in answer.lines] == [("Mon 08:00", 0.9), ("Art", 0.5)]
    assert answer.lines[0].quad == (10, 10, 90, 10, 90, 20, 10, 20)
    (request,) = server.requests
    sent = request["requests"][0]["image"]["content"] if wire == "google-vision" else request["file"]
    assert base64.b64decode(sent) == PICTURE and "planted" not in answer.model_dump_json()
    assert json.loads(answer.raw)


@pytest.mark.parametrize(
    ("step", "error", "why"),
    [
        (says({"error": {"message": "slow down"}}, 429, Retry_After="3"), Busy, "429"),
        (says({"error": {"message": "oh"}}, 500), Busy, "500"),
        (says({"error": {"message": "who? planted-secret"}, "errorMsg": "who?"}, 403), Denied, "403: (who|.*who)"),
        (says({"error": {"message": "too large"}, "errorMsg": "too large"}, 413), Refused, "413: .*too large"),
        (says("<html>bad gateway</html>", 502, Content_Type="text/html"), Busy, "502"),
        (says("not JSON at all"), Busy, "its answer is no"),
        (says({"unexpected": True}), Busy, "answer"),
        (cut_short, Busy, "Error"),
        (hangs_up, Busy, "Error"),
    ],
)
def test_each_fault_is_what_it_is(wire: str, server: Server, step: Step, error: type[Exception], why: str) -> None:
    server.script = [step]
    with pytest.raises(error, match=why) as told:
        service(wire, server).ask(PICTURE)
    assert len(server.requests) == 1 and "planted" not in str(told.value)
    if isinstance(told.value, Busy) and why == "429":
        assert told.value.retry_after_s == 3.0


def test_places_are_those_of_the_page_as_it_is(server: Server) -> None:
    server.script = [says(paddle())]
    answer = service("paddleocr", server).ask(PICTURE)
    (request,) = server.requests
    assert request["useDocOrientationClassify"] is request["useDocUnwarping"] is request["visualize"] is False
    assert set(json.loads(answer.raw)) == {"rec_texts", "rec_scores", "rec_polys"}


def test_a_wrong_key_of_google_is_no_matter_of_the_picture(server: Server) -> None:
    server.script = [says({"error": {"code": 400, "message": "API key not valid. Please pass a valid API key."}}, 400)]
    with pytest.raises(Denied, match="API key not valid"):
        service("google-vision", server).ask(PICTURE)


@pytest.mark.parametrize(("code", "error"), [(3, Refused), (8, Busy), (14, Busy)])
def test_google_tells_what_is_wrong_with_one_picture(code: int, error: type[Exception], server: Server) -> None:
    server.script = [says({"responses": [{"error": {"code": code, "message": "bad image data"}}]})]
    with pytest.raises(error, match=f"{code}: bad image data"):
        service("google-vision", server).ask(PICTURE)


def test_lines_end_where_google_breaks_them_or_ends_a_paragraph(server: Server) -> None:
    said = vision((("a b", 1.0, (0, 0, 20, 5)), ("c", 1.0, (0, 10, 5, 15))))
    (words,) = (
        p["words"] for b in said["responses"][0]["fullTextAnnotation"]["pages"][0]["blocks"] for p in b["paragraphs"]
    )
    del words[-1]["symbols"][-1]["property"]
    words[1]["symbols"][-1]["property"]["detectedBreak"]["type"] = "EOL_SURE_SPACE"
    server.script = [says(said)]
    assert [line.text for line in service("google-vision", server).ask(PICTURE).lines] == ["a b", "c"]
    words[1]["symbols"][-1]["property"]["detectedBreak"]["type"] = "HYPHEN"
    server.script = [says(said)]
    assert [line.text for line in service("google-vision", server).ask(PICTURE).lines] == ["a b-", "c"]


def test_a_page_that_is_read_becomes_a_corpus_to_learn_from(wire: str, server: Server, tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 255, (60, 120, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "scans" / f"{number}.png")
    server.script = [reads(wire)] * 3
    run = AskRun(
        task="text", service=wire, service_url=server.url.removesuffix("/v1"), dataset_path=str(tmp_path / "scans"),
        output_dir=str(tmp_path / "out"), calls_per_second=None, num_workers=0, min_confidence=0.6,
    )  # fmt: skip
    assert ask_pages(run).done == 3
    manifest = pack(tmp_path / "out", tmp_path / "packed", use_ray=False)
    lines = [line for split in SPLITS for line in read_lines(manifest, split)]
    assert sorted(str(line.text) for line in lines) == ["Mon 08:00"] * 3 + ["None"] * 3
    ask_pages(run.model_copy(update={"min_confidence": 0.4}))  # another filter asks nobody again
    assert len(server.requests) == (1 if wire == "google-vision" else 3)
    manifest = pack(tmp_path / "out", tmp_path / "packed", use_ray=False)
    assert (
        sorted(str(line.text) for split in SPLITS for line in read_lines(manifest, split))
        == ["Art"] * 3 + ["Mon 08:00"] * 3
    )


def test_what_is_annotated_stays_is_not_asked_about_and_alone_is_measured_by(server: Server, tmp_path: Path) -> None:
    for part in ("images", "annotations", "boxes"):
        (tmp_path / "scans" / part).mkdir(parents=True)
    for number in range(40):
        pixels = np.random.default_rng(number).integers(0, 255, (60, 120, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "scans/images" / f"{number}.png")
    for number in range(4):
        boxes = {"lines": [{"quad": corners((10, 10, 90, 20)), "text": "by hand"}]}
        (tmp_path / "scans/boxes" / f"{number}.json").write_text(json.dumps(boxes))
        (tmp_path / "scans/annotations" / f"{number}.{'TXT' if number else 'txt'}").write_text("by hand\n")
    server.script = [says(paddle())] * 40
    run = AskRun(
        task="text", service="paddleocr", service_url=server.url.removesuffix("/v1"), num_workers=0,
        dataset_path=str(tmp_path / "scans"), output_dir=str(tmp_path / "out"), calls_per_second=None,
    )  # fmt: skip
    asked = ask_pages(run)
    assert (asked.done, asked.counts.calls, len(server.requests)) == (40, 36, 36)
    manifest = pack(tmp_path / "out", tmp_path / "packed", use_ray=False)
    texts = {split: {line.text for line in read_lines(manifest, split)} for split in SPLITS}
    assert texts["train"] == {"by hand", "Mon 08:00", None}
    assert texts["validation"] == texts["test"] == {"by hand", None}
    assert not any("a teacher wrote" in warning for warning in load_card(tmp_path / "packed").warnings)
    server.script = [says(paddle((("by  hand", 0.9, (10, 10, 90, 20)), LINES[1])))] * 4
    assert ask_pages(run.model_copy(update={"check_annotated": True})).counts.calls == 4
    figures = json.loads((tmp_path / "out/labels.json").read_text())
    assert figures["annotated"] == {"pages": 4, "right": 4, "said": 8, "true": 4} and figures["pages"] == 36
    server.script = []
    (tmp_path / "scans/annotations/30.txt").write_text("by hand, later\n")
    ask_pages(run)
    assert not (tmp_path / "out/boxes/30.json").exists() and (tmp_path / "out/annotations/30.txt").exists()
    again = AskRun(**run.model_dump() | {"dataset_path": str(tmp_path / "out"), "output_dir": str(tmp_path / "again")})
    server.script = [says(paddle())] * 35
    assert ask_pages(again).counts.calls == 35  # what a teacher wrote is nobody's own
    for path in tmp_path.glob("scans/*/*.[jtT]*"):
        path.unlink()
    server.script = [says(paddle())] * 40
    ask_pages(run.model_copy(update={"output_dir": str(tmp_path / "machine")}))
    manifest = pack(tmp_path / "machine", tmp_path / "by_machine", use_ray=False)
    assert "Mon 08:00" in {line.text for line in read_lines(manifest, "test")}
    assert any("a teacher wrote all lines" in warning for warning in load_card(tmp_path / "by_machine").warnings)


def test_teachers_vote_and_a_report_says_what_became_of_the_lines(server: Server, tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    Image.fromarray(np.full((60, 120, 3), 200, np.uint8)).save(tmp_path / "scans" / "page.png")
    other = (("Mon 08.00", 0.7, (10, 11, 90, 21)), ("Act", 0.8, (10, 30, 60, 42)))
    folder = {"dataset_path": str(tmp_path / "scans"), "task": "text", "num_workers": 0, "calls_per_second": None}
    told = {"service": "paddleocr", "service_url": server.url.removesuffix("/v1"), **folder}
    server.script = [says(paddle(other)), says(paddle((*LINES, ("", 0.9, (70, 30, 90, 42)))))]
    ask_pages(AskRun(**told, service_model="b", output_dir=str(tmp_path / "b")))
    ask_pages(AskRun(**told, service_model="a", output_dir=str(tmp_path / "a"), vote_with=(str(tmp_path / "b"),)))
    boxes = json.loads((tmp_path / "a/boxes/page.json").read_text())["lines"]
    assert [box.get("text") for box in boxes] == ["Mon 08:00", None, None]  # 0.8, 0.4 for Act, nothing
    figures = json.loads((tmp_path / "a/labels.json").read_text())
    assert (figures["lines"], figures["kept"], figures["dropped"]) == (3, 1, {"empty": 1, "not sure": 1})
    assert figures["same"] == {f"paddleocr/b ({tmp_path / 'b'})": {"same": 1, "both": 2, "lines": 3}}
    assert sum(figures["confidences"]) == 3
    report = (tmp_path / "a/labels.html").read_text()
    assert "1 of 3 lines can be learnt from" in report and "data:image/png;base64,iVBOR" in report
    with pytest.raises(ValueError, match=r"vote_with=.*is no output_dir of"):
        ask_pages(AskRun(**told, output_dir=str(tmp_path / "c"), vote_with=(str(tmp_path / "scans"),)))


def test_a_reader_of_ones_own_reads_pages() -> None:
    png, truth = make_page(5, 1)
    answer = LocalReader("ppocrv6-tiny").ask(png)
    said = {line.text for line in answer.lines}
    true = {line.text for line in truth.boxes.lines}
    assert len(said & true) > 0.5 * len(true)
    assert all(line.quad and len(line.quad) == 8 and 0 <= (line.confidence or 0) <= 1 for line in answer.lines)
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PNG")
    with pytest.raises(Refused):
        LocalReader("ppocrv6-tiny").ask(file.getvalue()[:20])


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (
            {"task": "text", "service": "claude", "service_model": "m"},
            "service=claude does not do task=text; use one of",
        ),
        (
            {"task": "document", "service": "local"},
            "service=local does not do task=document; use one of openai, claude",
        ),
        ({"task": "document"}, "service=openai needs a service_model"),
        ({"task": "text", "service": "paddleocr"}, "service=paddleocr needs the service_url"),
        ({"service_model": "m", "min_confidence": 0.5}, "min_confidence=0.5 does nothing with task=document"),
        ({"task": "text", "max_answer_tokens": 5}, "max_answer_tokens=5 does nothing with task=text"),
        ({"task": "text", "max_wer": 0.1}, "max_wer=0.1 is of votes; give vote_with"),
        ({"service_model": "m", "prompt": "nowhere.txt"}, r"prompt=nowhere\.txt is no file"),
        ({"service_model": "m", "service_url": "http://host/v1?api_key=X"}, "service_url holds a key"),
    ],
)
def test_what_does_not_fit_is_said(given: dict, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        AskRun(dataset_path="x", **given)


def test_what_is_left_out_is_filled_in() -> None:
    read = AskRun(task="text", dataset_path="x")
    assert (read.service, read.service_model) == ("local", "ppocrv6-small")


def test_google_needs_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("GOOGLE_API_KEY", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    with pytest.raises(ValueError, match="service=google-vision needs GOOGLE_API_KEY"):
        GoogleVision()
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "gone.json"))
    with pytest.raises(ValueError, match=r"^GOOGLE_APPLICATION_CREDENTIALS=.*gone.json cannot be used \(.*not found"):
        GoogleVision()
    (tmp_path / "gone.json").write_text("{")
    with pytest.raises(ValueError, match=r"gone.json cannot be used \(.*not a valid json"):
        GoogleVision()
