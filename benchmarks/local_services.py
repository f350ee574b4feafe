"""Services on this machine that speak the wire formats of PaddleX, Google Cloud Vision, OpenAI and Anthropic.

What they read comes from readers of ours, what they write as JSON from the parser by rules, so that teachers behind an
API can be measured where none can be reached.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tdtrain.data.layout import PlacedLine
from tdtrain.evaluate.rules import parse_page
from tdtrain.teachers.services.local import LocalReader
from tdtrain.teachers.services.service import SpokenLine

LARGE, SMALL = "ppocrv6-small", "ppocrv6-tiny"
PAID = {"input_tokens": 1_500, "output_tokens": 1_000}


class LocalServices:
    """All of them at one address; each picture is read once by each reader. A context manager."""

    def __enter__(self) -> LocalServices:
        self._readers = {name: LocalReader(name) for name in (LARGE, SMALL)}
        self._read: dict[tuple[str, str], tuple[SpokenLine, ...]] = {}
        self._lock = threading.Lock()
        services = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                said = services._answer(self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                content = json.dumps(said or {"error": {"message": f"nothing at {self.path}"}}).encode()
                self.send_response(200 if said else 404)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def _answer(self, path: str, request: Any) -> dict | None:
        ways: dict[str, Callable[[Any], dict]] = {
            "/ocr": lambda asked: paddle(self._lines(LARGE, asked["file"])),
            "/v1/images:annotate": lambda asked: vision(
                *(self._lines(SMALL, one["image"]["content"]) for one in asked["requests"])
            ),
            "/v1/chat/completions": lambda asked: completion(self._json(SMALL, _sent_to_openai(asked))),
            "/v1/messages": lambda asked: message(self._json(LARGE, _sent_to_claude(asked))),
        }
        way = ways.get(path.partition("?")[0])
        return way(request) if way else None

    def _lines(self, reader: str, picture: str) -> tuple[SpokenLine, ...]:
        image = base64.b64decode(picture)
        key = reader, hashlib.sha256(image).hexdigest()
        with self._lock:
            if key not in self._read:
                self._read[key] = self._readers[reader].ask(image).lines
            return self._read[key]

    def _json(self, reader: str, picture: str) -> str:
        lines = self._lines(reader, picture)
        return parse_page([PlacedLine(line.text, line.quad) for line in lines if line.quad and line.text]).canonical()


def _sent_to_openai(request: Any) -> str:
    return request["messages"][0]["content"][1]["image_url"]["url"].partition(",")[2]


def _sent_to_claude(request: Any) -> str:
    return request["messages"][0]["content"][0]["source"]["data"]


def _corners(line: SpokenLine) -> list[list[float]]:
    quad = line.quad or (0.0,) * 8
    return [[quad[place], quad[place + 1]] for place in range(0, 8, 2)]


def paddle(lines: Sequence[SpokenLine]) -> dict:
    """A PaddleX pipeline's answer."""
    read = {
        "rec_texts": [line.text for line in lines], "rec_scores": [line.confidence or 0.0 for line in lines],
        "rec_polys": [_corners(line) for line in lines],
    }  # fmt: skip
    return {"logId": "1", "errorCode": 0, "errorMsg": "Success", "result": {"ocrResults": [{"prunedResult": read}]}}


def vision(*pages: Sequence[SpokenLine]) -> dict:
    """Google's answer: a paragraph a line, of words of letters; words share a line's width by their letters."""
    found = [[{"words": _words(line)} for line in lines if line.text.strip()] for lines in pages]
    texts = [{"text": "", "pages": [{"blocks": [{"paragraphs": paragraphs}]}]} for paragraphs in found]
    return {"responses": [{"fullTextAnnotation": text} for text in texts]}


def _words(line: SpokenLine) -> list[dict]:
    parts, words, at = line.text.split(), [], 0
    top_left, top_right, bottom_right, bottom_left = _corners(line)
    for number, part in enumerate(parts):
        ends = [at / len(line.text), (at + len(part)) / len(line.text)]
        at += len(part) + 1
        top, bottom = (
            [_between(*side, end) for end in ends] for side in ((top_left, top_right), (bottom_left, bottom_right))
        )
        symbols: list[dict] = [{"text": letter} for letter in part]
        kind = "SPACE" if number + 1 < len(parts) else "LINE_BREAK"
        symbols[-1]["property"] = {"detectedBreak": {"type": kind}}
        vertices = [{"x": round(x), "y": round(y)} for x, y in (*top, *reversed(bottom))]
        words.append({"symbols": symbols, "confidence": line.confidence or 0.0, "boundingBox": {"vertices": vertices}})
    return words


def _between(a: list[float], b: list[float], share: float) -> tuple[float, float]:
    return a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1])


def completion(content: str) -> dict:
    """A chat completion."""
    return {
        "id": "1", "object": "chat.completion", "created": 1, "model": "rules",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": PAID["input_tokens"], "completion_tokens": PAID["output_tokens"], "total_tokens": 0},
    }  # fmt: skip


def message(content: str) -> dict:
    """Claude's answer."""
    return {
        "id": "1", "type": "message", "role": "assistant", "model": "rules", "stop_reason": "end_turn",
        "stop_sequence": None, "content": [{"type": "text", "text": content}], "usage": PAID,
    }  # fmt: skip
