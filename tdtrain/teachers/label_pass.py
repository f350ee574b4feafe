"""One pass of a teacher over the training lines, with Ray Data, each shard written the moment it is done.

A pass that is interrupted goes on with the shards that are missing; a finished one is found by its fingerprint. Two
passes may share a folder: a shard is written whole, and the same by both.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq
import torch
from safetensors.torch import save

from tdtrain.data.batches import open_table
from tdtrain.data.manifest import load_manifest
from tdtrain.data.rows import content_id
from tdtrain.data.storage import absolute, open_folder
from tdtrain.gauges import gauge
from tdtrain.models.load import load_reader
from tdtrain.models.reader import Reader
from tdtrain.models.trocr import TrOCRReader
from tdtrain.precision import Precision
from tdtrain.teachers.cache import (
    DEFAULT_K,
    HEAD,
    MANIFEST,
    SPEC,
    Begun,
    Keep,
    LabelManifest,
    Spec,
    load_begun,
    name_of,
)
from tdtrain.teachers.label_lines import label_lines

VERSION = "2"


@dataclass(frozen=True)
class LabelJob:
    """A pass: the teacher, the packed corpus, the folder to write to, and what the result is of."""

    teacher: str
    lines: str
    folder: str
    fingerprint: str
    spec: Spec


def plan_labels(
    teacher: str, lines: str, root: str, precision: Precision = "auto", keep: Keep | None = None
) -> LabelJob:
    """The pass of a teacher over a corpus; its folder is named by all that changes its outcome.

    Args:
        keep: what is kept of its distributions; None: the k likeliest tokens, see DEFAULT_K.

    Raises: ValueError where a CTC teacher's frames shall be kept as anything else.
    """
    reader = load_reader(teacher)
    keep = keep or Keep(k=DEFAULT_K[reader.kind])
    whole = keep.kept == "top_k" and keep.k >= len(reader.codec.tokens)
    if keep.kept == "hidden" or whole:  # the whole distribution, to be softened at will
        keep = keep.model_copy(update={"temperature": 1.0})
    if reader.kind == "ctc" and (keep.kept != "top_k" or keep.temperature != 1):
        raise ValueError(
            f"cache_as={keep.kept} is for teachers that write token by token, and {teacher} is a CTC reader, whose "
            "frames are kept as top_k at any temperature; leave it out"
        )
    lines, root = absolute(lines), absolute(root)
    weights = {name: value.contiguous().clone() for name, value in reader.module.state_dict().items()}
    spec = Spec(
        teacher_weights=content_id(save(weights)),
        teacher_inputs=content_id("\0".join(reader.codec.tokens), repr(reader.pixels), *_spelling(reader)),
        lines=load_manifest(lines).fingerprint,
        kind=reader.kind,
        keep=keep,
        precision=precision,
        version=VERSION,
    )
    fingerprint = content_id(spec.model_dump_json())
    return LabelJob(teacher, lines, f"{root}/{fingerprint}", fingerprint, spec)


def _spelling(reader: Reader) -> tuple[str, ...]:
    """What else a written answer depends on: the tokenizer's rules, its longest answer, and what it begins with."""
    if not isinstance(reader, TrOCRReader):
        return ()
    rules = reader.codec.tokenizer.backend_tokenizer.to_str()  # type: ignore[attr-defined]
    return rules, str(reader.max_target_tokens), str(reader.module.start_id)


def begin(job: LabelJob) -> Begun:
    """Writes what is known of a cache from its start: students may be planned from then on."""
    folder = open_folder(job.folder)
    if folder.exists(SPEC):  # it is written last
        return load_begun(job.folder)
    reader = load_reader(job.teacher)
    begun = Begun(fingerprint=job.fingerprint, teacher=job.teacher, spec=job.spec, tokens=reader.codec.tokens)
    if isinstance(reader, TrOCRReader) and job.spec.keep.kept == "hidden":
        head = reader.module.head
        kept = {"weight": head.weight} | ({} if head.bias is None else {"bias": head.bias})
        folder.write(HEAD, save({name: value.detach().contiguous() for name, value in kept.items()}))
    folder.write(SPEC, begun.model_dump_json().encode())
    return begun


