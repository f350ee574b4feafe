"""Pages asked in batches: nothing is handed in twice, wherever the job is killed."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image
from pydantic import ValidationError

from tdtrain.ask_config import AskRun
from tdtrain.asking_pages import ask_pages
from tdtrain.data.storage import open_folder
from tdtrain.options import Price
from tdtrain.teachers.services import batches
from tdtrain.teachers.services.answers import BATCHES, Answers, key_of
from tdtrain.teachers.services.asking import cost_of
from tdtrain.teachers.services.batches import Batches, Budget
from tdtrain.teachers.services.claude import Claude
from tdtrain.teachers.services.service import Busy, Denied, Usage
from tests.unit.teachers.test_services import TIMETABLE, message

PICTURES = [b"\x89PNG page %d" % number for number in range(5)]
TOO_BIG = {"type": "error", "error": {"type": "invalid_request_error", "message": "too big"}}
FAILED = {"type": "errored", "error": TOO_BIG}


class BatchServer:
    """Speaks Message Batches. `handed_in` counts how often each page came; `results` says what is made of one, by
    default the timetable. A batch ends when it is looked at for the second time. `lose` loses the next answer to
    a batch that was made, `faults` are statuses of calls to come, `ends_after` how many results the next answers hold.
    Of an `archived` first batch there are none."""

    def __init__(self) -> None:
        self.handed_in: Counter[str] = Counter()
        self.results: Callable[[str, dict], dict] = lambda key, params: {
            "type": "succeeded", "message": message(json.dumps(TIMETABLE))
        }  # fmt: skip
        self.made: dict[str, dict] = {}
        self.lose = False
        self.faults: list[int] = []
        self.ends_after: list[int] = []
        self.archived = False
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if server.faults:
                    return self.say({"error": {"message": "no"}}, server.faults.pop(0))
                name = f"batch{len(server.made)}"
                keys = {one["custom_id"]: one["params"] for one in told["requests"]}
                server.handed_in.update(list(keys))
                server.made[name] = {"keys": keys, "looks": 0, "created": datetime.now(UTC).isoformat()}
                if server.lose:
                    server.lose = False
                    return self.connection.close()
                return self.say(server.batch(name))

            def do_GET(self) -> None:
                if server.faults:
                    return self.say({"error": {"message": "no"}}, server.faults.pop(0))
                *_, last = path = self.path.split("?")[0].strip("/").split("/")
                if last == "batches":
                    held = [server.batch(name) for name in server.made]
                    return self.say({"data": held, "has_more": False, "first_id": None, "last_id": None})
                if last != "results":
                    server.made[last]["looks"] += 1
                    return self.say(server.batch(last))
                keys = server.made[path[-2]]["keys"]
                if path[-2] == server.gone:
                    return self.say({"error": {"message": "its results are archived"}}, 404)
                rows = [{"custom_id": key, "result": server.results(key, keys[key])} for key in keys]
                if server.ends_after:
                    rows = rows[: server.ends_after.pop(0)]
                return self.say("".join(f"{json.dumps(row)}\n" for row in rows))

            def say(self, body: object, status: int = 200) -> None:
                content = (body if isinstance(body, str) else json.dumps(body)).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/x-jsonl" if isinstance(body, str) else "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def batch(self, name: str) -> dict:
        held = self.made[name]
        ended, num = held["looks"] >= 2, len(held["keys"])
        counts = {"processing": 0 if ended else num, "succeeded": num if ended else 0}
        return {
            "id": name, "type": "message_batch", "processing_status": "ended" if ended else "in_progress",
            "request_counts": counts | {"errored": 0, "canceled": 0, "expired": 0}, "created_at": held["created"],
            "expires_at": held["created"], "ended_at": held["created"] if ended else None,
            "archived_at": held["created"] if name == self.gone else None,
            "cancel_initiated_at": None,
            "results_url": f"{self.url}/v1/messages/batches/{name}/results" if ended else None,
        }  # fmt: skip

    @property
    def gone(self) -> str | None:
        return "batch0" if self.archived else None

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


class Killed(BaseException):
    """Ends a job as a kill does: nothing below catches it."""


class Mortal(Claude):
    """Dies before or after one of its calls."""

    def __init__(self, url: str, at: float | None = None) -> None:
        super().__init__("m", url)
        self.calls, self.at = 0.0, at

    def call(self, what):  # type: ignore[no-untyped-def]
        self._die()
        said = super().call(what)
        self._die()
        return said

    def _die(self) -> None:
        self.calls += 0.5
        if self.calls == self.at:
            raise Killed


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[BatchServer]:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "planted-secret")
    one = BatchServer()
    yield one
    one.close()


def ask(server: BatchServer, folder: Path, at: float | None = None, patience: int = 20) -> list[str]:
    service = Mortal(server.url, at)
    keys = {key_of(service.question, picture): (lambda picture=picture: picture) for picture in PICTURES}
    Batches(service, open_folder(folder), sleep=lambda _: None, patience=patience).ask(keys, lambda done, total: None)
    return list(keys)


def test_every_page_is_answered_and_the_files_are_gone(server: BatchServer, tmp_path: Path) -> None:
    keys = ask(server, tmp_path)
    answers = Answers(open_folder(tmp_path))
    kept = [answers.get(key) for key in keys]
    assert all(one and one.answer.document and one.paid.input_tokens == 900 for one in kept)
    assert {one.image for one in kept if one} == {sha256(picture).hexdigest() for picture in PICTURES}
    assert set(server.handed_in.values()) == {1} and not list(tmp_path.glob("batches/*"))
    ask(server, tmp_path)
    assert len(server.made) == 1
    assert "planted" not in "".join(path.read_text() for path in tmp_path.rglob("*.json"))


@pytest.mark.parametrize("calls", range(1, 36, 3))
def test_a_job_killed_around_any_call_hands_nothing_in_twice(
    calls: int, server: BatchServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first answers cannot be used, so that every page goes in twice, and is paid twice."""
    monkeypatch.setattr(batches, "MOST", 3)

    def results(key: str, params: dict) -> dict:
        told = "could not be used" in params["messages"][0]["content"][1]["text"]
        return {"type": "succeeded", "message": message(json.dumps(TIMETABLE) if told else "no JSON")}

    server.results = results
    with pytest.raises(Killed):
        ask(server, tmp_path, at=calls / 2)
    keys = ask(server, tmp_path)
    kept = [Answers(open_folder(tmp_path)).get(key) for key in keys]
    assert all(one and one.attempts == 2 and one.paid.input_tokens == 1800 for one in kept)
    assert set(server.handed_in.values()) == {2} and not list(tmp_path.glob("batches/*"))


