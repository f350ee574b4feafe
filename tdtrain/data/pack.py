"""A corpus on disk -> packed lines: Parquet shards, documents.parquet, quarantine.parquet, card.json and, last of all,
manifest.json."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import track

from tdtrain.data.card import CARD, Card, SplitCount, Spread, warnings_of
from tdtrain.data.corpus import Listing, PageRef, Quarantined, scan
from tdtrain.data.detect import finder_fingerprint
from tdtrain.data.documents import DOCUMENTS, write_documents
from tdtrain.data.manifest import MANIFEST, Manifest, check_learnable, load_manifest, read_lines
from tdtrain.data.pack_options import PackOptions
from tdtrain.data.rows import SPLITS, Split, content_id, splits_of
from tdtrain.data.screen import (
    check_share,
    corpus_kind,
    first_reasons,
    with_documents,
    without_duplicates,
    without_several_lines,
)
from tdtrain.data.storage import Folder, absolute, open_folder
from tdtrain.data.tasks import (
    Inspected,
    InspectJob,
    InspectResult,
    PackJob,
    PackResult,
    inspect,
    write_shard,
)

__all__ = ["Manifest", "PackOptions", "check_learnable", "load_manifest", "pack", "read_lines"]

VERSION = "6"
"""Raise it whenever the same corpus and options would give other rows."""
QUARANTINE = "quarantine.parquet"
PAGES_PER_SHARD = {"pages": 16, "lines": 1024}
INSPECT_GROUP = 64
Item = TypeVar("Item")
Job = TypeVar("Job", InspectJob, PackJob)
Result = TypeVar("Result", InspectResult, PackResult)


def pack(
    corpus_path: str | Path, out_path: str | Path, options: PackOptions | None = None, use_ray: bool = True
) -> Manifest:
    """Packs a corpus. The same corpus and options give the same bytes; run again, it does nothing.

    Args:
        corpus_path: the corpus, local or any URI of a pyarrow filesystem. On a cluster, one that all nodes see.
        out_path: where the packed corpus goes, likewise.
        options: see PackOptions; None: the defaults.
        use_ray: run on Ray Data; False: in this process, with the same result.

    Raises:
        ValueError: nothing usable in the corpus, more unusable files than allowed, or a foreign output folder.
    """
    options = options or PackOptions()
    corpus, out = open_folder(corpus_path), open_folder(out_path)
    listing = scan(corpus)
    if out.exists(MANIFEST):
        packed = load_manifest(out_path)
        same = _fingerprint(listing, _inspect(corpus_path, listing, options, use_ray, decode=False), options)
        if packed.fingerprint == same and all(out.exists(shard.path) for shard in packed.shards):
            return packed
    found, documents, second = with_documents(_inspect(corpus_path, listing, options, use_ray, decode=True))
    quarantined = [*listing.quarantined, *(problem for item in found.values() for problem in item.problems), *second]
    pages, duplicates = without_duplicates([ref for ref in listing.pages if found[ref.image].usable], found)
    kind = corpus_kind(pages, found, options.corpus_kind)
    if kind == "lines":
        pages, several = without_several_lines(pages, found)
        quarantined += several
    check_share(listing, quarantined, options.max_quarantine_share)
    if not pages:
        raise ValueError(f"dataset_path={corpus_path} has no usable image: {first_reasons(quarantined)}")
    _clear(out)
    jobs = _jobs(absolute(corpus_path), absolute(out_path), pages, found, kind, options)
    results = _run(write_shard, jobs, PackResult, use_ray, "packing")
    quarantined += duplicates + [problem for result in results for problem in result.problems]
    quarantined.sort(key=lambda entry: (entry.kind == "line", entry.path))
    texts = {text for result in results for text in result.texts}
    manifest = Manifest(
        fingerprint=_fingerprint(listing, found, options),
        version=VERSION,
        corpus_kind=kind,
        shards=tuple(result.shard for result in results if result.shard.num_rows),
        charset_by_split={split: _charset(results, split) for split in SPLITS},
        sole_text=texts.pop() if len(texts) == 1 else None,
    )
    _write_quarantine(out, quarantined)
    placed = {ref.image: (found[ref.image].page_id or "", job.split) for job in jobs for ref in job.pages}
    write_documents(corpus, documents, placed, out)
    card = _card(manifest, pages, jobs, results, found, listing, quarantined)
    out.write(CARD, card.model_dump_json(indent=1).encode())
    out.write(MANIFEST, manifest.model_dump_json(indent=1).encode())
    return load_manifest(out_path)


def _inspect(
    corpus_path: str | Path, listing: Listing, options: PackOptions, use_ray: bool, decode: bool
) -> dict[str, Inspected]:
    """Every page (by its image) and document (by its path), looked at or only hashed."""
    base = InspectJob(corpus=absolute(corpus_path), pages=(), documents=(), decode=decode, options=options)
    jobs = [base.model_copy(update={"pages": group}) for group in _groups(listing.pages, INSPECT_GROUP)]
    jobs += [base.model_copy(update={"documents": group}) for group in _groups(listing.documents, INSPECT_GROUP)]
    results = _run(inspect, jobs, InspectResult, use_ray, "checking" if decode else "comparing")
    return {item.path: item for result in results for item in result.found}


def _fingerprint(listing: Listing, found: dict[str, Inspected], options: PackOptions) -> str:
    aside = [entry.path for entry in listing.quarantined if entry.kind != "ignored"]
    content = [part for path in sorted(found) for part in (path, found[path].digest)]
    finder = finder_fingerprint(options.detector, options.detector_side)
    return content_id(VERSION, options.model_dump_json(), finder, *content, "set aside", *aside)


def _clear(out: Folder) -> None:
    """Removes what an earlier or unfinished packing left."""
    foreign = [name for name in out.files("lines") if not name.endswith((".parquet", ".tmp"))]
    if foreign:
        raise ValueError(
            f"output_dir={out.root}/lines holds files that packing did not write ({foreign[0]}); "
            "give an empty folder or remove them"
        )
    for name in (MANIFEST, CARD, QUARANTINE, DOCUMENTS, *(f"lines/{name}" for name in out.files("lines"))):
        out.delete(name)


def _jobs(
    corpus: str,
    output: str,
    pages: Sequence[PageRef],
    found: dict[str, Inspected],
    kind: Literal["pages", "lines"],
    options: PackOptions,
) -> list[PackJob]:
    """Fixed groups of pages in sorted order, one shard each, so that no scheduling changes what is where."""
    shares = (options.validation_share, options.test_share)
    items = [found[ref.image] for ref in pages]
    told = {item.page_id or "": (item.annotated, item.by_machine) for item in items}
    by_hand = any(own and not machine for own, machine in told.values())  # then nothing else is measured by
    if not any(own for own, _ in told.values()):  # documents are what there is to learn from
        told = {item.page_id or "": (item.documented, item.documented_by_machine) for item in items}
    checked = any(own and not machine for own, machine in told.values())
    splits = splits_of({page: own and not (checked and machine) for page, (own, machine) in told.items()}, *shares)
    by_split: dict[Split, list[PageRef]] = {split: [] for split in SPLITS}
    for ref in sorted(pages, key=lambda ref: ref.image):
        by_split[splits[found[ref.image].page_id or ""]].append(ref)
    return [
        PackJob(
            corpus=corpus,
            output=output,
            shard=f"lines/{split}/part-{number:05d}.parquet",
            split=split,
            pages=group,
            kind=kind,
            options=options,
            by_hand=by_hand and split != "train",
        )
        for split, refs in by_split.items()
        for number, group in enumerate(_groups(refs, PAGES_PER_SHARD[kind]))
    ]


def _groups(items: Sequence[Item], size: int) -> list[tuple[Item, ...]]:
    return [tuple(items[start : start + size]) for start in range(0, len(items), size)]


def _charset(results: Sequence[PackResult], split: Split) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for result in results:
        if result.shard.split == split:
            counts.update(result.charset)
    return dict(sorted(counts.items()))


def _write_quarantine(out: Folder, quarantined: Sequence[Quarantined]) -> None:
    schema = pa.schema([(name, pa.string()) for name in Quarantined.model_fields])
    table = pa.Table.from_pylist([entry.model_dump() for entry in quarantined], schema)
    out.filesystem.create_dir(out.root, recursive=True)
    pq.write_table(table, out.path(QUARANTINE), filesystem=out.filesystem)


def _card(
    manifest: Manifest,
    pages: Sequence[PageRef],
    jobs: Sequence[PackJob],
    results: Sequence[PackResult],
    found: dict[str, Inspected],
    listing: Listing,
    quarantined: Sequence[Quarantined],
) -> Card:
    splits = {
        split: SplitCount(
            pages=sum(len(job.pages) for job in jobs if job.split == split),
            annotated_pages=sum(result.annotated_pages for result in results if result.shard.split == split),
            lines=manifest.num_rows(split),
            annotated_lines=manifest.num_annotated(split),
        )
        for split in SPLITS
    }
    heights: Counter[int] = Counter()
    for result in results:
        heights.update(result.line_heights)
    documents = sum(found[path].usable for path in listing.documents)
    kinds = Counter[str](entry.kind for entry in quarantined)
    return Card(
        corpus_kind=manifest.corpus_kind,
        splits=splits,
        documents=documents,
        characters=sum(manifest.charset.values()),
        charset=manifest.charset,
        page_widths=Spread.of(found[ref.image].width for ref in pages),
        page_heights=Spread.of(found[ref.image].height for ref in pages),
        line_heights=Spread.of(heights.elements()),
        quarantined=dict(sorted(kinds.items())),
        reasons=tuple(f"{entry.path}: {entry.reason}" for entry in quarantined[:5]),
        warnings=tuple(warnings_of(splits, documents, kinds, manifest.corpus_kind, _only_machines(pages, found))),
    )


def _only_machines(pages: Sequence[PageRef], found: dict[str, Inspected]) -> list[str]:
    """What teachers wrote all of that there is."""
    items = [found[ref.image] for ref in pages]
    lines = {item.by_machine for item in items if item.annotated}
    documents = {item.documented_by_machine for item in items if item.documented}
    return [what for what, machines in (("lines", lines), ("documents", documents)) if machines == {True}]


def _run(
    function: Callable[[Job], Result], jobs: Sequence[Job], result: type[Result], use_ray: bool, title: str
) -> list[Result]:
    """Results in the order of the jobs, from Ray Data tasks of one CPU each, or one after the other in this process."""
    answers = _on_ray(function, jobs, result) if use_ray and jobs else enumerate(map(function, jobs))
    quiet = not sys.stderr.isatty()
    console = Console(stderr=True)
    shown = track(answers, total=len(jobs), description=title, console=console, disable=quiet, transient=True)
    return [answer for _, answer in sorted(shown, key=lambda pair: pair[0])]


def _on_ray(
    function: Callable[[Job], Result], jobs: Sequence[Job], result: type[Result]
) -> Iterator[tuple[int, Result]]:
    import ray.data

    from tdtrain.ray_start import connect

    connect()
    kind = type(jobs[0])

    def task(row: dict[str, str]) -> dict[str, str]:
        import cv2

        cv2.setNumThreads(1)
        return {"index": row["index"], "answer": function(kind.model_validate_json(row["job"])).model_dump_json()}

    rows = [{"index": str(index), "job": job.model_dump_json()} for index, job in enumerate(jobs)]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(task, num_cpus=1)
    for row in dataset.iter_rows():
        yield int(row["index"]), result.model_validate_json(row["answer"])
