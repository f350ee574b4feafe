"""What a reader makes of the pages that somebody annotated, read once a job; and what their annotations say."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq

from tdtrain.data.corpus import Quarantined
from tdtrain.data.documents import PageText, read_documents, read_pages
from tdtrain.data.manifest import Manifest, read_lines
from tdtrain.data.pack import QUARANTINE
from tdtrain.data.rows import SPLITS, Line
from tdtrain.data.screen import first_reasons
from tdtrain.data.storage import open_folder
from tdtrain.evaluate.score import read_lines_with
from tdtrain.evaluate.test_split import load_on
from tdtrain.models.load import load_reader
from tdtrain.models.reader import Reader
from tdtrain.stages import Stages

MOSTLY = 0.8
"""Share of the lines that have to be annotated for their text to be held for true."""


def read_annotated_pages(job: Stages, manifest: Manifest, reader: str) -> dict[str, str]:
    """What a reader makes of every line of the pages that have a document, by the line's id."""
    kept = job.output / "readings.parquet"
    if not kept.exists():
        told = read_documents(manifest)
        if not told:
            raise ValueError(f"no page of the corpus has a usable annotations/NAME.json{_set_aside(manifest)}")
        with job.stage("read", f"{reader} reads the annotated pages"):
            seen = (line for split in SPLITS for line in read_lines(manifest, split, images=not job.actors))
            lines = (line for line in seen if line.source in told)
            ids, texts = _read(job, manifest, reader, lines)
            partial_file = kept.with_suffix(".partial")
            pq.write_table(pa.table({"id": ids, "text": texts}), partial_file)
            os.replace(partial_file, kept)
    table = pq.read_table(kept)
    return dict(zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True))


def annotated_text(manifest: Manifest, texts: Mapping[str, str]) -> list[PageText]:
    """The test pages with their lines as they are annotated, or as they are read where a line is not. None where that
    is more than a fifth of the lines, as on pages of which only the document is annotated."""
    told = {page.source for page in read_pages(manifest) if page.truth and page.split == "test"}
    lines = [line for line in read_lines(manifest, "test", images=False) if line.source in told]
    if sum(line.text is not None for line in lines) < MOSTLY * len(lines):
        return []
    true = {line.id: line.text or texts.get(line.id, "") for line in lines}
    return [page for page in read_pages(manifest, true) if page.truth and page.split == "test"]


def _read(job: Stages, manifest: Manifest, name: str, lines: Iterable[Line]) -> tuple[list[str], list[str]]:
    """Ids and texts."""
    if not job.actors:
        held = list(lines)
        readings = read_lines_with(load_reader(name).frozen(), held)
        return [line.id for line in held], [reading.text for reading in readings]
    from tdtrain.evaluate.batch import read_corpus

    ids = [line.id for line in lines]
    device = "cuda" if job.compute.gpus else "cpu"
    loads: Mapping[str, partial[Reader]] = {name: partial(load_on, device, name)}
    found = read_corpus(
        loads,
        [f"{manifest.root}/{shard.path}" for split in SPLITS for shard in manifest.shards_of(split)],
        ids,
        num_actors=job.actors,
        cpus_per_actor=job.cpus_per_actor,
        gpus_per_actor=job.compute.gpus,
        progress=job.display.counting("read", "shards"),
    )
    return ids, [reading.text for reading in found[name]]


def _set_aside(manifest: Manifest) -> str:
    """Why documents were not used, as far as there were any."""
    folder = open_folder(manifest.root)
    table = pq.read_table(folder.path(QUARANTINE), filesystem=folder.filesystem)
    found = [Quarantined(**row) for row in table.to_pylist() if row["kind"] == "document"]
    return f": {first_reasons(found)}" if found else "; annotate some"