def test_the_job_hands_pages_in_and_leaves_a_corpus(
    server: BatchServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "POLL_S", 0.01)
    (tmp_path / "scans").mkdir()
    for number in range(4):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "scans" / f"{number}.png")
    run = AskRun(
        service="claude", service_model="m", service_url=server.url, dataset_path=str(tmp_path / "scans"),
        output_dir=str(tmp_path / "out"), batches=True, max_pages=3, num_workers=0,
    )  # fmt: skip
    asked = ask_pages(run)
    assert (asked.done, asked.left, asked.failed, len(server.made)) == (3, 1, 0, 1)
    assert ask_pages(run).done == 4 and set(server.handed_in.values()) == {1}
    documents, images = ((tmp_path / "out" / part).glob("*") for part in ("annotations", "images"))
    assert len(list(documents)) == len(list(images)) == 4
    poor = {"max_cost_usd": 0.01, "price": {"per_million_output_tokens": 10.0}, "output_dir": str(tmp_path / "poor")}
    with pytest.raises(
        ValueError, match=r"max_cost_usd=0.01 is less than one page may cost, 0.0410; raise it, or lower"
    ):
        ask_pages(AskRun.model_validate(run.model_dump() | poor))
    with pytest.raises(ValidationError, match="batches=True is for service=claude"):
        AskRun(service_model="m", dataset_path="x", batches=True)
    server.faults = [401]
    with pytest.raises(ValueError, match="service=claude takes no batch: 401"):
        ask_pages(run.model_copy(update={"output_dir": str(tmp_path / "other")}))


