"""Writes the sample corpus: pages by the hundred, on Ray Data or in process, in the formats of a user's own corpus."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tdtrain.data.rows import Split, content_id, split_of
from tdtrain.data.sample.page import Truth, make_page

VERSION = 2
"""Raise this when the same arguments give other pages."""
VALIDATION_SHARE = 0.2
PAGES_PER_TASK = 8


class Request(BaseModel):
    """The arguments that decide every byte of a corpus."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = VERSION
    seed: int
    num_pages: int
    annotated_pages: int | None
    """How many pages outside the test split have annotations; None is all."""
    fonts_folder: str | None = None


class Card(BaseModel):
    """`sample.json`: what was asked for and what there is. Names are those of the image files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    request: Request
    ids: dict[str, str]
    """Page id (`content_id` of the image file's bytes) by name."""
    splits: dict[str, Split]
    annotated: tuple[str, ...]


def write_sample(
    folder: Path,
    num_pages: int,
    annotated_pages: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    fonts_folder: Path | None = None,
) -> Card:
    """Writes `images/`, `annotations/` (.txt and .json) and `boxes/` under a folder, and `sample.json` when done.

    Page i depends only on (seed, i). An interrupted run goes on where it stopped; a finished one is left alone.

    Args:
        annotated_pages: annotated pages outside the test split, a fifth of them (at least one of two or more) from
            validation; None for all. Every test page is annotated, for its truth is only measured against.
        workers: the most Ray Data tasks at a time; None leaves it to Ray, 0 runs in this process without Ray.
        fonts_folder: a folder of the user's own fonts, used besides the packaged ones; must be seen by every worker.

    Raises:
        ValueError: numbers out of range, or the folder holds something else than this corpus.
    """
    if num_pages < 1:
        raise ValueError(f"num_pages={num_pages} must be at least 1")
    if annotated_pages is not None and not 0 <= annotated_pages <= num_pages:
        raise ValueError(f"annotated_pages={annotated_pages} must be from 0 to num_pages={num_pages}, or None for all")
    if workers is not None and workers < 0:
        raise ValueError(f"workers={workers} must be 0 (in process), a number of tasks, or None for Ray's choice")
    fonts = None if fonts_folder is None else str(fonts_folder)
    request = Request(seed=seed, num_pages=num_pages, annotated_pages=annotated_pages, fonts_folder=fonts)
    finished, staging = folder / "sample.json", folder / ".sample"
    if finished.is_file():
        card = Card.model_validate_json(finished.read_bytes())
        _same(folder, request, card.request)
        return card
    if (staging / "request.json").is_file():
        _same(folder, request, Request.model_validate_json((staging / "request.json").read_bytes()))
    elif folder.exists() and any(path.name != ".sample" for path in folder.iterdir()):
        raise ValueError(f"folder={folder} holds files that are no sample corpus; name an empty or a new folder")
    _write(staging / "request.json", request.model_dump_json().encode())

    missing = [i for i in range(num_pages) if not _staged(staging, i).is_file()]
    pages = _in_process(missing, request) if workers == 0 else _on_ray(missing, request, workers)
    for index, image, truth_json in pages:
        truth = Truth.model_validate_json(truth_json)
        _write(folder / "images" / truth.name, image)
        _write(_staged(staging, index), truth_json.encode())
    card = _annotate(folder, staging, request)
    _write(finished, card.model_dump_json(indent=1).encode())
    shutil.rmtree(staging)
    return card


def choose_annotated(splits: Sequence[Split], annotated_pages: int | None) -> set[int]:
    """Which pages get annotations, by index: all of test, and the first `annotated_pages` of the others.

    A fifth of those come from validation, at least one where there are two or more; where one split has too few
    pages, the other makes up for it.
    """
    by_split = {split: [i for i, own in enumerate(splits) if own == split] for split in ("train", "validation", "test")}
    train, validation = by_split["train"], by_split["validation"]
    wanted = len(train) + len(validation) if annotated_pages is None else annotated_pages
    wanted = min(wanted, len(train) + len(validation))
    num_validation = max(round(VALIDATION_SHARE * wanted), 1 if wanted >= 2 else 0)
    num_validation = min(max(num_validation, wanted - len(train)), len(validation))
    return {*by_split["test"], *validation[:num_validation], *train[: wanted - num_validation]}


def _annotate(folder: Path, staging: Path, request: Request) -> Card:
    """Writes the truth of the chosen pages, once all pages are there."""
    truths = [Truth.model_validate_json(_staged(staging, i).read_bytes()) for i in range(request.num_pages)]
    ids = {truth.name: content_id((folder / "images" / truth.name).read_bytes()) for truth in truths}
    splits = {name: split_of(page_id) for name, page_id in ids.items()}
    annotated = sorted(choose_annotated([splits[truth.name] for truth in truths], request.annotated_pages))
    for truth in (truths[i] for i in annotated):
        stem = Path(truth.name).stem
        text = "".join(f"{line.text}\n" for line in truth.boxes.lines)
        _write(folder / "annotations" / f"{stem}.txt", text.encode())
        _write(folder / "annotations" / f"{stem}.json", truth.document.model_dump_json(indent=1).encode())
        _write(folder / "boxes" / f"{stem}.json", truth.boxes.model_dump_json().encode())
    return Card(request=request, ids=ids, splits=splits, annotated=tuple(truths[i].name for i in annotated))


def _in_process(indices: Sequence[int], request: Request) -> Iterator[tuple[int, bytes, str]]:
    for index in indices:
        yield _make(index, request)


def _on_ray(indices: Sequence[int], request: Request, workers: int | None) -> Iterator[tuple[int, bytes, str]]:
    """Pages in the order in which they are finished. The driver writes them: workers may be on other hosts."""
    if not indices:
        return
    import ray.data

    def make(row: dict[str, int]) -> dict[str, int | bytes | str]:
        import cv2

        cv2.setNumThreads(1)  # one task a core; OpenCV would start a thread a core in each
        index, image, truth = _make(row["index"], request)
        return {"index": index, "image": image, "truth": truth}

    num_tasks = max(1, math.ceil(len(indices) / PAGES_PER_TASK))
    dataset = ray.data.from_items([{"index": i} for i in indices], override_num_blocks=num_tasks)
    compute = None if workers is None else ray.data.TaskPoolStrategy(size=workers)
    for row in dataset.map(make, compute=compute).iter_rows():
        yield row["index"], row["image"], row["truth"]


def _make(index: int, request: Request) -> tuple[int, bytes, str]:
    fonts = None if request.fonts_folder is None else Path(request.fonts_folder)
    image, truth = make_page(request.seed, index, fonts)
    return index, image, truth.model_dump_json()


def _same(folder: Path, asked: Request, found: Request) -> None:
    ours, theirs = asked.model_dump(), found.model_dump()
    differences = [f"{key} is {theirs[key]}, not {ours[key]}" for key in ours if ours[key] != theirs[key]]
    if differences:
        raise ValueError(
            f"folder={folder} holds another sample corpus: {'; '.join(differences)}. Use those values or another folder"
        )


def _staged(staging: Path, index: int) -> Path:
    return staging / f"{index:05}.json"


def _write(path: Path, content: bytes) -> None:
    """All of the file or none of it, whatever interrupts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(content)
    os.replace(part, path)
