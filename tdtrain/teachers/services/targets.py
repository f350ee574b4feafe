"""What an answer leaves in a corpus: annotations/NAME.json of a document, boxes/NAME.json of lines."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tdtrain.data.annotation import LABELLED_BY
from tdtrain.data.timetable import Document
from tdtrain.teachers.services.service import Answer, SpokenLine


def document_file(answer: Answer, image: str, teacher: str) -> bytes | None:
    """annotations/NAME.json, which says who wrote it; None where the answer holds no time block."""
    if answer.document is None or not answer.document.timeblocks:
        return None
    document = Document(image_path=image, labelled_by=teacher, **answer.document.model_dump())
    return (document.model_dump_json(indent=1, exclude_none=True) + "\n").encode()


def boxes_file(lines: Sequence[SpokenLine], min_confidence: float, teacher: str) -> bytes | None:
    """boxes/NAME.json; None where no line has its place. Lines that nobody is sure of keep their place and lose their
    text, so that no student learns from it. A tag says who read them."""
    boxes = []
    for line in lines:
        if line.quad is not None:
            box: dict[str, object] = {"quad": list(zip(line.quad[::2], line.quad[1::2], strict=True))}
            boxes.append(box | ({"text": line.text} if why_not(line, min_confidence) is None else {}))
    told = {"lines": boxes, "tags": {LABELLED_BY: teacher}}
    return (json.dumps(told, ensure_ascii=False) + "\n").encode() if boxes else None


def why_not(line: SpokenLine, min_confidence: float) -> str | None:
    """Why nobody is to learn from a line; None where somebody may. One without a confidence is held for sure."""
    if line.quad is None:
        return "without a place"
    if not line.text.strip():
        return "empty"
    if line.confidence is not None and line.confidence < min_confidence:
        return "not sure"
    return None
