"""From a window of packed lines to micro batches of arrays: the one piece of code behind every way of training.

It runs in Ray Data tasks or in the training process itself, with the same result.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileType

from tdtrain.data.augment import augment
from tdtrain.data.plan import Window, cut
from tdtrain.data.soft import Memory, beside, soft_arrays
from tdtrain.data.spelling import word_error_rate
from tdtrain.data.storage import locate
from tdtrain.models.reader import IGNORED, Codec, Kind, Pixels

READ = ["id", "text", "confidence", "agreement"]
"""Columns of a teacher's labels that decide what is learnt from."""
SELECTED = ["id", "width", "height", "text"]
LEARNT = Literal["soft", "sequence", "both"]
UNREAD = "nobody says what it reads"
WAIT_S = 0.5
VIEW_SEED = 0
"""Of the augmented views that a stored teacher saw: one for all runs, so that they can share a cache."""


@dataclass(frozen=True)
class Recipe:
    """How lines become tensors for one student. Picklable, and holds no weights.

    Attributes:
        memory: how a stored teacher's rows are read; None: there is none.
        targets: see `Teaching.targets`; whether a teacher's reading is a text to learn.
        parts: micro batches a step is cut into (workers x accumulation).
        streamed: the teacher may still be labelling: a window waits for its shards, and its steps are those of all
            lines that may turn out to be of use.
        teacher_codec: of a teacher that writes other tokens; None: the student's are among them.
        augment_seed: None: pictures stay as they are.
        views: so many augmented pictures of each line, in turn; 0: another one each epoch.
    """

    kind: Kind
    pixels: Pixels
    codec: Codec
    targets: LEARNT
    min_confidence: float
    min_agreement: float
    parts: int
    seed: int
    memory: Memory | None = None
    streamed: bool = False
    teacher_codec: Codec | None = None
    max_teacher_wer: float | None = None
    augment_seed: int | None = None
    views: int = 0
    ctc_codec: Codec | None = None
    ctc_columns: int = 0

    def load(self, window: Window, first_step: int, last_step: int) -> Iterator[dict[str, np.ndarray]]:
        """See `load_window`."""
        return load_window(window, self, first_step, last_step)


def open_table(path: str, columns: list[str] | None = None) -> pa.Table:
    """A Parquet file from a local path or any URI that pyarrow knows (s3://, gs://)."""
    filesystem, inner = locate(path)
    return pq.read_table(inner, columns=columns, filesystem=filesystem)


@dataclass(frozen=True)
class Chosen:
    """What a line is learnt with: its text, and whether that is a target or only serves the teacher."""

    text: str
    told: bool


def select(lines: pa.Table, labels: pa.Table | None, recipe: Recipe) -> tuple[list[Chosen | None], dict[str, int]]:
    """What each line is to be learnt with, None where it is left out, and the reasons for leaving out."""
    chosen: list[Chosen | None] = []
    reasons: dict[str, int] = {}
    columns = (lines[name].to_pylist() for name in SELECTED)
    readings = _readings(labels) if labels is not None else {}
    for row_id, width, height, text in zip(*columns, strict=True):
        told, confidence, agreement = text is not None or recipe.targets != "soft", 1.0, None
        misread = False
        if text is None:
            text, confidence, agreement = readings.get(row_id, (None, 0.0, None))
        elif recipe.max_teacher_wer is not None and row_id in readings:
            misread = word_error_rate(text, readings[row_id][0]) > recipe.max_teacher_wer
        frames = int(recipe.pixels.frames(np.asarray(recipe.pixels.resized_width(width, height))))
        reason = None
        if text is None:
            reason = UNREAD
        elif not text or confidence < recipe.min_confidence:
            reason = "the teacher is not sure of it"
        elif agreement is not None and agreement < recipe.min_agreement:
            reason = "the teacher reads a worse picture of it differently"
        elif misread:
            reason = "the teacher reads it differently from its annotation"
        elif recipe.codec.unknown(text):
            reason = "a character the student does not know"
        elif not recipe.codec.fits(text, frames):
            reason = "more text than the student can give a line"
        if reason:
            reasons[reason] = reasons.get(reason, 0) + 1
        chosen.append(None if reason or text is None else Chosen(text, told))
    return chosen, reasons


