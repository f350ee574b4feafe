"""Real clients against a local server that speaks the wire format, faults and all."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from tdtrain.data.storage import open_folder
from tdtrain.teachers.services.answers import Answers, key_of
from tdtrain.teachers.services.asking import GivenUp, Patience, ask
from tdtrain.teachers.services.claude import Claude
from tdtrain.teachers.services.desk import Closed, Desk
from tdtrain.teachers.services.openai_compatible import OpenAiCompatible
from tdtrain.teachers.services.service import Busy, Denied, Refused, Service, Unusable

PICTURE = b"\x89PNG a page"
TIMETABLE = {
    "timeblocks": [{"day": "Mon", "name": "Art", "startTime": "08:00", "endTime": "08:45"}],
    "teacher": "Ms Hill",
}
Step = Callable[[BaseHTTPRequestHandler, dict], None]


def completion(content: str, cut: bool = False) -> dict:
    """What a model that speaks OpenAI's chat completions answers."""
    message = {"role": "assistant", "content": content}
    return {
        "id": "1", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": "length" if cut else "stop"}],
        "usage": {"prompt_tokens": 900, "completion_tokens": 80, "total_tokens": 980},
    }  # fmt: skip


def message(content: str, cut: bool = False) -> dict:
    """What Claude answers."""
    return {
        "id": "1", "type": "message", "role": "assistant", "model": "m", "content": [{"type": "text", "text": content}],
        "stop_reason": "max_tokens" if cut else "end_turn", "stop_sequence": None,
        "usage": {"input_tokens": 900, "output_tokens": 80},
    }  # fmt: skip


WIRES = {"openai": (OpenAiCompatible, completion), "claude": (Claude, message)}


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


