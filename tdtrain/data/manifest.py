"""What a packed corpus is: Parquet shards of lines, and a manifest that says so."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from tdtrain.data.rows import LABELLED_BY, SPLITS, Line, Split, content_id
from tdtrain.data.storage import absolute, open_folder

MANIFEST = "manifest.json"


class Shard(BaseModel):
    """One Parquet file of lines, in LINE_SCHEMA."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    path: str
    """Relative to the packed folder."""
    split: Split
    num_rows: int
    num_annotated: int


class Manifest(BaseModel):
    """The contents of a packed corpus. It is written last: a folder without it is incomplete."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    fingerprint: str
    """Names the corpus's content, the options and the version of the packing; equal means nothing to do."""
    version: str
    corpus_kind: str
    shards: tuple[Shard, ...]
    charset_by_split: dict[Split, dict[str, int]]
    """Characters of the annotated lines and how often each is there."""
    sole_text: str | None
    """The text, if all annotated lines say the same."""
    root: str = Field(default="", exclude=True)
    """Where the folder is; not stored, so that a packed corpus can be moved."""

    def shards_of(self, split: Split) -> tuple[Shard, ...]:
        return tuple(shard for shard in self.shards if shard.split == split)

    def num_rows(self, split: Split | None = None) -> int:
        return sum(shard.num_rows for shard in self.shards if split in (None, shard.split))

    def num_annotated(self, split: Split | None = None) -> int:
        return sum(shard.num_annotated for shard in self.shards if split in (None, shard.split))

    @property
    def charset(self) -> dict[str, int]:
        """Characters of all annotated lines with their counts, in code point order."""
        total: Counter[str] = Counter()
        for counts in self.charset_by_split.values():
            total.update(counts)
        return dict(sorted(total.items()))


def load_manifest(path: str | Path) -> Manifest:
    """Opens a packed corpus (its folder: local, s3://, gs://, ...).

    Raises:
        ValueError: the folder holds no manifest.
    """
    folder = open_folder(path)
    if not folder.exists(MANIFEST):
        raise ValueError(
            f"{path} is no packed corpus: it has no {MANIFEST} (packing it was never finished); "
            "run rayjobs/prepare.py with this folder as --output_dir"
        )
    stored = Manifest.model_validate_json(folder.read(MANIFEST))
    return stored.model_copy(update={"root": absolute(path)})


def read_lines(manifest: Manifest, split: Split, images: bool = True) -> Iterator[Line]:
    """The lines of a split one by one, in packed order; for small uses, training reads the shards in parallel.

    Args:
        images: without them, which are nearly all of a shard, `image` is empty.
    """
    folder = open_folder(manifest.root)
    columns = [field.name for field in fields(Line) if images or field.name != "image"]
    for shard in manifest.shards_of(split):
        table = pq.read_table(folder.path(shard.path), columns=columns, filesystem=folder.filesystem)
        for row in table.to_pylist():
            quad = None if row["quad"] is None else tuple(row["quad"])
            yield Line(**{"image": b"", **row, "quad": quad, "tags": dict(row["tags"] or [])})


def some_lines(manifest: Manifest, split: Split, limit: int) -> Iterator[Line]:
    """Up to `limit` lines from all over a split, annotated or not."""
    step = max(1, -(-manifest.num_rows(split) // limit))
    return itertools.islice(read_lines(manifest, split), 0, None, step)


def annotated_lines(manifest: Manifest, split: Split, limit: int) -> list[Line]:
    """Up to `limit` annotated lines of a split, chosen by their hash alone, so that a growing corpus keeps them. Where
    somebody annotated pages, what a teacher wrote of others is not among them."""
    seen = (line for each in SPLITS for line in read_lines(manifest, each, images=False) if line.text)
    by_hand = any(LABELLED_BY not in line.tags for line in seen)
    told = (line for line in read_lines(manifest, split) if line.text and not (by_hand and LABELLED_BY in line.tags))
    return heapq.nsmallest(limit, told, key=lambda line: content_id("evaluation", line.id))


def check_measurable(manifest: Manifest) -> None:
    """Raises ValueError where the test split has no annotated line, so that nobody would know what was gained."""
    if not manifest.num_annotated("test"):
        raise ValueError(
            f"no line of the test split of {manifest.root} is annotated, so the student and its control could not be "
            "compared; annotate two pages or more, or do without control and measurement (--no_control)"
        )


def check_learnable(manifest: Manifest, need_labels: bool) -> None:
    """Whether something can be learned and measured on this corpus.

    Args:
        need_labels: whether learning itself needs annotated lines (no teacher reads the others).

    Raises:
        ValueError: no lines, a split without rows, no annotation where one is needed, or one text throughout.
    """
    rows = {split: manifest.num_rows(split) for split in SPLITS}
    annotated = {split: manifest.num_annotated(split) for split in SPLITS}
    where = f"the packed corpus {manifest.root}".rstrip()
    if not sum(rows.values()):
        raise ValueError(f"{where} has no lines; give images with text on them")
    empty = [split for split in SPLITS if not rows[split]]
    if empty:
        raise ValueError(
            f"{where} has its lines split as {rows}, so nothing is left for {' and '.join(empty)}; splits are drawn by "
            "page, so add pages (30 nearly always suffice), or pack them with other shares (rayjobs/prepare.py)"
        )
    if need_labels and not annotated["train"]:
        raise ValueError(
            f"{where} has no annotated line to train on (annotated lines: {annotated}); add annotations/NAME.txt for "
            "some pages, or do without the control (--no_control): a teacher reads pages without annotation"
        )
    if manifest.sole_text is not None and sum(annotated.values()) > 1:
        raise ValueError(
            f"{where} has one class only: all {sum(annotated.values())} annotated lines say {manifest.sole_text!r}; "
            "annotate lines that differ"
        )
