"""What became of a page that a teacher labelled: what can be learnt from, how right it is where somebody annotated it,
and something to look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from tdtrain.data.annotation import Boxes, parse_document, parse_text
from tdtrain.data.crop import crop_line, encode_png
from tdtrain.data.decode import BadImageError, decode_rgb
from tdtrain.data.pack_options import PackOptions
from tdtrain.data.spelling import alike
from tdtrain.data.timetable import Timetable
from tdtrain.evaluate.fields import blocks_of
from tdtrain.teachers.services.service import Answer, SpokenLine
from tdtrain.teachers.services.targets import why_not
from tdtrain.teachers.services.vote import same_lines

STEPS = 10
"""Of the histogram of confidences."""
PAGE_SIDE = 700
"""Pixels of a page that is shown, its longer side."""


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
    """What became of a page's lines, or time blocks. `same`: of how many lines that another teacher found as well the
    text is the same, and how many these are, by teacher; of documents, twice the blocks that both have, and how many
    both have together, whose ratio is F1."""

    image: str
    lines: int = 0
    dropped: dict[str, int] = {}
    confidences: list[int] = [0] * STEPS
    """Lines by confidence, in steps of a tenth."""
    same: dict[str, tuple[int, int]] = {}
    right: tuple[int, int, int] | None = None
    """Of an annotated page: lines or blocks that are as annotated, that the teacher has, and that are annotated."""
    shown: tuple[Shown, ...] = ()

    def agreement(self) -> float:
        """Of a document with those of all others that were asked; without others 1."""
        return sum(same / max(1, both) for same, both in self.same.values()) / len(self.same) if self.same else 1.0


def check_document(own: bytes, answer: Answer | None) -> tuple[int, int, int]:
    """How many time blocks of an answer are those of annotations/NAME.json (day, name, start and end), how many it has,
    and how many are annotated; an answer that is None has none.

    Raises: BadAnnotationError, pydantic.ValidationError.
    """
    said = blocks_of(answer.document) if answer and answer.document else Counter[tuple[str, ...]]()
    true = blocks_of(parse_document(own, "its page"))
    return (said & true).total(), said.total(), true.total()


def check_lines(own: Mapping[str, bytes], answer: Answer | None) -> tuple[int, int, int]:
    """The same of lines, wherever they stand and spelling aside (`alike`); `own`: annotation files, of which a text
    counts before boxes."""
    texts = [content for path, content in own.items() if path.lower().endswith(".txt")]
    boxes = [box.text for content in own.values() if not texts for box in Boxes.model_validate_json(content).lines]
    true = Counter(alike(line) for line in (parse_text(texts[0]) if texts else boxes) if line)
    said = Counter(alike(line.text) for line in (answer.lines if answer else ()) if line.text.strip())
    return (said & true).total(), said.total(), true.total()


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
        same[name] = (
            sum(alike(said[first][at].text) == alike(line.text) for at, line in found.items()),
            len(found),
        )
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
        texts = {alike(lines[at].text) for lines in found.values() if at in lines} | {alike(said[first][at].text)}
        why = why_not(line, min_confidence) or ("teachers differ" if len(texts) > 1 else "kept")
        if line.quad is not None:
            chosen.setdefault(why, at)
    pixels = _pixels(file)
    if pixels is None:
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


def look_at_document(image: str, document: Timetable, others: Mapping[str, Answer | None]) -> LabelledPage:
    """Counts a page's time blocks, and those of them that other teachers have; None: one that has not answered."""
    mine, same = blocks_of(document), {}
    for name, answer in others.items():
        theirs = blocks_of(answer.document) if answer and answer.document else Counter[tuple[str, ...]]()
        same[name] = (2 * (mine & theirs).total(), mine.total() + theirs.total())
    return LabelledPage(image=image, lines=len(document.timeblocks), same=same)


def show_document(page: LabelledPage, file: bytes, teacher: str, document: Timetable) -> LabelledPage:
    """The same with its document, to look at."""
    pixels, num = _pixels(file), page.lines
    if pixels is None:
        return page
    share = PAGE_SIDE / max(pixels.shape[:2])
    if share < 1:
        pixels = np.asarray(cv2.resize(pixels, None, fx=share, fy=share, interpolation=cv2.INTER_AREA), np.uint8)
    said = "\n".join(
        f"{block.day} {block.startTime}\u2013{block.endTime} {block.name}" for block in document.timeblocks
    )
    shown = Shown(
        image=page.image,
        why=f"{num} time blocks",
        picture=encode_png(pixels),
        said={teacher: said},
        text=said,
        confidence=None,
    )
    return page.model_copy(update={"shown": (shown,)})


def _pixels(file: bytes) -> NDArray[np.uint8] | None:
    options = PackOptions()
    try:
        return decode_rgb(file, options.max_pixels, options.min_side)
    except BadImageError:  # services read some that packing sets aside
        return None
