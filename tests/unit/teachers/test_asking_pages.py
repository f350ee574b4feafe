"""The job that asks a service about a folder of pages: every page once, whatever fails, and within the budget."""

from __future__ import annotations

import contextlib
import json
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from tdtrain.ask_config import AskRun
from tdtrain.asking_pages import ask_pages
from tdtrain.teachers.services.answers import Answers
from tdtrain.teachers.services.asking import GivenUp
from tdtrain.teachers.services.service import NOTHING
from tests.unit.teachers.test_services import TIMETABLE, Server, completion, cut_short, drips, hangs_up, right, says

ROOT = Path(__file__).parents[3]


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    folder = tmp_path / "scans" / "images"
    (folder / "more").mkdir(parents=True)
    for number in range(6):
        place = folder / ("more" if number > 3 else ".") / f"page{number}.png"
        Image.fromarray(np.full((8, 8, 3), 40 * number, np.uint8)).save(place)
    return folder.parent


def run(server: Server, pages: Path, **changes: object) -> AskRun:
    told = {"service_model": "qwen", "service_url": server.url, "dataset_path": str(pages), "num_workers": 0}
    return AskRun(**(told | {"output_dir": str(pages.parent / "out"), "calls_per_second": None} | changes))  # type: ignore[arg-type]


def test_every_page_has_its_document_and_is_asked_about_once(server: Server, pages: Path) -> None:
    server.script = [says({"error": {}}, 500), cut_short, says(completion("{}"))]
    asked = ask_pages(run(server, pages, price={"per_million_input_tokens": 2.0}))
    assert (asked.done, asked.there, asked.failed, asked.left) == (6, 0, 0, 0)
    assert len(server.requests) == 9 == asked.counts.calls
    assert asked.counts.cost_usd == pytest.approx(7 * 900 * 2e-6)  # two calls were not answered
    assert asked.paid.pages == 7 and asked.paid.input_tokens == 7 * 900
    out = pages.parent / "out"
    names = {str(path.relative_to(out / "annotations")) for path in out.glob("annotations/**/*.json")}
    assert names == {"page0.json", "page1.json", "page2.json", "page3.json", "more/page4.json", "more/page5.json"}
    document = json.loads((out / "annotations/more/page4.json").read_text())
    assert document == {"image_path": "images/more/page4.png", "labelled_by": "openai/qwen", **TIMETABLE}
    again = ask_pages(run(server, pages))
    assert (again.done, again.there, again.counts.calls) == (6, 6, 0) and len(server.requests) == 9
    elsewhere = ask_pages(run(server, pages, output_dir=str(out), service_model="other"))
    assert elsewhere.there == 0 and len(server.requests) == 15


def test_words_of_ones_own_are_asked_with(server: Server, pages: Path) -> None:
    words = pages.parent / "words.txt"
    words.write_text("What does it say?", encoding="utf-8")
    asked = ask_pages(run(server, pages, prompt=words, max_answer_tokens=77, max_pages=1))
    assert asked.counts.calls == 1 and server.requests[0]["max_tokens"] == 77
    assert server.requests[0]["messages"][0]["content"][0]["text"] == "What does it say?"
    assert ask_pages(run(server, pages, max_pages=1)).there == 0  # another question