def ends_in_a_letter(handler: BaseHTTPRequestHandler, request: dict) -> None:
    """Without a Content-Length nobody can tell that it is cut."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.wfile.write('{"id": "Dvořák'.encode()[:-3])
    handler.close_connection = True


def hangs_up(handler: BaseHTTPRequestHandler, request: dict) -> None:
    handler.connection.close()


def drips(until: threading.Event) -> Step:
    """A byte now and then: each arrives before a read would time out, the whole never does."""

    def step(handler: BaseHTTPRequestHandler, request: dict) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        with contextlib.suppress(OSError):
            while not until.wait(0.1):
                handler.wfile.write(b" ")
                handler.wfile.flush()

    return step


RIGHT = says(completion(json.dumps(TIMETABLE)))


def right(handler: BaseHTTPRequestHandler, request: dict) -> None:
    """The timetable, as the endpoint that was asked has it."""
    says((message if handler.path.endswith("/messages") else completion)(json.dumps(TIMETABLE)))(handler, request)


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
                server.keys.append(self.headers.get("X-Api-Key") or self.headers.get("Authorization"))
                (server.script.pop(0) if server.script else right)(self, request)

            def log_message(self, *_: object) -> None:
                pass

        class Http(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128  # a connection that finds no room is tried again a second later

        self._http = Http(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture(params=WIRES)
def wire(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("OPENAI_API_KEY", "planted-secret")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "planted-secret")
    return request.param


def service(wire: str, server: Server, timeout_s: float = 60.0) -> Service:
    return WIRES[wire][0](
        "qwen", server.url if wire == "openai" else server.url.removesuffix("/v1"), timeout_s=timeout_s
    )


def said(wire: str, content: str, cut: bool = False) -> Step:
    return says(WIRES[wire][1](content, cut))


def test_a_page_goes_as_a_picture_with_the_schema_and_comes_back_as_a_document(wire: str, server: Server) -> None:
    answer = service(wire, server).ask(PICTURE)
    assert answer.document is not None and answer.document.model_dump(exclude_none=True, mode="json") == TIMETABLE
    assert (answer.usage.pages, answer.usage.input_tokens, answer.usage.output_tokens) == (1, 900, 80)
    (request,) = server.requests
    parts = {part["type"]: part for part in request["messages"][0]["content"]}
    assert parts["text"]["text"].startswith("This picture shows a timetable.")
    if wire == "openai":
        sent = parts["image_url"]["image_url"]["url"].removeprefix("data:image/png;base64,")
        schema = request["response_format"]["json_schema"]["schema"]
    else:
        sent = parts["image"]["source"]["data"]
        schema = request["output_config"]["format"]["schema"]
    assert base64.b64decode(sent) == PICTURE
    assert schema["required"] == ["timeblocks"] and schema["additionalProperties"] is False
    assert server.keys[0].endswith("planted-secret") and "planted" not in answer.model_dump_json()


def test_a_picture_of_another_kind_goes_as_png(wire: str, server: Server) -> None:
    file = io.BytesIO()
    Image.new("L", (4, 4)).save(file, "TIFF")
    service(wire, server).ask(file.getvalue())
    assert "iVBORw0KGgo" in json.dumps(server.requests[0])  # how PNG begins, in base64


def test_a_complaint_is_told(wire: str, server: Server) -> None:
    service(wire, server).ask(PICTURE, "timeblocks: Field required")
    assert "could not be used: timeblocks: Field required" in json.dumps(server.requests[0])


def test_what_is_no_picture_is_refused_before_anybody_is_asked(wire: str, server: Server) -> None:
    with pytest.raises(Refused, match="cannot be decoded"):
        service(wire, server).ask(b"no picture")
    assert not server.requests


@pytest.mark.parametrize(
    ("step", "error", "why"),
    [
        (says({"error": {"message": "slow down"}}, 429, Retry_After="3"), Busy, "429"),
        (says({"error": {"message": "oh"}}, 500), Busy, "500"),
        (says({"error": {"message": "overloaded"}}, 529), Busy, "529"),
        (says({"error": {"message": "who?"}}, 401), Denied, "401"),
        (says({"error": {"message": "no such model"}}, 404), Denied, "404"),
        (says({"error": {"message": "too large"}}, 413), Refused, "413"),
        (says({"error": {"message": "Your credit balance is too low"}}, 400), Denied, "400"),
        (says({"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}, 429), Denied, "429"),
        (says("<html>bad gateway</html>", 502, Content_Type="text/html"), Busy, "502"),
        (says("not JSON at all"), Busy, "no"),
        (says({"unexpected": True}), Busy, "is no (completion|message)"),
        (says({"choices": [{"finish_reason": "stop"}], "content": [None], "usage": {}}), Busy, "is no (compl|mess)"),
        (says([None]), Busy, "is no (completion|message)"),
        (says({"error": {"message": "response_format: json_schema is not supported"}}, 400), Denied, "400"),
        (says({"error": {"message": "max_tokens: 8192 > 4096, the maximum of this model"}}, 400), Denied, "max_tokens"),
        (says({"error": {"message": "At most 0 image(s) may be provided in one prompt"}}, 400), Denied, "400"),
        (cut_short, Busy, "Connection"),
        (hangs_up, Busy, "Connection"),
        (ends_in_a_letter, Busy, "is no JSON"),
    ],
)
def test_each_fault_is_what_it_is(wire: str, server: Server, step: Step, error: type[Exception], why: str) -> None:
    server.script = [step]
    with pytest.raises(error, match=why):
        service(wire, server).ask(PICTURE)
    assert len(server.requests) == 1  # the client does not try again by itself


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("Here is your timetable!", "JSON"),
        ('{"timeblocks": [{"day": "Mon"}]}', r"timeblocks\.0\.name: Field required"),
        ('{"blocks": []}', "timeblocks: Field required"),
        (json.dumps(TIMETABLE).replace("08:00", "8am"), r"timeblocks\.0\.startTime: '8am' is no HH:MM"),
        (json.dumps(TIMETABLE).replace("08:45", "08:00"), r"timeblocks\.0: it starts and ends at 08:00"),
        (json.dumps(TIMETABLE).replace("08:45", "07:00"), r"timeblocks\.0: it ends at 07:00, before it starts"),
        (json.dumps({"timeblocks": TIMETABLE["timeblocks"] * 2}), r"timeblocks\.1: the same as timeblocks\.0"),
    ],
)
def test_an_answer_that_does_not_fit_is_unusable_and_paid(wire: str, server: Server, content: str, why: str) -> None:
    server.script = [said(wire, content)]
    with pytest.raises(Unusable, match=why) as unusable:
        service(wire, server).ask(PICTURE)
    assert unusable.value.usage.input_tokens == 900


@pytest.mark.parametrize(
    ("told", "seconds"), [("3", 3.0), ("0.5", 0.5), ("Wed, 21 Oct 2026 07:28:00 GMT", 0.0), ("soon", None)]
)
def test_retry_after_is_told(wire: str, server: Server, told: str, seconds: float | None) -> None:
    server.script = [says({"error": {"message": "slow down"}}, 429, Retry_After=told)]
    with pytest.raises(Busy) as busy:
        service(wire, server).ask(PICTURE)
    assert busy.value.retry_after_s == seconds


def test_an_answer_that_is_cut_would_be_so_again(wire: str, server: Server) -> None:
    server.script = [said(wire, json.dumps(TIMETABLE)[:40], cut=True)]
    with pytest.raises(Refused, match=r"cut after \d+ tokens; raise max_answer_tokens") as refused:
        service(wire, server).ask(PICTURE)
    assert refused.value.usage.input_tokens == 900


def test_a_refusal_of_the_model_is_final(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "planted-secret")
    for content in ([{"type": "text", "text": "I cannot."}], []):
        server.script = [says(message("") | {"stop_reason": "refusal", "content": content})]
        with pytest.raises(Refused, match="refused") as refused:
            service("claude", server).ask(PICTURE)
        assert refused.value.usage.input_tokens == 900
    server.script = [says(message("") | {"content": []})]
    with pytest.raises(Unusable):
        service("claude", server).ask(PICTURE)


def test_what_a_filter_holds_back_is_a_refusal(server: Server) -> None:
    for held in ({"message": {"role": "assistant", "content": None, "refusal": "I'm sorry"}, "finish_reason": "stop"},
                 {"message": {"role": "assistant", "content": "{"}, "finish_reason": "content_filter"}):  # fmt: skip
        server.script = [says(completion("") | {"choices": [{"index": 0} | held]})]
        with pytest.raises(Refused, match=r"refused to answer \((I'm sorry|filtered)\)") as refused:
            service("openai", server).ask(PICTURE)
        assert refused.value.usage.input_tokens == 900 and "choices" in refused.value.raw


def test_a_full_context_is_an_answer_that_is_cut(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "planted-secret")
    server.script = [says(message("{") | {"stop_reason": "model_context_window_exceeded"})]
    with pytest.raises(Refused, match="cut after 80 tokens; raise max_answer_tokens, or use a model with a longer"):
        service("claude", server).ask(PICTURE)


def test_parameters_that_a_model_does_not_take_are_left_out(server: Server, tmp_path: Path) -> None:
    def refuses(name: str) -> Step:
        return says({"error": {"message": f"Unsupported parameter: '{name}'", "param": name}}, 400)

    server.script = [refuses("max_tokens"), refuses("temperature")]
    model = OpenAiCompatible("o", server.url, max_tokens=77)
    desk = Desk()
    kept = ask(model, PICTURE, Answers(open_folder(tmp_path)), desk, sleep=lambda _: None)
    assert kept.answer.document and desk.counts().calls == 3 == len(server.requests)
    told = [{"max_tokens", "max_completion_tokens", "temperature"} & set(request) for request in server.requests]
    assert told == [{"max_tokens", "temperature"}, {"max_completion_tokens", "temperature"}, {"max_completion_tokens"}]
    assert server.requests[2]["max_completion_tokens"] == 77
    server.script = [refuses("max_completion_tokens")]
    with pytest.raises(Denied):
        model.ask(PICTURE)


def test_what_was_said_and_could_not_be_used_is_kept(wire: str, server: Server, tmp_path: Path) -> None:
    answers = Answers(open_folder(tmp_path))
    server.script = [said(wire, "first"), said(wire, "second"), RIGHT if wire == "openai" else right]
    kept = ask(service(wire, server), PICTURE, answers, Desk(), sleep=lambda _: None)
    assert ["first" in kept.unused[0], "second" in kept.unused[1], len(kept.unused)] == [True, True, 2]
    server.script = [said(wire, "third"), said(wire, '{"timeb', cut=True)]
    other = b"\x89PNG another"
    with pytest.raises(GivenUp):
        ask(service(wire, server), other, answers, Desk(), sleep=lambda _: None)
    gave_up = answers.gave_up(key_of(service(wire, server).question, other))
    assert gave_up and ["third" in gave_up.unused[0], "timeb" in gave_up.unused[1]] == [True, True]
    assert gave_up.paid.input_tokens == 1800


def test_an_answer_that_drips_is_given_up_in_time(wire: str, server: Server, tmp_path: Path) -> None:
    until, patience = threading.Event(), Patience(attempts=1, deadline_s=0.5)
    server.script = [drips(until)]
    try:
        with pytest.raises(GivenUp, match=r"no answer in 0\.5 s"):
            ask(service(wire, server), PICTURE, Answers(open_folder(tmp_path)), Desk(), patience=patience)
    finally:
        until.set()


def test_after_any_faults_the_page_is_answered_and_kept(wire: str, server: Server, tmp_path: Path) -> None:
    server.script = [says({"error": {}}, 500), cut_short, said(wire, "{}"), hangs_up]
    answers, desk = Answers(open_folder(tmp_path)), Desk()
    kept = ask(service(wire, server), PICTURE, answers, desk, sleep=lambda _: None)
    assert kept.attempts == 5 == len(server.requests) == desk.counts().calls
    assert kept.paid.input_tokens == 1800
    again = ask(service(wire, server), PICTURE, answers, desk, sleep=lambda _: None)
    assert again == kept and len(server.requests) == 5


def test_a_wrong_key_is_said_at_once(wire: str, server: Server, tmp_path: Path) -> None:
    server.script = [says({"error": {"message": "who are you?"}}, 401)]
    with pytest.raises(Closed, match=r"401.*who are you"):
        ask(service(wire, server), PICTURE, Answers(open_folder(tmp_path)), Desk())


@pytest.mark.parametrize(("wire", "key"), [("openai", "OPENAI_API_KEY"), ("claude", "ANTHROPIC_API_KEY")])
def test_a_key_comes_from_the_environment_alone(wire: str, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(key, raising=False)
    with pytest.raises(ValueError, match=key):
        WIRES[wire][0]("some-model")
    monkeypatch.setenv(key, "planted-secret\n")  # as it stands in a file
    assert WIRES[wire][0]("some-model")._key == "planted-secret"  # type: ignore[attr-defined]
