"""A PaddleOCR pipeline that PaddleX serves over HTTP (`paddlex --serve --pipeline OCR`)."""

from __future__ import annotations

import base64
import json
from typing import Any

import requests
from pydantic import BaseModel, ValidationError

from tdtrain.teachers.services.attempt import failure
from tdtrain.teachers.services.service import ANSWER_S, Answer, Busy, Question, SpokenLine, Usage

IMAGE = 1
"""PaddleX's fileType of a picture."""


AS_IT_IS = {"useDocOrientationClassify": False, "useDocUnwarping": False, "visualize": False}
"""Places are to be those of the page as it was sent, and no pictures are to come back."""


class _Read(BaseModel):
    """The lines of a picture, as PaddleX has them."""

    rec_texts: tuple[str, ...]
    rec_scores: tuple[float, ...]
    rec_polys: tuple[tuple[tuple[float, float], ...], ...]


class PaddleServed:
    """Finds and reads the lines of whole pages.

    Args:
        model: a name to remember its answers by, such as PP-OCRv5_server.
        url: such as http://localhost:8080.
        timeout_s: of each read.
    """

    def __init__(self, model: str, url: str, timeout_s: float = ANSWER_S) -> None:
        self.question = Question(service=f"paddleocr/{model}", form="lines-2")
        self._url, self._timeout_s = f"{url.rstrip('/')}/ocr", timeout_s

    def ask(self, image: bytes, complaint: str | None = None) -> Answer:
        """See `Service`."""
        body: Any = {"file": base64.b64encode(image).decode(), "fileType": IMAGE, **AS_IT_IS}
        try:
            said = requests.post(self._url, json=body, timeout=self._timeout_s)
        except requests.RequestException as error:
            raise Busy(f"{type(error).__name__}: no answer") from None  # its words hold the address, and what is in it
        if said.status_code != requests.codes.ok:
            raise failure(said.status_code, f"{said.status_code}: {_complaint(said)}", said.headers.get("retry-after"))
        try:
            result = said.json()["result"]["ocrResults"][0]["prunedResult"]
            read = _Read.model_validate(result)
            lines = tuple(
                SpokenLine(text=text, confidence=score, quad=tuple(value for corner in poly for value in corner))
                for text, score, poly in zip(read.rec_texts, read.rec_scores, read.rec_polys, strict=True)
            )
        except (ValueError, ValidationError, LookupError, TypeError) as error:
            raise Busy(f"its answer is not PaddleX's ({type(error).__name__})") from error
        return Answer(lines=lines, usage=Usage(), raw=json.dumps(result))


def _complaint(said: requests.Response) -> str:
    try:
        told: Any = said.json()
        return str(told["errorMsg"])
    except (ValueError, LookupError, TypeError):
        return said.reason
