"""A teacher's labels of a packed corpus, as they lie on disk: one Parquet file beside each shard of training lines.

    labels/FINGERPRINT/labels.json       the manifest below
    labels/FINGERPRINT/part-00000.parquet

A line's row: its id, the teacher's reading with its confidence, and from a CTC teacher the K likeliest characters of
each frame (ids uint16, log-probabilities float16: 4 K bytes a frame).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from tdtrain.config import Frozen
from tdtrain.data.batches import open_table
from tdtrain.data.manifest import Manifest
from tdtrain.data.storage import open_folder
from tdtrain.models.reader import Codec

CANDIDATES = 8
"""Characters kept a frame. The likeliest eight of a CTC frame hold nearly all of its probability."""

LABEL_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("confidence", pa.float32(), nullable=False),
        pa.field("k", pa.int32(), nullable=False),
        pa.field("num_frames", pa.int32(), nullable=False),
        pa.field("frame_ids", pa.binary()),
        pa.field("frame_logprobs", pa.binary()),
    ]
)


class LabelManifest(Frozen):
    """What labels are of, and by whom."""

    fingerprint: str
    teacher: str
    """The teacher's folder or name, for people."""
    lines: str
    """Fingerprint of the packed corpus."""
    tokens: tuple[str, ...]
    """The teacher's vocabulary: what `frame_ids` index."""
    num_lines: int


def load_labels(folder: str) -> LabelManifest:
    """The manifest of finished labels."""
    return LabelManifest.model_validate_json(open_folder(folder).read("labels.json"))


def confident(manifest: Manifest, folder: str, least: float) -> Iterator[str]:
    """The teacher's readings of the training lines that it is at least so sure of, in [0, 1]."""
    for shard in manifest.shards_of("train"):
        table = open_table(f"{folder}/{shard.path.rsplit('/', 1)[-1]}", ["text", "confidence"])
        yield from (row["text"] for row in table.to_pylist() if row["confidence"] >= least)


def token_map(folder: str, student: Codec) -> np.ndarray:
    """Of each token of the stored teacher, the student's id of the same token, or -1: int64 V_teacher."""
    own = {token: index for index, token in enumerate(student.tokens)}
    return np.asarray([own.get(token, -1) for token in load_labels(folder).tokens], np.int64)
