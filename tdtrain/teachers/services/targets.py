"""What an answer leaves in a corpus: annotations/NAME.json of a document, boxes/NAME.json of lines."""

from __future__ import annotations

import json
import math

from tdtrain.data.timetable import Document
from tdtrain.teachers.services.service import Answer, SpokenLine


def document_file(answer: Answer, image: str) -> bytes | None:
    """annotations/NAME.json; None where the answer holds no document."""
    if answer.document is None:
        return None
    document = Document(image_path=image, **answer.document.model_dump())
    return (document.model_dump_json(indent=1, exclude_none=True) + "\n").encode()


def boxes_file(answer: Answer, min_confidence: float) -> bytes | None:
    """boxes/NAME.json; None where the answer holds no line with its place. Lines that the service is not sure of keep
    their place and lose their text, so that nobody learns from it; it stays in the answer."""
    lines = []
    for line in answer.lines:
        if line.quad is not None and len(line.quad) == 8:
            box: dict[str, object] = {"quad": list(zip(line.quad[::2], line.quad[1::2], strict=True))}
            lines.append(box | ({"text": line.text} if is_sure(line, min_confidence) else {}))
    return (json.dumps({"lines": lines}, ensure_ascii=False) + "\n").encode() if lines else None


def is_sure(line: SpokenLine, min_confidence: float) -> bool:
    """Whether a line says something, with enough confidence; one without a confidence is held for sure."""
    return bool(line.text.strip()) and (math.inf if line.confidence is None else line.confidence) >= min_confidence
