"""Google Cloud Vision's document text detection, through Google's client over REST."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import requests
from google.api_core.client_options import ClientOptions
from google.api_core.exceptions import GoogleAPICallError, RetryError
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import DefaultCredentialsError, RefreshError, TransportError
from google.cloud import vision
from google.protobuf.json_format import ParseError

from tdtrain.teachers.services.attempt import failure
from tdtrain.teachers.services.fitted import fitted
from tdtrain.teachers.services.service import (
    ANSWER_S,
    Answer,
    Busy,
    Denied,
    Question,
    Refused,
    SpokenLine,
    Usage,
    secret,
)

KEY, FILE = "GOOGLE_API_KEY", "GOOGLE_APPLICATION_CREDENTIALS"
ENDS_LINE = (3, 4, 5)
"""TextAnnotation.DetectedBreak.BreakType: EOL_SURE_SPACE, HYPHEN, LINE_BREAK."""
HYPHEN = 4
LATER_CODES = (4, 8, 10, 13, 14)
"""google.rpc.Code of one picture: DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, ABORTED, INTERNAL, UNAVAILABLE."""
MOST_PICTURES, MOST_BYTES = 16, 7_000_000
"""Of one call: the service takes 16 pictures and 10 MB of JSON, in which a byte of a picture is four thirds of one
(cloud.google.com/vision/quotas)."""


class GoogleVision:
    """Reads whole pages. Credentials: GOOGLE_API_KEY, or what GOOGLE_APPLICATION_CREDENTIALS names.

    Args:
        model: builtin/stable or builtin/latest.
        url: None: Google's own; one's own needs no credentials.
        timeout_s: of each read.
        key: None: as the environment has it. Of somebody who asks nothing any will do.
    """

    most_bytes = MOST_BYTES

    def __init__(
        self,
        model: str = "builtin/stable",
        url: str | None = None,
        timeout_s: float = ANSWER_S,
        key: str | None = None,
    ) -> None:
        self.question = Question(service=f"google-vision/{model}", form="lines-1")
        self._model, self._timeout_s = model, timeout_s
        self._key, file = key or secret(KEY), secret(FILE)
        options = ClientOptions(api_endpoint=url, api_key=self._key or None)
        anonymous = AnonymousCredentials() if url and not (self._key or file) else None
        try:
            self._client = vision.ImageAnnotatorClient(transport="rest", client_options=options, credentials=anonymous)
        except DefaultCredentialsError as error:
            if file:
                raise ValueError(f"{FILE}={file} cannot be used ({str(error).splitlines()[0]})") from error
            raise ValueError(f"service=google-vision needs {KEY}, or {FILE}, in the environment") from error

    def ask(self, image: bytes, complaint: str | None = None) -> Answer:
        """See `Service`."""
        (said,) = self.ask_several([image])
        if isinstance(said, Exception):
            raise said
        return said

    def ask_several(self, images: Sequence[bytes]) -> list[Answer | Busy | Refused]:
        """See `TakesSeveral`; at most `MOST_PICTURES`."""
        sent = [fitted(image, self.most_bytes) for image in images]
        said = self._annotate([picture.content for picture in sent])
        return [_answer(one, picture.scale) for one, picture in zip(said, sent, strict=True)]

    def _annotate(self, images: Sequence[bytes]) -> Any:
        feature = {"type_": vision.Feature.Type.DOCUMENT_TEXT_DETECTION, "model": self._model}
        told: Any = [{"image": {"content": image}, "features": [feature]} for image in images]
        try:
            said = self._client.batch_annotate_images(requests=told, retry=None, timeout=self._timeout_s)
        except GoogleAPICallError as error:
            reason = f"{error.code}: {error.message}".replace(self._key or "\0", "***")
            headers = getattr(error.response, "headers", None) or {}
            raise failure(int(error.code or 500), reason, headers.get("retry-after")) from None  # it holds the request
        except RefreshError as error:
            raise Denied(f"{type(error).__name__}: the credentials are not valid any more") from None
        except (RetryError, TransportError, requests.RequestException) as error:
            raise Busy(f"{type(error).__name__}: no answer") from None  # its words may hold the key
        except (ParseError, ValueError) as error:
            raise Busy(f"its answer is no JSON ({error})") from error
        if len(said.responses) != len(images):
            raise Busy(f"{len(said.responses)} answers to {len(images)} pictures")
        return said.responses


def _answer(said: Any, scale: float) -> Answer | Busy | Refused:
    if said.error.code:
        reason = f"{said.error.code}: {said.error.message}"
        return Busy(reason) if said.error.code in LATER_CODES else Refused(reason)
    lines = tuple(line.scaled(scale) for line in lines_of(said.full_text_annotation))
    return Answer(lines=lines, usage=Usage(), raw=type(said).to_json(said))


def lines_of(text: Any) -> Iterator[SpokenLine]:
    """Lines of a TextAnnotation: words up to a break that ends a line, or up to the end of their paragraph.

    A line's corners are the left ones of its first word and the right ones of its last; its confidence is the mean of
    its words' by their letters.
    """
    for page in text.pages:
        for block in page.blocks:
            for paragraph in block.paragraphs:
                words: list[Any] = []
                for word in paragraph.words:
                    words.append(word)
                    if word.symbols and word.symbols[-1].property.detected_break.type_ in ENDS_LINE:
                        yield _line(words)
                        words = []
                if words:
                    yield _line(words)


def _line(words: list[Any]) -> SpokenLine:
    said, letters = "", 0
    for word in words:
        said += "".join(symbol.text for symbol in word.symbols)
        letters += len(word.symbols)
        ends = word.symbols[-1].property.detected_break.type_ if word.symbols else None
        said += "-" if ends == HYPHEN else " " if ends else ""  # a hyphen that ends a line is none of the symbols
    first, last = words[0].bounding_box.vertices, words[-1].bounding_box.vertices
    corners = [first[0], last[1], last[2], first[3]] if len(first) == len(last) == 4 else None
    confidence = sum(word.confidence * len(word.symbols) for word in words) / max(letters, 1)
    quad = tuple(float(value) for corner in corners for value in (corner.x, corner.y)) if corners else None
    return SpokenLine(text=said.strip(), confidence=min(1.0, confidence), quad=quad)
