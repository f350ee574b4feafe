"""The two passes over a corpus, a group of pages at a time: look at every file, then write the lines.

A group's result depends on its job alone, so it does not matter where, when or how often it runs.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from tdtrain.data.corpus import PageRef, Quarantined, check_document, digest_page, load_page
from tdtrain.data.manifest import Shard
from tdtrain.data.pack_options import PackOptions
from tdtrain.data.page_lines import page_lines, whole_image
from tdtrain.data.rows import LINE_SCHEMA, Line, Split, content_id
from tdtrain.data.storage import open_folder


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class InspectJob(Frozen):
    """Files to look at; `decode=False` only hashes them."""

    corpus: str
    pages: tuple[PageRef, ...]
    documents: tuple[str, ...]
    decode: bool
    options: PackOptions


class Inspected(Frozen):
    """What a file turned out to be. `page_id` is None for documents and where nothing was decoded; `describes` is a
    document's image, and `documented` says that a page has a document. `by_machine`: a teacher alone wrote it, of a
    page: all its lines, and `documented_by_machine`: its document."""

    path: str
    digest: str
    page_id: str | None = None
    width: int = 0
    height: int = 0
    num_lines: int | None = None
    annotated: bool = False
    by_machine: bool = False
    describes: str | None = None
    documented: bool = False
    documented_by_machine: bool = False
    has_boxes: bool = False
    usable: bool = False
    problems: tuple[Quarantined, ...] = ()


class InspectResult(Frozen):
    found: tuple[Inspected, ...]


class PackJob(Frozen):
    """Pages of one split that become one shard; `by_hand`: what a teacher wrote is left out of them."""

    corpus: str
    output: str
    shard: str
    split: Split
    pages: tuple[PageRef, ...]
    kind: Literal["pages", "lines"]
    options: PackOptions
    by_hand: bool = False


class PackResult(Frozen):
    """What was written. `texts` holds at most two different ones, enough to see whether there is more than one."""

    shard: Shard
    annotated_pages: int
    charset: dict[str, int]
    line_heights: dict[int, int]
    texts: tuple[str, ...]
    problems: tuple[Quarantined, ...]


def inspect(job: InspectJob) -> InspectResult:
    """Hashes and checks files."""
    folder = open_folder(job.corpus)
    found = []
    for path in job.documents:
        checked = check_document(folder, path) if job.decode else None
        item = Inspected(path=path, digest=content_id(folder.read(path)), usable=not isinstance(checked, Quarantined))
        if isinstance(checked, Quarantined):
            item = item.model_copy(update={"problems": (checked,)})
        elif checked is not None:
            told = {"describes": checked.image_path, "by_machine": checked.labelled_by is not None}
            item = item.model_copy(update=told)
        found.append(item)
    for ref in job.pages:
        if not job.decode:
            found.append(Inspected(path=ref.image, digest=digest_page(folder, ref)))
            continue
        page = load_page(folder, ref, job.options.max_pixels, job.options.min_side)
        height, width = page.pixels.shape[:2] if page.pixels is not None else (0, 0)
        found.append(
            Inspected(
                path=ref.image,
                digest=page.digest,
                page_id=page.page_id,
                width=width,
                height=height,
                num_lines=None if page.lines is None else len(page.lines),
                annotated=page.annotated,
                by_machine=page.by_machine,
                has_boxes=page.boxes is not None,
                usable=page.pixels is not None,
                problems=page.problems,
            )
        )
    return InspectResult(found=tuple(found))


def write_shard(job: PackJob) -> PackResult:
    """Turns pages into lines and writes them; a shard without lines is not written."""
    source, target = open_folder(job.corpus), open_folder(job.output)
    lines: list[Line] = []
    problems: list[Quarantined] = []
    for ref in job.pages:
        page = load_page(source, ref, job.options.max_pixels, job.options.min_side)
        if page.pixels is None:
            raise ValueError(f"{ref.image} changed while the corpus was packed ({page.problems[0].reason}); pack again")
        if job.kind == "lines":
            lines.append(whole_image(page, ref, job.split))
            continue
        added, bad = page_lines(page, ref, job.split, job.options)
        lines += [replace(line, text=None) for line in added] if job.by_hand and page.by_machine else added
        problems += bad
    if lines:
        table = pa.Table.from_pylist([vars(line) | {"tags": sorted(line.tags.items())} for line in lines], LINE_SCHEMA)
        target.filesystem.create_dir(target.path(job.shard).rsplit("/", 1)[0], recursive=True)
        # PNG bytes do not compress, and the other columns shrink enough as dictionaries.
        pq.write_table(
            table,
            target.path(job.shard),
            filesystem=target.filesystem,
            compression="none",
            use_dictionary=["page_id", "text", "split", "source"],
        )
    told = [line for line in lines if line.text is not None]
    return PackResult(
        shard=Shard(path=job.shard, split=job.split, num_rows=len(lines), num_annotated=len(told)),
        annotated_pages=len({line.page_id for line in told}),
        charset=dict(Counter(char for line in told for char in line.text or "")),
        line_heights=dict(Counter(line.height for line in lines)),
        texts=tuple(sorted({line.text or "" for line in told})[:2]),
        problems=tuple(problems),
    )