def test_a_batch_is_billed_for_less(server: BatchServer, tmp_path: Path) -> None:
    (key, *_) = ask(server, tmp_path)
    kept = Answers(open_folder(tmp_path)).get(key)
    price = Price(per_million_input_tokens=2.0, per_million_output_tokens=10.0)
    assert kept and cost_of(kept.paid, price) == pytest.approx((900 * 2 + 80 * 10) * 1e-6 / 2)
    assert cost_of(kept.paid, price.model_copy(update={"batch_share": 1.0})) == pytest.approx((1800 + 800) * 1e-6)
    one_by_one = Usage(input_tokens=900, output_tokens=80)
    assert cost_of(kept.paid + one_by_one, price) == pytest.approx((1800 + 800) * 1.5e-6)


@pytest.mark.parametrize("came", [0, 2])
def test_results_that_end_early_are_fetched_again_and_nothing_is_paid_twice(
    came: int, server: BatchServer, tmp_path: Path
) -> None:
    server.ends_after = [came, came]
    keys = ask(server, tmp_path)
    assert all(Answers(open_folder(tmp_path)).get(key) for key in keys)
    assert set(server.handed_in.values()) == {1} and not server.ends_after and not list(tmp_path.glob("batches/*"))
    server.ends_after = [came] * 5
    with pytest.raises(Busy, match=f"{came} results of 5 arrived"):
        ask(server, tmp_path / "always", patience=3)
    ask(server, tmp_path / "always")
    assert set(server.handed_in.values()) == {2}