def load_window(window: Window, recipe: Recipe, first_step: int, last_step: int) -> Iterator[dict[str, np.ndarray]]:
    """The micro batches of a window, in order, from `first_step` up to `last_step`, `recipe.parts` a step.

    Yields: what `Pixels.collate` gives; `frames` int64 B; `labels` int64 B,L; `told` bool B; `ids` str B;
    `step` int64; and what a stored teacher says, see `soft_arrays`.
    """
    lines, labels, chosen = _read(window, recipe)
    kept = [i for i, choice in enumerate(chosen) if choice is not None]
    assert recipe.streamed or len(kept) == window.num_lines, f"{len(kept)} usable lines, planned {window.num_lines}"
    if not kept:
        raise ValueError(
            f"none of the {window.num_lines} lines of a window is of use, for the teacher is not sure of them; lower "
            "min_confidence or adapt the teacher"
        )
    while len(kept) < window.num_steps * recipe.parts:  # no micro batch may be empty
        kept += kept[: window.num_steps * recipe.parts - len(kept)]
    rng = np.random.default_rng([recipe.seed, window.epoch, window.first_step])
    kept = [kept[i] for i in rng.permutation(len(kept))]
    sizes = [lines[name].to_pylist() for name in ("width", "height")]
    widths = [recipe.pixels.resized_width(sizes[0][i], sizes[1][i]) for i in kept]
    for offset, step in enumerate(cut(widths, window.num_steps, recipe.parts, rng)):
        number = window.first_step + offset
        if first_step <= number < last_step:
            parts = [[kept[i] for i in part] for part in step]
            batches = [_micro_batch(lines.take(p), [chosen[i] for i in p], labels, recipe, window.epoch) for p in parts]
            # As wide as the widest of the step: a network that pools over the width sees its padding, and how a step
            # is cut must not matter.
            width = max(batch["pixels"].shape[2] for batch in batches)
            for batch in batches:
                missing = width - batch["pixels"].shape[2]
                batch["pixels"] = np.pad(batch["pixels"], ((0, 0), (0, 0), (0, missing), (0, 0)))
                yield batch | {"step": np.asarray(number)}


def _read(window: Window, recipe: Recipe) -> tuple[pa.Table, dict[str, dict], list[Chosen | None]]:
    tables: list[pa.Table] = []
    told: dict[str, dict] = {}
    chosen: list[Chosen | None] = []
    for shard in window.shards:
        lines = open_table(shard.lines, [*SELECTED, "image"])
        if recipe.streamed and shard.labels:
            _wait_for(shard.labels)
        labels = None
        if shard.labels:
            labels = open_labels(shard.labels)
            _check_whole(lines, labels, shard.labels)
        chosen += select(lines, labels, recipe)[0]
        tables.append(lines)
        if labels is not None and recipe.memory is not None:
            view = window.epoch % max(1, recipe.memory.views)
            told.update({row["id"]: row for row in labels.to_pylist() if row["view"] == view})
    return pa.concat_tables(tables), told, chosen


def open_labels(path: str, columns: list[str] | None = None) -> pa.Table:
    """A teacher's labels of a shard.

    Raises: ValueError where the file is damaged.
    """
    try:
        return open_table(path, columns)
    except (pa.ArrowInvalid, OSError, EOFError) as error:
        raise ValueError(
            f"the teacher's labels {path} cannot be read ({error}); delete the file and label again: only that shard "
            "will be"
        ) from error


