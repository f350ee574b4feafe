"""The structured annotations of a packed corpus: what each page says as a timetable, beside its lines.

documents.parquet   source (the page's image inside the corpus), document (canonical JSON), labelled_by (the teacher
                    that wrote it; null where somebody did)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from tdtrain.data.annotation import parse_document
from tdtrain.data.known import NOTHING
from tdtrain.data.layout import PlacedLine
from tdtrain.data.manifest import Manifest, read_lines
from tdtrain.data.rows import SPLITS, Split
from tdtrain.data.storage import Folder, open_folder
from tdtrain.data.timetable import Timetable

DOCUMENTS = "documents.parquet"
_SCHEMA = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("document", pa.string(), nullable=False),
        pa.field("labelled_by", pa.string()),
    ]
)


def write_documents(corpus: Folder, paths: Mapping[str, str], out: Folder) -> None:
    """Puts checked annotations/NAME.json files of a corpus into one file.

    Args:
        paths: of the files, by the image that each describes.
    """
    found = {image: parse_document(corpus.read(path), image) for image, path in paths.items()}
    rows = [
        {"source": image, "document": document.canonical(), "labelled_by": document.labelled_by}
        for image, document in found.items()
    ]
    out.filesystem.create_dir(out.root, recursive=True)
    pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), out.path(DOCUMENTS), filesystem=out.filesystem)


@dataclass(frozen=True)
class Told:
    """What a page says, as somebody wrote down, or a teacher."""

    document: Timetable
    labelled_by: str | None = None


def read_documents(manifest: Manifest) -> dict[str, Told]:
    """What the annotated pages of a packed corpus say, by the page's image."""
    folder = open_folder(manifest.root)
    table = pq.read_table(folder.path(DOCUMENTS), filesystem=folder.filesystem)
    return {
        row["source"]: Told(Timetable.model_validate_json(row["document"]), row["labelled_by"])
        for row in table.to_pylist()
    }


class PageText:
    """One page as text that was found on it, and what somebody says it says, or a teacher: `labelled_by`."""

    def __init__(self, source: str, page_id: str, split: Split, truth: Timetable | None) -> None:
        self.source, self.page_id, self.split, self.truth = source, page_id, split, truth
        self.labelled_by: str | None = None
        self.lines: list[PlacedLine] = []
        self.layout: str | None = None
        self.known = NOTHING
        """What is known of its days and names; see `Lexicon.known`."""


def read_pages(manifest: Manifest, texts: dict[str, str] | None = None) -> list[PageText]:
    """The pages of a packed corpus, by split and in packed order.

    Where somebody wrote documents, those that a teacher wrote are learnt from, and not measured by.

    Args:
        texts: what the lines say, by their id; None: what their annotation says. Lines without a text are left out.
    """
    documents = read_documents(manifest)
    by_hand = any(told.labelled_by is None for told in documents.values())
    pages: dict[str, PageText] = {}
    for split in SPLITS:
        for line in read_lines(manifest, split, images=False):
            page = pages.get(line.page_id)
            if page is None:
                told = documents.get(line.source)
                page = PageText(line.source, line.page_id, split, None)
                if told is not None and not (by_hand and told.labelled_by and split != "train"):
                    page.truth, page.labelled_by = told.document, told.labelled_by
                pages[line.page_id] = page
            text = line.text if texts is None else texts.get(line.id)
            page.layout = line.tags.get("layout")
            if text and line.quad:
                page.lines.append(PlacedLine(text, line.quad))
    return list(pages.values())
