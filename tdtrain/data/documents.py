"""The structured annotations of a packed corpus: what each page says as a timetable, beside its lines.

documents.parquet   source (the page's image inside the corpus), document (canonical JSON)
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from tdtrain.data.annotation import parse_document
from tdtrain.data.layout import PlacedLine
from tdtrain.data.manifest import Manifest, read_lines
from tdtrain.data.rows import SPLITS, Split
from tdtrain.data.storage import Folder, open_folder
from tdtrain.data.timetable import Timetable

DOCUMENTS = "documents.parquet"
_SCHEMA = pa.schema(
    [pa.field("source", pa.string(), nullable=False), pa.field("document", pa.string(), nullable=False)]
)


def write_documents(corpus: Folder, paths: Mapping[str, str], out: Folder) -> None:
    """Puts checked annotations/NAME.json files of a corpus into one file.

    Args:
        paths: of the files, by the image that each describes.
    """
    rows = [
        {"source": image, "document": parse_document(corpus.read(path)).canonical()} for image, path in paths.items()
    ]
    out.filesystem.create_dir(out.root, recursive=True)
    pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), out.path(DOCUMENTS), filesystem=out.filesystem)


def read_documents(manifest: Manifest) -> dict[str, Timetable]:
    """What the annotated pages of a packed corpus say, by the page's image."""
    folder = open_folder(manifest.root)
    table = pq.read_table(folder.path(DOCUMENTS), filesystem=folder.filesystem)
    return {row["source"]: Timetable.model_validate_json(row["document"]) for row in table.to_pylist()}


class PageText:
    """One page as text that was found on it, and what somebody says it says."""

    def __init__(self, source: str, page_id: str, split: Split, truth: Timetable | None) -> None:
        self.source, self.page_id, self.split, self.truth = source, page_id, split, truth
        self.lines: list[PlacedLine] = []
        self.layout: str | None = None


def read_pages(manifest: Manifest, texts: dict[str, str] | None = None) -> list[PageText]:
    """The pages of a packed corpus, by split and in packed order.

    Args:
        texts: what the lines say, by their id; None: what their annotation says. Lines without a text are left out.
    """
    documents = read_documents(manifest)
    pages: dict[str, PageText] = {}
    for split in SPLITS:
        for line in read_lines(manifest, split, images=False):
            page = pages.get(line.page_id)
            if page is None:
                page = pages[line.page_id] = PageText(line.source, line.page_id, split, documents.get(line.source))
            text = line.text if texts is None else texts.get(line.id)
            page.layout = line.tags.get("layout")
            if text and line.quad:
                page.lines.append(PlacedLine(text, line.quad))
    return list(pages.values())