def _check_whole(lines: pa.Table, labels: pa.Table, path: str) -> None:
    """Raises ValueError where lines have no labels: they would be left out, or not taught, without a word."""
    if missing := set(lines["id"].to_pylist()) - set(labels["id"].to_pylist()):
        raise ValueError(
            f"the teacher's labels {path} lack {len(missing)} of {len(lines)} lines of their shard; delete the file "
            "and label again: only that shard will be"
        )


def _wait_for(path: str) -> None:
    """Until the file is there. Who writes it ends the whole job where it fails."""
    filesystem, inner = locate(path)
    while filesystem.get_file_info(inner).type != FileType.File:
        time.sleep(WAIT_S)


def _readings(labels: pa.Table) -> dict[str, tuple[str, float, float | None]]:
    columns = (labels[name].to_pylist() for name in READ)
    return {row_id: (text, confidence, agreed) for row_id, text, confidence, agreed in zip(*columns, strict=True)}


def _micro_batch(
    lines: pa.Table, chosen: Sequence[Chosen | None], labels: dict[str, dict], recipe: Recipe, epoch: int
) -> dict[str, np.ndarray]:
    known = [choice for choice in chosen if choice is not None]
    texts = [choice.text for choice in known]
    ids = lines["id"].to_pylist()
    images = [decode(raw) for raw in lines["image"].to_pylist()]
    if recipe.augment_seed is not None:
        of = (epoch % recipe.views, VIEW_SEED) if recipe.views else (epoch, recipe.augment_seed)
        images = [augment(image, row, *of) for image, row in zip(images, ids, strict=True)]
    batch = recipe.pixels.collate([recipe.pixels.resize(image) for image in images])
    batch["frames"] = recipe.pixels.frames(batch["widths"])
    batch["labels"] = recipe.codec.encode(texts)
    batch["told"] = np.asarray([choice.told for choice in known])
    batch["ids"] = np.asarray(ids)
    if recipe.ctc_codec is not None:
        batch["ctc_labels"] = _ctc_labels(recipe.ctc_codec, recipe.ctc_columns, texts)
    if recipe.teacher_codec is not None:
        batch |= beside(recipe.codec, recipe.teacher_codec, texts)
    if recipe.memory is not None:
        positions = batch["frames"]
        if recipe.kind == "autoregressive":
            positions = (batch.get("teacher_labels", batch["labels"]) != IGNORED).sum(1)
        batch |= soft_arrays([labels.get(row) for row in ids], positions, recipe.memory)
    return batch


def _ctc_labels(codec: Codec, columns: int, texts: Sequence[str]) -> np.ndarray:
    """Labels of the CTC head; a text that it cannot spell is all padding there, and is learnt by the decoder alone."""
    spelt = [text if codec.fits(text, columns) and not codec.unknown(text) else "" for text in texts]
    labels = codec.encode(spelt)
    return labels if labels.shape[1] else np.full((len(texts), 1), IGNORED, np.int64)


def decode(raw: bytes) -> np.ndarray:
    """Encoded image bytes -> uint8 RGB HxWx3."""
    image = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise ValueError("a packed image does not decode; pack the corpus again with rayjobs/prepare.py")
    return image


def to_bytes(batches: Sequence[dict[str, np.ndarray]]) -> bytes:
    """Micro batches as one value, so that they travel through Ray Data as one row."""
    buffer = io.BytesIO()
    np.savez(buffer, **{f"{i}/{key}": value for i, batch in enumerate(batches) for key, value in batch.items()})  # type: ignore[arg-type]
    return buffer.getvalue()


def from_bytes(raw: bytes) -> list[dict[str, np.ndarray]]:
    """The inverse of `to_bytes`."""
    batches: dict[str, dict[str, np.ndarray]] = {}
    with np.load(io.BytesIO(raw), allow_pickle=False) as arrays:
        for name in arrays.files:
            number, key = name.split("/")
            batches.setdefault(number, {})[key] = arrays[name]
    return list(batches.values())
