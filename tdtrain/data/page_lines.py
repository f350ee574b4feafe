"""One page -> its lines: boxes or detection, annotation or none, cropped upright."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tdtrain.data.align import align
from tdtrain.data.annotation import LABELLED_BY
from tdtrain.data.corpus import Page, PageRef, Quarantined
from tdtrain.data.crop import crop_line, encode_png
from tdtrain.data.detect import line_finder, turn_upright
from tdtrain.data.pack_options import PackOptions
from tdtrain.data.rows import Line, Split, content_id


def whole_image(page: Page, ref: PageRef, split: Split) -> Line:
    """A line image as it stands, with the one line of its annotation."""
    assert page.pixels is not None
    text = page.lines[0] if page.lines and len(page.lines) == 1 else None
    return _line(page, ref, split, page.pixels, text, None, {})


def page_lines(page: Page, ref: PageRef, split: Split, options: PackOptions) -> tuple[list[Line], list[Quarantined]]:
    """All lines of a page in reading order, and what could not be placed.

    Boxes win over detection, and their texts over the annotation, unless a teacher wrote them. An annotation without
    boxes is matched to the lines by a rough reading; lines that nobody annotated keep text None.
    """
    assert page.pixels is not None
    pixels = page.pixels
    tags = dict(page.boxes.tags) if page.boxes else {}
    boxed = page.boxes if options.use_boxes else None
    if boxed:
        quads = [box.corners for box in boxed.lines]
        texts = [box.text for box in boxed.lines]
        fields = [box.field for box in boxed.lines]
    else:
        quads = list(line_finder(options.detector, options.detector_side).find(pixels))
        texts, fields = [None] * len(quads), [None] * len(quads)
    if page.lines and LABELLED_BY in tags:  # a teacher's, and somebody wrote down what the page says
        texts = [None] * len(quads)
        del tags[LABELLED_BY]
    margin = options.margin if boxed else 0.0  # detected boxes come with theirs
    crops = [
        turn_upright(crop_line(pixels, quad, margin), text, options.detector, options.detector_side)
        for quad, text in zip(quads, texts, strict=True)
    ]
    problems: list[Quarantined] = []
    if not crops:
        problems.append(Quarantined(path=ref.image, kind="line", reason="no text line was found on the page"))
    if page.lines and not any(texts):
        readings = [line_finder(options.detector, options.detector_side).read(crop)[0] for crop in crops]
        alignment = align(readings, page.lines, options.max_distance)
        texts = [None if place is None else page.lines[place] for place in alignment.line_of]
        for place, distance in alignment.unmatched:
            reason = f"line {place + 1} {page.lines[place]!r} was not found (nearest reading at {distance:.2f})"
            problems.append(Quarantined(path=ref.annotation or ref.image, kind="line", reason=reason))
    lines = [
        _line(page, ref, split, crop, text, quad, tags | ({"field": field} if field else {}))
        for crop, text, quad, field in zip(crops, texts, quads, fields, strict=True)
    ]
    return lines, problems


def _line(
    page: Page,
    ref: PageRef,
    split: Split,
    pixels: NDArray[np.uint8],
    text: str | None,
    quad: NDArray[np.float32] | None,
    tags: dict[str, str],
) -> Line:
    corners = None if quad is None else tuple(float(value) for value in quad.reshape(-1))
    place = "" if corners is None else " ".join(f"{value:.2f}" for value in corners)
    return Line(
        id=content_id(page.page_id, place, text),
        page_id=page.page_id,
        image=encode_png(pixels),
        width=pixels.shape[1],
        height=pixels.shape[0],
        text=text,
        split=split,
        source=ref.image,
        quad=corners,
        tags=tags,
    )