@pytest.mark.parametrize("at", [2.0, 2.5])
def test_pages_of_a_batch_whose_results_are_gone_are_handed_in_again(
    at: float, server: BatchServer, tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        ask(server, tmp_path, at=at)  # handed in, and its id is not written down yet, or is
    server.archived = True
    keys = ask(server, tmp_path)
    assert all(Answers(open_folder(tmp_path)).get(key) for key in keys)
    assert set(server.handed_in.values()) == {2} and not list(tmp_path.glob("batches/*"))


def test_what_cannot_be_used_is_asked_again_with_the_complaint_and_paid(server: BatchServer, tmp_path: Path) -> None:
    seen: list[str] = []

    def results(key: str, params: dict) -> dict:
        seen.append(params["messages"][0]["content"][1]["text"])
        content = "no JSON" if server.handed_in[key] < 2 else json.dumps(TIMETABLE)
        return {"type": "succeeded", "message": message(content)}

    server.results = results
    keys = ask(server, tmp_path)
    kept = [Answers(open_folder(tmp_path)).get(key) for key in keys]
    assert all(one and one.attempts == 2 and one.paid.input_tokens == 1800 for one in kept)
    assert sum("could not be used: Invalid JSON" in text for text in seen) == len(PICTURES)


def test_what_is_refused_is_given_up_and_what_expired_is_left(server: BatchServer, tmp_path: Path) -> None:
    kinds: dict[str, dict] = {}

    def results(key: str, params: dict) -> dict:
        made = [FAILED, {"type": "expired"}, {"type": "succeeded", "message": message("{}")}]
        return kinds.setdefault(key, made[min(len(kinds), 2)])

    server.results = results
    keys = ask(server, tmp_path)
    answers = Answers(open_folder(tmp_path))
    given_up = {key: answers.gave_up(key) for key in keys}
    assert given_up[keys[0]].reason == "too big" and given_up[keys[1]] is None  # type: ignore[union-attr]
    assert all(given_up[key].reason.startswith("3 answers could not be used") for key in keys[2:])  # type: ignore[union-attr]
    assert all(given_up[key].paid.input_tokens == 2700 for key in keys[2:])  # type: ignore[union-attr]
    assert [server.handed_in[key] for key in keys] == [1, 1, 3, 3, 3]
    ask(server, tmp_path)
    assert [server.handed_in[key] for key in keys] == [1, 2, 3, 3, 3]


def test_no_round_of_a_budget_is_beyond_it_and_the_rest_waits(server: BatchServer, tmp_path: Path) -> None:
    server.results = lambda key, params: {"type": "succeeded", "message": message("no JSON")}
    service = Claude("m", server.url)
    keys = {key_of(service.question, picture): (lambda picture=picture: picture) for picture in PICTURES}

    def told(max_cost_usd: float | None, max_pages: int | None = None) -> list[int]:
        budget = Budget(Price(per_page=0.01), Usage(), max_pages, max_cost_usd)
        Batches(service, open_folder(tmp_path), budget, sleep=lambda _: None).ask(keys, lambda done, total: None)
        return sorted(server.handed_in[key] for key in keys)

    assert told(0.03) == [0, 0, 1, 1, 1] and len(list(tmp_path.glob("batches/*"))) == 1
    assert told(0.01, 1) == [0, 0, 1, 1, 2]  # what was tried and is beyond the budget is not forgotten
    assert told(0.03) == [0, 0, 2, 2, 3]  # those that were tried come first
    assert told(None) == [3, 3, 3, 3, 3] and not list(tmp_path.glob("batches/*"))
    given_up = [Answers(open_folder(tmp_path)).gave_up(key) for key in keys]
    assert [one.paid.pages for one in given_up if one] == [3] * 5


@pytest.mark.parametrize("kind", ["invalid_request_error", "not_found_error", "billing_error"])
def test_an_account_that_is_used_up_gives_no_page_up(kind: str, server: BatchServer, tmp_path: Path) -> None:
    error = {"type": kind, "message": "You have reached your specified API usage limits."}
    server.results = lambda key, params: {"type": "errored", "error": {"type": "error", "error": error}}
    with pytest.raises(Denied, match="API usage limits"):
        ask(server, tmp_path)
    assert not list(tmp_path.glob("refused/*/*"))
    server.results = lambda key, params: {"type": "succeeded", "message": message(json.dumps(TIMETABLE))}
    keys = ask(server, tmp_path)
    assert all(Answers(open_folder(tmp_path)).get(key) for key in keys) and not list(tmp_path.glob("batches/*"))


def test_pages_are_not_asked_one_by_one_while_they_are_handed_in(server: BatchServer, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "page.png")
    run = AskRun(
        service="claude", service_model="m", service_url=server.url, dataset_path=str(tmp_path),
        output_dir=str(tmp_path.parent / "asked"), num_workers=0,
    )  # fmt: skip
    answers = Answers(open_folder(run.output_dir))
    with answers.alone(BATCHES), pytest.raises(ValueError, match="another job hands its pages in as batches"):
        ask_pages(run)
    with answers.together(BATCHES), answers.together(BATCHES):
        pass


def test_an_answer_that_was_lost_and_calls_that_fail_are_borne(server: BatchServer, tmp_path: Path) -> None:
    server.lose, server.faults = True, []
    ask(server, tmp_path / "lost")
    assert set(server.handed_in.values()) == {1}
    server.faults = [529, 500, 429]
    ask(server, tmp_path / "busy")
    assert set(server.handed_in.values()) == {2}


def test_a_batch_that_the_key_does_not_know_is_named(server: BatchServer, tmp_path: Path) -> None:
    service = Claude("m", server.url)
    keys = {key_of(service.question, picture): (lambda picture=picture: picture) for picture in PICTURES}
    server.faults = []

    def killed(_: float) -> None:
        raise Killed

    with pytest.raises(Killed):
        Batches(service, open_folder(tmp_path), sleep=killed).ask(keys, lambda done, total: None)
    server.faults = [404]
    with pytest.raises(Denied, match=r"batch batch0 is not known to this key; .* delete what names it in .*batches"):
        ask(server, tmp_path)
    ask(server, tmp_path)
    assert set(server.handed_in.values()) == {1}  # it is still waited for


@pytest.mark.parametrize(("budget", "rounds"), [(0.10, [4, 1]), (0.03, [1])])
def test_a_round_costs_no_more_than_the_budget_however_long_its_answers(
    budget: float, rounds: list[int], server: BatchServer, tmp_path: Path
) -> None:
    service = Claude("m", server.url)
    keys = {key_of(service.question, picture): (lambda picture=picture: picture) for picture in PICTURES}
    limits = Budget(Price(per_million_output_tokens=10.0), Usage(output_tokens=2_500), None, budget)
    Batches(service, open_folder(tmp_path), limits, sleep=lambda _: None).ask(keys, lambda done, total: None)
    made = [len(batch["keys"]) for batch in server.made.values()]
    assert made[: len(rounds)] == rounds and sum(made) == 5  # what is not used goes to the next round
