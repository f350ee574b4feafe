"""What a row is: the one contract between a corpus on disk and everything that learns from it.

A corpus is a folder of pages. Packing turns it into lines: one row a text line, in Parquet, in the schema below.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa

Split = Literal["train", "validation", "test"]
LABELLED_BY = "labelled_by"
"""The tag of boxes, and the field of documents, that a teacher wrote and nobody checked: its name."""
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

LINE_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("page_id", pa.string(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("text", pa.string()),
        pa.field("split", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("quad", pa.list_(pa.float32())),
        pa.field("tags", pa.map_(pa.string(), pa.string())),
    ]
)


@dataclass(frozen=True)
class Line:
    """One text line of a page, as it is packed.

    Attributes:
        id: hash of the line's pixels, its place on the page and its text; stable across machines.
        page_id: hash of the page's image bytes; a page's lines share it, and it alone decides the split.
        image: PNG bytes, RGB, upright, at the page's own resolution.
        text: what the line says, or None where nobody annotated it.
        source: the page's path inside the corpus, for people.
        quad: the line's corners on the page (x, y from the top left, clockwise), pixels; None for line images.
        tags: what is known about the line for breakdowns, such as `field`, `damage`, `layout`, `language`.
    """

    id: str
    page_id: str
    image: bytes
    width: int
    height: int
    text: str | None
    split: Split
    source: str
    quad: tuple[float, ...] | None = None
    tags: dict[str, str] = field(default_factory=dict)


def content_id(*parts: bytes | str | None) -> str:
    """A 128-bit hex name for some content. None differs from the empty string, and part borders count."""
    digest = hashlib.sha256()
    for part in parts:
        raw = b"" if part is None else part.encode() if isinstance(part, str) else part
        digest.update(b"%d:%d;" % (part is not None, len(raw)))
        digest.update(raw)
    return digest.hexdigest()[:32]


def split_of(page_id: str, validation_share: float = 0.1, test_share: float = 0.1) -> Split:
    """The split of a page, from its content alone, so that it stays put while a corpus grows around it."""
    position = _position(page_id)
    if position < test_share:
        return "test"
    return "validation" if position < test_share + validation_share else "train"


def splits_of(
    annotated: Mapping[str, bool], validation_share: float = 0.1, test_share: float = 0.1
) -> dict[str, Split]:
    """The split of each page of a corpus: `split_of`, except where few pages are annotated.

    A test or validation split without any annotated page takes the annotated training page that is next to it, as long
    as one stays behind: of five annotated pages, chance would leave none to measure on in six corpora out of ten.

    Args:
        annotated: whether somebody annotated it, by page id.
    """
    splits = {page_id: split_of(page_id, validation_share, test_share) for page_id in annotated}
    told = sorted((page_id for page_id, own in annotated.items() if own), key=_position)
    wanted: tuple[tuple[Split, float], ...] = (("test", test_share), ("validation", validation_share))
    for split, share in wanted:
        learnt = [page_id for page_id in told if splits[page_id] == "train"]
        if share and len(learnt) >= 2 and not any(splits[page_id] == split for page_id in told):
            splits[learnt[0]] = split
    return splits


def _position(page_id: str) -> float:
    return int(content_id("split", page_id)[:8], 16) / 2**32