def test_how_right_the_service_is_is_said_of_annotated_pages(
    server: Server, pages: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = json.dumps({"image_path": "images/page0.png", "labelled_by": None, "timeblocks": [*TIMETABLE["timeblocks"], {
        "day": "Tue", "name": "Art", "startTime": "08:00", "endTime": "08:45"}]})  # fmt: skip
    (pages / "annotations").mkdir()
    (pages / "annotations/page0.json").write_text(own)
    asked = ask_pages(run(server, pages))
    assert (asked.done, asked.counts.calls) == (6, 5)
    assert json.loads((pages.parent / "out/labels.json").read_text())["annotated"]["pages"] == 0
    asked = ask_pages(run(server, pages, check_annotated=True))
    assert (asked.done, asked.counts.calls) == (6, 1)
    figures = json.loads((pages.parent / "out/labels.json").read_text())
    assert figures["annotated"] == {"pages": 1, "right": 1, "said": 1, "true": 2}
    assert (figures["pages"], figures["lines"]) == (5, 5)
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(r"On 1 annotated pages its time blocks have an F1 of 67.*1 are right of 1 said", said), said
    assert (pages.parent / "out/annotations/page0.json").read_text() == own
    report = (pages.parent / "out/labels.html").read_text()
    assert "5 pages with 5 time blocks" in report and "Mon 08:00–08:45 Art" in report


def test_an_outage_is_no_mistake_of_the_service(server: Server, pages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (pages / "annotations").mkdir()
    document = json.dumps({"image_path": "images/page0.png", **TIMETABLE})
    (pages / "annotations/page0.json").write_text(document)

    def away(*_: object) -> None:
        raise GivenUp("no answer to 8 calls", NOTHING)

    monkeypatch.setattr("tdtrain.page_asker.ask", away)
    asked = ask_pages(run(server, pages, check_annotated=True))
    assert (asked.done, asked.failed) == (1, 5)
    figures = json.loads((pages.parent / "out/labels.json").read_text())
    assert figures["annotated"]["pages"] == 0 and figures["failed"] == {"no answer to 8 calls": 5}


def test_what_is_refused_is_said_and_tried_again_when_told(server: Server, pages: Path) -> None:
    server.script = [says(completion('{"timeblocks":[]}'))]
    asked = ask_pages(run(server, pages, calls_at_once=1, output_dir=str(pages.parent / "empty")))
    assert (asked.done, asked.failed) == (5, 1) and len(list(pages.parent.glob("empty/annotations/**/*.json"))) == 5
    assert "the answer holds no document" in (pages.parent / "empty/failed.jsonl").read_text()
    assert json.loads((pages.parent / "empty/labels.json").read_text())["num_failed"] == 1
    server.script = [says({"error": {"message": "a picture of nothing"}}, 400)]
    asked = ask_pages(run(server, pages, calls_at_once=1))
    assert (asked.done, asked.failed) == (5, 1)
    (failed,) = map(json.loads, (pages.parent / "out" / "failed.jsonl").read_text().splitlines())
    assert failed["reason"].startswith("400: ") and "a picture of nothing" in failed["reason"]
    again = ask_pages(run(server, pages))
    assert (again.done, again.failed, again.counts.calls) == (5, 1, 0)
    again = ask_pages(run(server, pages, ask_again=True))
    assert (again.done, again.counts.calls) == (6, 1) and not (pages.parent / "out" / "failed.jsonl").exists()


def test_labels_of_another_question_go_where_this_one_brings_none(server: Server, pages: Path) -> None:
    ask_pages(run(server, pages))
    server.script = [says({"error": {"message": "a picture of nothing"}}, 400), says(completion('{"timeblocks":[]}'))]
    asked = ask_pages(run(server, pages, service_model="other", calls_at_once=1, max_pages=3))
    assert (asked.done, asked.failed, asked.left) == (1, 2, 3)
    written = [json.loads(path.read_text()) for path in (pages.parent / "out").glob("annotations/**/*.json")]
    assert Counter(one["labelled_by"] for one in written) == {"openai/other": 1, "openai/qwen": 3}  # not asked yet
    assert json.loads((pages.parent / "out/labels.json").read_text())["run"]["service_model"] == "other"
    assert ask_pages(run(server, pages)).counts.calls == 0  # nothing that was paid is lost
    assert len(list((pages.parent / "out").glob("annotations/**/*.json"))) == 6


def test_documents_on_which_teachers_differ_are_dropped(
    server: Server, pages: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = str(pages.parent / "other")
    late = {**TIMETABLE, "timeblocks": [*TIMETABLE["timeblocks"], TIMETABLE["timeblocks"][0] | {"day": "Tue"}]}
    server.script = [says(completion(json.dumps(late)))] * 2 + [says(completion(json.dumps(TIMETABLE)))] * 3
    ask_pages(run(server, pages, service_model="other", output_dir=other, calls_at_once=1, max_pages=5))
    with pytest.raises(ValidationError, match=r"min_agreement=0\.8 is of votes; give vote_with"):
        run(server, pages, min_agreement=0.8)
    asked = ask_pages(run(server, pages, vote_with=(other,), min_agreement=0.8))
    assert (asked.done, asked.failed) == (3, 3)  # two of which the other has a block more, and one that it has not seen
    out = pages.parent / "out"
    assert len(list(out.glob("annotations/**/*.json"))) == 3 and len(list(out.glob("answers/*/*.json"))) == 6
    figures = json.loads((out / "labels.json").read_text())
    assert figures["kept_pages"] == 3 and figures["dropped"] == {"teachers differ": 3}
    assert figures["failed"] == {"teachers agree on less than min_agreement=0.8": 3}
    assert figures["same"] == {f"openai/other ({other})": {"same": 10, "both": 13, "lines": 6}}
    said = " ".join(capsys.readouterr().err.split())
    assert "3 pages with 3 time blocks can be learnt from (3 teachers differ)" in said
    report = (out / "labels.html").read_text()
    assert "F1 of the blocks of both: 77" in report and "Left out: 3 teachers differ." in report
    assert ask_pages(run(server, pages, vote_with=(other,), min_agreement=0.6)).done == 5  # F1 of 2/3 of two pages
    with pytest.raises(ValueError, match=r"holds documents of openai/other; task=text needs the others"):
        ask_pages(AskRun(task="text", dataset_path=str(pages), output_dir=str(out), vote_with=(other,)))


def test_a_full_disk_is_not_the_service_s_fault(server: Server, pages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Answers, "put", full)
    with pytest.raises(ValueError, match=r"^answers cannot be stored \(.*No space left.*; 6 pages were not asked"):
        ask_pages(run(server, pages, calls_at_once=1))
    assert len(server.requests) == 1


def test_a_service_that_answers_nobody_ends_the_job(server: Server, pages: Path) -> None:
    server.script = [says({"error": {"message": "who are you?"}}, 401)] * 6
    with pytest.raises(
        ValueError, match=r"service=openai answers nobody: 401: .*who are you.*; 6 pages were not asked"
    ):
        ask_pages(run(server, pages, calls_at_once=1))
    assert len(server.requests) == 1


def test_a_budget_of_pages_or_money_is_kept(server: Server, pages: Path) -> None:
    asked = ask_pages(run(server, pages, max_pages=2))
    assert (asked.done, asked.left, len(server.requests)) == (2, 4, 2)
    dear = {"max_cost_usd": 0.05, "price": {"per_page": 0.02}, "calls_at_once": 1}
    asked = ask_pages(run(server, pages, **dear))
    assert (asked.done, asked.there, asked.left, len(server.requests)) == (4, 2, 2, 4)
    assert asked.counts.cost_usd == pytest.approx(0.04)
    by_tokens = {"price": {"per_million_output_tokens": 10.0}, "max_answer_tokens": 2_000, "calls_at_once": 1}
    assert ask_pages(run(server, pages, max_cost_usd=0.0199, **by_tokens)).counts.calls == 0  # one may cost 0.02
    assert ask_pages(run(server, pages, max_cost_usd=0.0205, **by_tokens)).counts.calls == 1  # and then cost 0.0008


def test_a_dry_run_asks_nothing(server: Server, pages: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask_pages(run(server, pages, dry_run=True, price={"per_page": 0.5}))
    said = " ".join(capsys.readouterr().err.split())
    assert "6 pages, 6 of them without an answer of openai/qwen; asking about 6 may take 9,000 tokens" in said
    assert "tokens and write 6,000; that may cost 3.00 US dollars" in said
    assert not server.requests and not (pages.parent / "out").exists()


def test_a_price_comes_from_a_table(server: Server, pages: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = pages.parent / "prices.toml"
    table.write_text('["openai/qwen"]\nper_page = 0.02\n["claude/m"]\nper_million_input_tokens = 1\n')
    assert ask_pages(run(server, pages, price_table=table, max_cost_usd=1.0)).counts.cost_usd == pytest.approx(0.12)
    assert "pages, 0.1200 US dollars" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(ValueError, match=r'has no \["openai/other"\]; it has openai/qwen, claude/m'):
        ask_pages(run(server, pages, price_table=table, service_model="other"))
    table.write_text('["openai/qwen"]\nbatch_share = 0.5\n')
    with pytest.raises(ValueError, match=r"max_cost_usd=1, and price_table=.*prices.toml says it costs nothing"):
        ask_pages(run(server, pages, price_table=table, max_cost_usd=1.0))
    table.write_text('["openai/qwen"]\nper_page = "much"\n')
    with pytest.raises(ValueError, match=r"price_table=.*cannot be read \(openai/qwen\.per_page: .*number"):
        ask_pages(run(server, pages, price_table=table))


def test_a_dry_run_needs_no_key(server: Server, pages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    claude = {"service": "claude", "service_url": None}
    assert ask_pages(run(server, pages, dry_run=True, **claude)).left == 6
    with pytest.raises(ValueError, match="needs ANTHROPIC_API_KEY"):
        ask_pages(run(server, pages, **claude))


def test_an_address_holds_no_key(server: Server, pages: Path) -> None:
    for url in ("https://sk-123@host/v1", "https://me:word@host/v1", "https://host/v1?api_key=sk-123"):
        with pytest.raises(ValidationError, match="service_url holds a") as refused:
            run(server, pages, service_url=url)
        assert "sk-123" not in str(refused.value) and "word@" not in str(refused.value)


def test_a_budget_without_a_price_is_refused(server: Server, pages: Path) -> None:
    with pytest.raises(ValidationError, match="max_cost_usd=1 needs a price"):
        run(server, pages, max_cost_usd=1.0)


def test_no_secret_reaches_the_disk(server: Server, pages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "planted-secret-4711")
    server.script = [says({"error": {"message": "planted-secret-4711 is not known"}}, 401)]
    with pytest.raises(ValueError, match=r"401: .*\*\*\* is not known"):
        ask_pages(run(server, pages, calls_at_once=1))
    assert any("4711" in (key or "") for key in server.keys)
    server.script = [says({"error": {"message": "planted-secret-4711 sent no picture"}}, 400)]
    ask_pages(run(server, pages, calls_at_once=1))
    assert list(pages.parent.glob("out/refused/*/*.json")) and (pages.parent / "out/failed.jsonl").exists()
    held = [path for path in pages.parent.rglob("*") if path.is_file()]
    assert held and not [path for path in held if b"4711" in path.read_bytes()]


PATIENCE_S = 2.0


def listens(handler: BaseHTTPRequestHandler) -> bool:
    """Whether who asked is still there: the dead have closed their connections."""
    try:
        return bool(handler.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return True
    except OSError:
        return False


def silent(handler: BaseHTTPRequestHandler, request: dict) -> None:
    """Says nothing until nobody listens any more."""
    time.sleep(1.5 * PATIENCE_S)
    hangs_up(handler, request)


def drips_on(handler: BaseHTTPRequestHandler, request: dict) -> None:
    """A byte now and then, until nobody listens any more."""
    until = threading.Event()
    threading.Timer(1.5 * PATIENCE_S, until.set).start()
    drips(until)(handler, request)
    hangs_up(handler, request)


BUSY = (
    says({"error": {"message": "slow down"}}, 429, Retry_After="0.05"), says({"error": {}}, 500), cut_short, hangs_up,
    says("no JSON"),
)  # fmt: skip
SLOW = (silent, drips_on)
UNUSABLE = (says(completion("no JSON either")), says(completion('{"blocks": []}')))


@pytest.mark.slow
def test_a_faulty_service_and_five_kills_cost_no_page_twice(server: Server, tmp_path: Path) -> None:
    """30 % of the calls fail, in ten ways, and the job is killed five times: what is on the disk is never asked for
    again, and all that is paid for is written down, but for what was on its way when the job was killed."""
    rng, num = random.Random(0), 80
    (tmp_path / "images").mkdir()
    for number in range(num):
        Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(tmp_path / "images" / f"{number:02}.png")
    answered: Counter[str] = Counter()
    unusable: Counter[str] = Counter()
    busy: Counter[str] = Counter()
    faults: Counter[object] = Counter()
    counted = threading.Lock()

    def sometimes(handler: BaseHTTPRequestHandler, request: dict) -> None:
        time.sleep(0.02)
        picture = request["messages"][0]["content"][1]["image_url"]["url"]
        with counted:
            if not listens(handler):
                return
            fails = rng.random() < 0.3 and busy[picture] < 6  # a page is given up in time
            kinds = BUSY + SLOW + (UNUSABLE if unusable[picture] < 2 else ())  # a third one ends it for good
            fault = min(kinds, key=faults.__getitem__) if fails else right  # all of them come
            busy[picture] += fails
            unusable[picture] += fault in UNUSABLE
            answered[picture] += not fails
            faults[fault] += fails
        with contextlib.suppress(OSError):  # who asked may be dead
            fault(handler, request)

    def written() -> tuple[int, list[dict]]:
        """The answers that were paid for and are on the disk, and those that could be used."""
        kinds = ("answers", "tried", "refused")
        held = {kind: [json.loads(path.read_text()) for path in (tmp_path / "out").glob(f"{kind}/*/*.json")]
                for kind in kinds}  # fmt: skip
        assert not held["refused"]
        return sum(one["paid"]["pages"] for kind in kinds for one in held[kind]), held["answers"]

    server.script = [sometimes] * 10_000
    command = [
        sys.executable, "rayjobs/label.py", "--task", "document", "--service_url", server.url, "--service_model", "q",
        "--dataset_path", str(tmp_path), "--output_dir", str(tmp_path / "out"), "--calls_per_second", "100",
        "--calls_at_once", "4", "--num_workers", "0", "--per_page", "0.01", "--timeout_s", str(PATIENCE_S),
    ]  # fmt: skip
    kills = 0
    while True:
        job = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        if kills == 5:
            break
        before = answered.total()
        while answered.total() < before + rng.randint(3, 12) and job.poll() is None:
            time.sleep(0.005)
        job.kill()
        job.communicate()
        with counted:
            lost = answered.total() + unusable.total() - written()[0]
        kills += 1
        assert 0 <= lost <= 4 * kills  # no more than was on its way
    _, said = job.communicate()
    assert job.returncode == 0, said
    assert len(answered) == num and len(list((tmp_path / "out" / "annotations").glob("*.json"))) == num
    assert answered.total() <= num + 4 * kills and set(+faults) == {*BUSY, *SLOW, *UNUSABLE}
    paid, answers = written()
    assert answered.total() + unusable.total() - paid == lost  # after the last kill every answer is written down
    cost = paid * 0.01
    assert len(answers) == num and f"all answers of these pages cost {cost:.4f} US dollars" in " ".join(said.split())