def label(
    job: LabelJob,
    actors: int,
    progress: Callable[[int, int], None],
    gpus: float = 0,
    labels: Mapping[str, str] | None = None,
) -> LabelManifest:
    """Labels what is not labelled yet, and says what there is.

    Args:
        actors: teachers that read side by side, one CPU each; 0: here, without Ray.
        progress: told of lines done and lines in all.
        gpus: that each of them reserves.
        labels: of the nodes that they run on; none: on any.
    """
    folder = open_folder(job.folder)
    shards = load_manifest(job.lines).shards_of("train")
    missing = [shard.path for shard in shards if not folder.exists(name_of(shard.path))]
    if folder.exists(MANIFEST) and not missing:
        return LabelManifest.model_validate_json(folder.read(MANIFEST))
    begun = begin(job)
    total = sum(shard.num_rows for shard in shards)
    done = total - sum(shard.num_rows for shard in shards if shard.path in missing)
    gauge("label_hits", done, job.fingerprint[:12], "label")
    for num_rows in _run(job, missing, actors, gpus, labels):
        done += num_rows
        progress(done, total)
    manifest = LabelManifest(
        **vars(begun),
        num_lines=total,
        bytes_per_position=_bytes_per_position(job, [shard.path for shard in shards]),
    )
    folder.write(MANIFEST, manifest.model_dump_json().encode())
    return manifest


def _bytes_per_position(job: LabelJob, shards: list[str]) -> float:
    positions = size = 0
    kept = ["ids", "logprobs", "tail", "label_logprobs", "hidden"]
    for shard in shards:
        table = open_table(f"{job.folder}/{name_of(shard)}", ["num_positions", *kept])
        positions += sum(table["num_positions"].to_pylist())
        size += sum(len(value) for name in kept for value in table[name].to_pylist() if value is not None)
    return round(size / max(positions, 1), 2)


def _run(job: LabelJob, shards: list[str], actors: int, gpus: float, labels: Mapping[str, str] | None) -> Iterator[int]:
    if actors == 0 or not shards:
        labeller = Labeller(job, "cuda" if torch.cuda.is_available() else "cpu")
        yield from (labeller({"shard": shard})["num_rows"] for shard in shards)
        return
    import ray.data

    where: dict[str, Any] = {"label_selector": dict(labels)} if labels else {}
    rows = ray.data.from_items([{"shard": shard} for shard in shards], override_num_blocks=len(shards))
    done = rows.map(
        Labeller,  # type: ignore[arg-type]  # Ray's stubs know functions only
        fn_constructor_args=(job, "cuda" if gpus else "cpu", 1),
        num_cpus=1,
        num_gpus=gpus,
        compute=ray.data.ActorPoolStrategy(size=min(actors, len(shards))),
        **where,
    )
    yield from (row["num_rows"] for row in done.iter_rows())


class Labeller:
    """One teacher, reading shard after shard."""

    def __init__(self, job: LabelJob, device: str, threads: int | None = None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self._job = job
        self._reader = load_reader(job.teacher)
        self._reader.module.to(device)

    def __call__(self, row: dict[str, str]) -> dict[str, int]:
        """Labels one shard and writes it whole; leaves it where another pass was quicker."""
        job, folder = self._job, open_folder(self._job.folder)
        lines = open_table(f"{load_manifest(job.lines).root}/{row['shard']}", ["id", "image", "text"])
        if not folder.exists(name_of(row["shard"])):
            ids, images, texts = (lines[name].to_pylist() for name in ("id", "image", "text"))
            table = label_lines(self._reader, ids, images, texts, job.spec.keep, job.spec.precision)
            buffer = io.BytesIO()
            pq.write_table(table, buffer, compression="zstd")
            folder.write(name_of(row["shard"]), buffer.getvalue())
        return {"num_rows": len(lines)}
