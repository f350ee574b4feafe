"""What an answer leaves in a corpus: annotations/NAME.json of a document, boxes/NAME.json of lines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from tdtrain.data.annotation import LABELLED_BY
from tdtrain.data.crop import crop_line, encode_png
from tdtrain.data.decode import BadImageError, decode_rgb
from tdtrain.data.pack_options import PackOptions
from tdtrain.data.timetable import Document
from tdtrain.teachers.services.service import Answer, SpokenLine
from tdtrain.teachers.services.vote import plain, same_lines

STEPS = 10
"""Of the histogram of confidences."""


def document_file(answer: Answer, image: str) -> bytes | None:
    """annotations/NAME.json; None where the answer holds no document."""
    if answer.document is None:
        return None
    document = Document(image_path=image, **answer.document.model_dump())
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


class Shown(BaseModel):
    """A line as the report shows it: `picture` is PNG, `said` what each teacher says, `text` what was elected."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
    image: str
    why: str
    picture: bytes
    said: dict[str, str]
    text: str
    confidence: float | None


class LabelledPage(BaseModel):
    """What became of a page's lines. `same`: of how many lines that another teacher found as well the text is the same,
    and how many these are, by teacher."""

    image: str
    lines: int
    dropped: dict[str, int]
    confidences: list[int]
    """Lines by confidence, in steps of a tenth."""
    same: dict[str, tuple[int, int]]
    shown: tuple[Shown, ...] = ()


def look_at(
    image: str, said: Mapping[str, Sequence[SpokenLine]], elected: Sequence[SpokenLine], min_confidence: float
) -> LabelledPage:
    """Counts a page's lines, by what was elected of all that was said; see `vote`."""
    first, *others = said
    reasons = [why_not(line, min_confidence) for line in elected]
    confidences = [0] * STEPS
    for line in elected:
        confidences[min(STEPS - 1, int(STEPS * (1.0 if line.confidence is None else line.confidence)))] += 1
    same = {}
    for name in others:
        found = same_lines(said[first], said[name])
        same[name] = (sum(plain(said[first][at].text) == plain(line.text) for at, line in found.items()), len(found))
    dropped = {why: reasons.count(why) for why in sorted({why for why in reasons if why})}
    return LabelledPage(image=image, lines=len(elected), dropped=dropped, confidences=confidences, same=same)


def show(
    page: LabelledPage, file: bytes, said: Mapping[str, Sequence[SpokenLine]], elected: Sequence[SpokenLine],
    min_confidence: float,
) -> LabelledPage:  # fmt: skip
    """The same with lines to look at: the first that is kept, that teachers differ on, and that is dropped."""
    first, *others = said
    found = {name: same_lines(said[first], said[name]) for name in others}
    chosen: dict[str, int] = {}
    for at, line in enumerate(elected):
        texts = {plain(lines[at].text) for lines in found.values() if at in lines} | {plain(said[first][at].text)}
        why = why_not(line, min_confidence) or ("teachers differ" if len(texts) > 1 else "kept")
        if line.quad is not None:
            chosen.setdefault(why, at)
    options = PackOptions()
    try:
        pixels = decode_rgb(file, options.max_pixels, options.min_side)
    except BadImageError:  # services read some that packing sets aside
        return page
    shown = []
    for why, at in chosen.items():
        quad = np.asarray(elected[at].quad, np.float32).reshape(4, 2)
        theirs = {name: lines[at].text for name, lines in found.items() if at in lines}
        shown.append(Shown(
            image=page.image, why=why, picture=encode_png(crop_line(pixels, quad)),
            said={first: said[first][at].text} | theirs, text=elected[at].text, confidence=elected[at].confidence,
        ))  # fmt: skip
    return page.model_copy(update={"shown": tuple(shown)})
