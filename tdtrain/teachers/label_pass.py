"""One pass of a teacher over the training lines, with Ray Data, each shard written the moment it is done.

A pass that is interrupted goes on with the shards that are missing; a finished one is found by its fingerprint.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save

from tdtrain.data.batches import decode, open_table
from tdtrain.data.manifest import load_manifest
from tdtrain.data.rows import content_id
from tdtrain.data.storage import absolute, open_folder
from tdtrain.models.ctc_decode import path_readings
from tdtrain.models.load import load_reader
from tdtrain.models.reader import Reader
from tdtrain.precision import Precision, autocast
from tdtrain.teachers.labels import CANDIDATES, LABEL_SCHEMA, LabelManifest

VERSION = "1"
BATCH_LINES = 16


@dataclass(frozen=True)
class LabelJob:
    """A pass: the teacher, the packed corpus, the folder to write to, and what the result is known by."""

    teacher: str
    lines: str
    folder: str
    fingerprint: str
    precision: Precision


def plan_labels(teacher: str, lines: str, root: str, precision: Precision = "auto") -> LabelJob:
    """The pass of a teacher over a corpus; its folder is named by all that changes its outcome."""
    reader = load_reader(teacher)
    lines, root = absolute(lines), absolute(root)
    weights = save({name: value.contiguous().clone() for name, value in reader.module.state_dict().items()})
    parts = (weights, "\0".join(reader.codec.tokens), repr(reader.pixels), str(CANDIDATES), precision, VERSION)
    fingerprint = content_id(*parts, load_manifest(lines).fingerprint)
    return LabelJob(teacher, lines, f"{root}/{fingerprint}", fingerprint, precision)


def label(job: LabelJob, actors: int, progress: Callable[[int, int], None], gpus: float = 0) -> LabelManifest:
    """Labels what is not labelled yet, and says what there is.

    Args:
        actors: teachers that read side by side, one CPU each; 0: here, without Ray.
        progress: told of lines done and lines in all.
        gpus: that each of them reserves.
    """
    folder = open_folder(job.folder)
    if folder.exists("labels.json"):
        return LabelManifest.model_validate_json(folder.read("labels.json"))
    shards = load_manifest(job.lines).shards_of("train")
    total = sum(shard.num_rows for shard in shards)
    missing = [shard.path for shard in shards if not folder.exists(_name(shard.path))]
    done = total - sum(shard.num_rows for shard in shards if shard.path in missing)
    for num_rows in _run(job, missing, actors, gpus):
        done += num_rows
        progress(done, total)
    reader = load_reader(job.teacher)
    manifest = LabelManifest(
        fingerprint=job.fingerprint,
        teacher=job.teacher,
        lines=load_manifest(job.lines).fingerprint,
        tokens=reader.codec.tokens,
        num_lines=total,
    )
    folder.write("labels.json", manifest.model_dump_json().encode())
    return manifest


def _name(shard: str) -> str:
    return shard.rsplit("/", 1)[-1]


def _run(job: LabelJob, shards: list[str], actors: int, gpus: float) -> Iterator[int]:
    if actors == 0 or not shards:
        labeller = Labeller(job, "cuda" if torch.cuda.is_available() else "cpu")
        yield from (labeller({"shard": shard})["num_rows"] for shard in shards)
        return
    import ray.data

    rows = ray.data.from_items([{"shard": shard} for shard in shards], override_num_blocks=len(shards))
    done = rows.map(
        Labeller,  # type: ignore[arg-type]  # Ray's stubs know functions only
        fn_constructor_args=(job, "cuda" if gpus else "cpu"),
        num_cpus=1,
        num_gpus=gpus,
        compute=ray.data.ActorPoolStrategy(size=min(actors, len(shards))),
    )
    yield from (row["num_rows"] for row in done.iter_rows())


class Labeller:
    """One teacher, reading shard after shard."""

    def __init__(self, job: LabelJob, device: str) -> None:
        torch.set_num_threads(1)
        self._job = job
        self._reader = load_reader(job.teacher)
        self._reader.module.to(device)

    def __call__(self, row: dict[str, str]) -> dict[str, int]:
        """Labels one shard and writes it whole."""
        lines = open_table(f"{load_manifest(self._job.lines).root}/{row['shard']}", ["id", "image"])
        table = label_lines(self._reader, lines["id"].to_pylist(), lines["image"].to_pylist(), self._job.precision)
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        open_folder(self._job.folder).write(_name(row["shard"]), buffer.getvalue())
        return {"num_rows": len(lines)}


@torch.inference_mode()
def label_lines(reader: Reader, ids: list[str], images: list[bytes], precision: Precision = "auto") -> pa.Table:
    """Labels of some lines, in their order, in LABEL_SCHEMA."""
    resized = [reader.pixels.resize(decode(image)) for image in images]
    order = sorted(range(len(ids)), key=lambda i: resized[i].shape[1])
    rows: list[dict | None] = [None] * len(ids)
    device = next(reader.module.parameters()).device
    reader.module.eval()
    for start in range(0, len(order), BATCH_LINES):
        chosen = order[start : start + BATCH_LINES]
        arrays = reader.pixels.collate([resized[i] for i in chosen])
        batch = {key: torch.from_numpy(value).to(device) for key, value in arrays.items()}
        with autocast(precision, device.type):
            labelled = _label_batch(reader, batch)
        for i, row in zip(chosen, labelled, strict=True):
            rows[i] = {"id": ids[i], **row}
    return pa.Table.from_pylist(rows, schema=LABEL_SCHEMA)


def _label_batch(reader: Reader, batch: dict[str, torch.Tensor]) -> list[dict]:
    if reader.kind == "autoregressive":
        nothing = {"k": 0, "num_frames": 0, "frame_ids": None, "frame_logprobs": None}
        return [{"text": r.text, "confidence": r.confidence, **nothing} for r in reader.read(batch)]
    pixels = reader.pixels.normalize(batch["pixels"], batch["widths"], torch.float32)
    output = reader.module(pixels, widths=batch["widths"])
    ids, values = (torch.stack(parts) for parts in zip(*map(_likeliest, output.logits), strict=True))
    readings = path_readings(ids[..., 0], values[..., 0], output.frames, reader.codec.tokens)
    rows = []
    for i, reading in enumerate(readings):
        frames = int(output.frames[i])
        rows.append(
            {
                "text": reading.text,
                "confidence": reading.confidence,
                "k": CANDIDATES,
                "num_frames": frames,
                "frame_ids": ids[i, :frames].cpu().numpy().astype(np.uint16).tobytes(),
                "frame_logprobs": values[i, :frames].cpu().numpy().astype(np.float16).tobytes(),
            }
        )
    return rows


def _likeliest(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of one line's frames: the likeliest ids, best first, and their log-probabilities, each T,CANDIDATES."""
    logits = logits.float()
    values, ids = logits.topk(CANDIDATES, dim=-1)
    return ids, values - logits.logsumexp(-1, keepdim=True)
