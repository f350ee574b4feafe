"""Real clients against a local server that speaks the wire format, faults and all."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tdtrain.data.storage import open_folder
from tdtrain.teachers.services.answers import Answers
from tdtrain.teachers.services.asking import GivenUp, Patience, ask
from tdtrain.teachers.services.desk import Desk
from tdtrain.teachers.services.openai_compatible import OpenAiCompatible
from tdtrain.teachers.services.service import Busy, Refused, Unusable

PICTURE = b"\x89PNG a page"
TIMETABLE = {
    "timeblocks": [{"day": "Mon", "name": "Art", "startTime": "08:00", "endTime": "08:45"}],
    "teacher": "Ms Hill",
}
Step = Callable[[BaseHTTPRequestHandler, dict], None]


def completion(content: str, finish: str = "stop") -> dict:
    message = {"role": "assistant", "content": content}
    return {
        "id": "1", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": 900, "completion_tokens": 80, "total_tokens": 980},
    }  # fmt: skip


def says(body: object, status: int = 200, **headers: str) -> Step:
    content = body.encode() if isinstance(body, str) else json.dumps(body).encode()

    def step(handler: BaseHTTPRequestHandler, request: dict) -> None:
        handler.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | headers).items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return step


def cut_short(handler: BaseHTTPRequestHandler, request: dict) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"id": "1", "choi')
    handler.close_connection = True


def hangs_up(handler: BaseHTTPRequestHandler, request: dict) -> None:
    handler.connection.close()


def drips(handler: BaseHTTPRequestHandler, request: dict) -> None:
    """A byte now and then: each arrives before a read would time out, the whole never does."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    for _ in range(100):
        try:
            handler.wfile.write(b" ")
            handler.wfile.flush()
        except OSError:
            return
        time.sleep(0.1)


RIGHT = says(completion(json.dumps(TIMETABLE)))


class Server:
    """Takes the steps of a script, a call each, then answers rightly; `requests` are the bodies that came."""

    def __init__(self) -> None:
        self.script: list[Step] = []
        self.requests: list[dict] = []
        self.keys: list[str | None] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.requests.append(request)
                server.keys.append(self.headers.get("Authorization"))
                (server.script.pop(0) if server.script else RIGHT)(self, request)

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server()
    yield one
    one.close()


def service(server: Server, timeout_s: float = 5.0) -> OpenAiCompatible:
    return OpenAiCompatible("qwen", server.url, timeout_s=timeout_s)


def test_a_page_goes_as_a_picture_with_the_schema_and_comes_back_as_a_document(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "planted-secret")
    answer = service(server).ask(PICTURE)
    assert answer.document is not None and answer.document.model_dump(exclude_none=True, mode="json") == TIMETABLE
    assert (answer.usage.pages, answer.usage.input_tokens, answer.usage.output_tokens) == (1, 900, 80)
    (request,) = server.requests
    text, picture = request["messages"][0]["content"]
    assert text["text"].startswith("This picture shows a timetable.")
    assert base64.b64decode(picture["image_url"]["url"].removeprefix("data:image/png;base64,")) == PICTURE
    assert request["response_format"]["json_schema"]["schema"]["required"] == ["timeblocks"]
    assert server.keys == ["Bearer planted-secret"] and "planted" not in answer.model_dump_json()


def test_a_complaint_is_told(server: Server) -> None:
    service(server).ask(PICTURE, "timeblocks: Field required")
    assert "could not be used: timeblocks: Field required" in server.requests[0]["messages"][0]["content"][0]["text"]


@pytest.mark.parametrize(
    ("step", "error", "why"),
    [
        (says({"error": {"message": "slow down"}}, 429, Retry_After="3"), Busy, "429"),
        (says({"error": {"message": "oh"}}, 500), Busy, "500"),
        (says({"error": {"message": "who?"}}, 401), Refused, "401"),
        (says({"error": {"message": "no such model"}}, 404), Refused, "404"),
        (says("<html>bad gateway</html>", 502, Content_Type="text/html"), Busy, "502"),
        (says("not JSON at all"), Busy, "no"),
        (says({"unexpected": True}), Busy, "no completion"),
        (cut_short, Busy, "Connection"),
        (hangs_up, Busy, "Connection"),
        (says(completion(json.dumps(TIMETABLE)[:40], "length")), Unusable, "cut"),
        (says(completion("Here is your timetable!")), Unusable, "JSON"),
        (says(completion('{"timeblocks": [{"day": "Mon"}]}')), Unusable, "timeblocks.0.name: Field required"),
        (says(completion('{"blocks": []}')), Unusable, "timeblocks: Field required"),
    ],
)
def test_each_fault_is_what_it_is(server: Server, step: Step, error: type[Exception], why: str) -> None:
    server.script = [step]
    with pytest.raises(error, match=why):
        service(server).ask(PICTURE)
    assert len(server.requests) == 1  # the client does not try again by itself


def test_retry_after_and_usage_come_with_the_faults(server: Server) -> None:
    server.script = [says({"error": {"message": "slow down"}}, 429, Retry_After="3"), says(completion("{}"))]
    with pytest.raises(Busy) as busy:
        service(server).ask(PICTURE)
    assert busy.value.retry_after_s == 3.0
    with pytest.raises(Unusable) as unusable:
        service(server).ask(PICTURE)
    assert unusable.value.usage.input_tokens == 900


def test_an_answer_that_drips_is_given_up_in_time(server: Server, tmp_path: Path) -> None:
    server.script = [drips]
    began = time.perf_counter()
    with pytest.raises(GivenUp, match=r"no answer in 0\.5 s"):
        ask(
            service(server),
            PICTURE,
            Answers(open_folder(tmp_path)),
            Desk(),
            patience=Patience(attempts=1, deadline_s=0.5),
        )
    assert time.perf_counter() - began < 5


def test_after_any_faults_the_page_is_answered_and_kept(server: Server, tmp_path: Path) -> None:
    server.script = [says({"error": {}}, 500), cut_short, says(completion("{}")), hangs_up]
    answers, desk = Answers(open_folder(tmp_path)), Desk()
    kept = ask(service(server), PICTURE, answers, desk, sleep=lambda _: None)
    assert kept.attempts == 5 == len(server.requests) == desk.counts().calls
    assert kept.paid.input_tokens == 1800
    again = ask(service(server), PICTURE, answers, desk, sleep=lambda _: None)
    assert again == kept and len(server.requests) == 5


def test_a_wrong_key_is_said_at_once(server: Server, tmp_path: Path) -> None:
    server.script = [says({"error": {"message": "who are you?"}}, 401)]
    with pytest.raises(GivenUp, match=r"401.*who are you"):
        ask(service(server), PICTURE, Answers(open_folder(tmp_path)), Desk())


def test_without_a_url_a_key_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ValueError, match="OPENAI_API_KEY"):
        OpenAiCompatible("gpt-x")
