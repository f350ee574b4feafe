"""A teacher's labels of some lines: its readings, and what it holds possible at each position.

A line is read as it is. With views, each is an augmented picture of it: the distributions are of that picture, the text
stays the one that was read from the line as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import torch

from tdtrain.data.augment import augment
from tdtrain.data.batches import VIEW_SEED, decode
from tdtrain.evaluate.metrics import cer
from tdtrain.machine import give_back_memory
from tdtrain.models.ctc_decode import path_readings
from tdtrain.models.reader import Reader, Reading
from tdtrain.models.trocr import TrOCRReader
from tdtrain.precision import Precision, autocast
from tdtrain.teachers.cache import LABEL_SCHEMA, Keep
from tdtrain.teachers.positions import NOTHING, frame_rows, token_rows

BATCH_LINES = 16
Batch = dict[str, torch.Tensor]


@torch.inference_mode()
def label_lines(
    reader: Reader,
    ids: Sequence[str],
    images: Sequence[bytes],
    texts: Sequence[str | None],
    keep: Keep,
    precision: Precision = "auto",
) -> pa.Table:
    """Labels of some lines, view by view and in their order, in LABEL_SCHEMA.

    Args:
        images: encoded pictures.
        texts: annotations, None where there is none.
    """
    reader.module.eval()
    pictures = [decode(image) for image in images]
    readings: list[Reading] = [Reading("", 0.0)] * len(ids)
    rows = [NOTHING] * len(ids)
    for chosen, batch in _batches(reader, pictures, precision):
        read, frames = _frames(reader, batch, keep) if reader.kind == "ctc" else (reader.read(batch), [])
        for place, i in enumerate(chosen):
            readings[i], rows[i] = read[place], frames[place] if frames else NOTHING
    agreement: list[float | None] = [None] * len(ids)
    if keep.agreement:
        worse = [augment(im, row, 0, VIEW_SEED) for im, row in zip(pictures, ids, strict=True)]
        for chosen, batch in _batches(reader, worse, precision):
            for i, again in zip(chosen, reader.read(batch), strict=True):
                agreement[i] = 1 - min(1.0, cer([readings[i].text], [again.text])) if readings[i].text.strip() else 0.0
    told = [reading.text if text is None else text for text, reading in zip(texts, readings, strict=True)]
    table: list[dict] = []
    for view in range(max(1, keep.views)):
        seen = pictures
        if keep.views:
            seen = [augment(im, row, view, VIEW_SEED) for im, row in zip(pictures, ids, strict=True)]
        if isinstance(reader, TrOCRReader):
            for chosen, batch in _batches(reader, seen, precision):
                forced = _tokens(reader, batch, [told[i] for i in chosen], keep, [f"{ids[i]} {view}" for i in chosen])
                for place, i in enumerate(chosen):
                    rows[i] = forced[place]
        elif keep.views:
            for chosen, batch in _batches(reader, seen, precision):
                for i, row in zip(chosen, _frames(reader, batch, keep)[1], strict=True):
                    rows[i] = row
        for row_id, reading, agreed, row in zip(ids, readings, agreement, rows, strict=True):
            said = {"text": reading.text, "confidence": reading.confidence, "agreement": agreed}
            table.append({**row, "id": row_id, "view": view, **said})
    give_back_memory()
    return pa.Table.from_pylist(table, schema=LABEL_SCHEMA)


def _batches(reader: Reader, pictures: list[np.ndarray], precision: Precision) -> Iterator[tuple[list[int], Batch]]:
    """Pictures of similar width together: which they are, and their batch on the reader's device."""
    resized = [reader.pixels.resize(picture) for picture in pictures]
    order = sorted(range(len(resized)), key=lambda i: resized[i].shape[1])
    device = next(reader.module.parameters()).device
    for start in range(0, len(order), BATCH_LINES):
        chosen = order[start : start + BATCH_LINES]
        arrays = reader.pixels.collate([resized[i] for i in chosen])
        with autocast(precision, device.type):
            yield chosen, {key: torch.from_numpy(value).to(device) for key, value in arrays.items()}


def _frames(reader: Reader, batch: Batch, keep: Keep) -> tuple[list[Reading], list[dict]]:
    """The readings of a CTC teacher, and its frames."""
    pixels = reader.pixels.normalize(batch["pixels"], batch["widths"], torch.float32)
    output = reader.module(pixels, widths=batch["widths"])
    # Line by line: a batch of them over 18,710 characters falls out of every cache.
    likeliest = [_likeliest(logits.float(), keep.k) for logits in output.logits]
    ids, values = (torch.stack(parts) for parts in zip(*likeliest, strict=True))
    readings = path_readings(ids[..., 0], values[..., 0], output.frames, reader.codec.tokens)
    return readings, frame_rows(ids, values, output.frames, len(reader.codec.tokens))


def _likeliest(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Of one line's frames: the likeliest ids, best first, and their log-probabilities, each T,k."""
    values, ids = logits.topk(min(k, logits.shape[-1]), dim=-1)
    return ids, values - logits.logsumexp(-1, keepdim=True)


def _tokens(reader: TrOCRReader, batch: Batch, texts: list[str], keep: Keep, seeds: list[str]) -> list[dict]:
    """What an autoregressive teacher holds possible at each token of the texts; nothing of those it cannot spell."""
    spelt = [not reader.codec.unknown(text) and reader.codec.fits(text, 0) for text in texts]
    labels = torch.from_numpy(reader.codec.encode([t if ok else "" for t, ok in zip(texts, spelt, strict=True)]))
    labels = labels.to(batch["pixels"].device)
    dtype = next(reader.module.parameters()).dtype
    pixels = reader.pixels.normalize(batch["pixels"], batch["widths"], dtype)
    rows = token_rows(reader.module.hidden_states(pixels, labels), labels, keep, seeds)
    return [row if ok else NOTHING for row, ok in zip(rows, spelt, strict=True)]
