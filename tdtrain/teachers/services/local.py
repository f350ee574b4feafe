"""A reader of one's own as a teacher of whole pages: PP-OCR's detector and any reader, in the asking process."""

from __future__ import annotations

import threading

from tdtrain.data.batches import decode
from tdtrain.data.corpus import Page, PageRef
from tdtrain.data.decode import BadImageError, decode_rgb
from tdtrain.data.pack_options import PackOptions
from tdtrain.data.page_lines import page_lines
from tdtrain.models.load import load_reader
from tdtrain.models.reader import Reader, read_images
from tdtrain.teachers.services.service import Answer, Question, Refused, SpokenLine, Usage


class LocalReader:
    """One reader; loaded at the first picture.

    Args:
        model: built-in name, Hugging Face name or folder.
    """

    def __init__(self, model: str = "ppocrv6-small") -> None:
        self.question = Question(service=f"local/{model}", form="lines-1")
        self._model, self._options = model, PackOptions(use_boxes=False)
        self._lock = threading.Lock()
        self._reader: Reader | None = None

    def ask(self, image: bytes, complaint: str | None = None) -> Answer:
        """See `Service`."""
        try:
            pixels = decode_rgb(image, self._options.max_pixels, self._options.min_side)
        except BadImageError as error:
            raise Refused(str(error)) from error
        with self._lock:  # torch takes all threads for one picture
            if self._reader is None:
                self._reader = load_reader(self._model).frozen()
            page = Page("", "", pixels, None, None, ())
            found, _ = page_lines(page, PageRef(image="page"), "train", self._options)
            readings = read_images(self._reader, [decode(line.image) for line in found])
        lines = tuple(
            SpokenLine(text=reading.text, confidence=reading.confidence, quad=line.quad)
            for line, reading in zip(found, readings, strict=True)
        )
        return Answer(lines=lines, usage=Usage(), raw="{}")
