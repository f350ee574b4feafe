"""A reader of one's own as a teacher of whole pages: PP-OCR's detector and any reader, in the asking process."""

from __future__ import annotations

import threading

from safetensors.torch import save

from tdtrain.data.batches import decode
from tdtrain.data.corpus import Page, PageRef
from tdtrain.data.decode import BadImageError, decode_rgb
from tdtrain.data.detect import finder_fingerprint
from tdtrain.data.pack_options import PackOptions
from tdtrain.data.page_lines import page_lines
from tdtrain.data.rows import content_id
from tdtrain.machine import give_back_memory
from tdtrain.models.load import load_reader
from tdtrain.models.reader import read_images
from tdtrain.teachers.services.service import Answer, Question, Refused, SpokenLine, Usage


class LocalReader:
    """One reader.

    Args:
        model: built-in name, Hugging Face name or folder.
    """

    def __init__(self, model: str = "ppocrv6-small") -> None:
        self._reader, self._options = load_reader(model).frozen(), PackOptions(use_boxes=False)
        finder = finder_fingerprint(self._options.detector, self._options.detector_side)
        weights = {name: value.contiguous().clone() for name, value in self._reader.module.state_dict().items()}
        held = content_id(save(weights), finder)  # a folder may hold others tomorrow
        self.question = Question(service=f"local/{model}", form=f"lines-1/{held}")
        self._lock = threading.Lock()

    def ask(self, image: bytes, complaint: str | None = None) -> Answer:
        """See `Service`."""
        try:
            pixels = decode_rgb(image, self._options.max_pixels, self._options.min_side)
        except BadImageError as error:
            raise Refused(str(error)) from error
        with self._lock:  # torch takes all threads for one picture
            page = Page("", "", pixels, None, None, ())
            found, _ = page_lines(page, PageRef(image="page"), "train", self._options)
            readings = read_images(self._reader, [decode(line.image) for line in found])
            give_back_memory()
        lines = tuple(
            SpokenLine(text=reading.text, confidence=reading.confidence, quad=line.quad)
            for line, reading in zip(found, readings, strict=True)
        )
        return Answer(lines=lines, usage=Usage(), raw="{}")
