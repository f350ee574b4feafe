"""What a teacher made of a packed corpus, as it lies on disk: one Parquet file beside each shard of training lines.

    labels/FINGERPRINT/spec.json           what the cache is of: there from the start
    labels/FINGERPRINT/part-00000.parquet  written whole, the moment its shard is done
    labels/FINGERPRINT/head.safetensors    the teacher's head, where hidden states are kept
    labels/FINGERPRINT/labels.json         the manifest: there when everything is

A row is a line in one view: its id, the teacher's reading with its confidence, and what the teacher holds possible at
each of its positions. Those are frames of a CTC teacher; of an autoregressive one they are the tokens of the line's
text (the annotation where there is one, else the reading), teacher-forced, the end token included.

Bytes a position: ids 2 (4 where the vocabulary has more than 65,536 tokens) and log-probability 2, times k; of tokens
also 2 for the tail's mass and 4 for the label's log-probability. Hidden states: 2 times their width, and 4.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import pyarrow as pa
from safetensors import deserialize

from tdtrain.data.batches import open_table
from tdtrain.data.manifest import Manifest
from tdtrain.data.soft import Memory
from tdtrain.data.storage import Folder, open_folder
from tdtrain.models.reader import Codec, Kind
from tdtrain.options import Frozen, Kept
from tdtrain.precision import Precision

MANIFEST, SPEC, HEAD = "labels.json", "spec.json", "head.safetensors"
LABEL_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("view", pa.int16(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("confidence", pa.float32(), nullable=False),
        pa.field("agreement", pa.float32()),
        pa.field("num_positions", pa.int32(), nullable=False),
        pa.field("k", pa.int32(), nullable=False),
        pa.field("ids", pa.binary()),
        pa.field("logprobs", pa.binary()),
        pa.field("tail", pa.binary()),
        pa.field("label_logprobs", pa.binary()),
        pa.field("hidden", pa.binary()),
    ]
)
DEFAULT_K = {"ctc": 8, "autoregressive": 32}


class Keep(Frozen):
    """What is kept of the teacher's distribution at a position."""

    kept: Literal["top_k", "samples", "hidden"] = "top_k"
    """top_k: the k likeliest tokens. samples: k draws, unbiased (Random Sampling KD, arXiv 2503.16870). hidden: the
    decoder's hidden state, exact at any temperature."""
    k: int
    temperature: float = 1.0
    """The distribution that is kept was softened by it. CTC frames and hidden states are kept as they are: 1."""
    views: int = 0
    """0: the teacher sees the line as it is. v: v augmented views of it, which the student sees as well."""
    agreement: bool = False
    """The teacher also reads an augmented view, to tell how far it agrees with itself."""


class Spec(Frozen):
    """All that changes what is in a cache; its fingerprint is a hash of the fields."""

    teacher_weights: str
    """Hash of the weights."""
    teacher_inputs: str
    """Hash of its vocabulary, of how it prepares a picture, and of how it spells and ends what it writes."""
    lines: str
    """Fingerprint of the packed corpus."""
    kind: Kind
    keep: Keep
    precision: Precision
    version: str


class Begun(Frozen):
    """What is known of a cache from its start."""

    fingerprint: str
    teacher: str
    """The teacher's folder or name, for people."""
    spec: Spec
    tokens: tuple[str, ...]
    """The teacher's vocabulary: what `ids` index."""


class LabelManifest(Begun):
    """A finished cache."""

    num_lines: int
    bytes_per_position: float


def keep_of(kept: Kept, kind: Kind, temperature: float, agreement: bool = False) -> Keep:
    """What a run that is told so keeps of a teacher of this kind."""
    return Keep(
        kept=kept.cache_as,
        k=kept.cache_k or DEFAULT_K[kind],
        temperature=temperature if kind == "autoregressive" else 1.0,
        views=kept.teacher_views,
        agreement=agreement,
    )


def id_dtype(num_tokens: int) -> type:
    """The narrowest type that the ids of so many tokens fit."""
    return np.uint16 if num_tokens <= 2**16 else np.uint32


def name_of(shard: str) -> str:
    """The cache's file of a shard of lines."""
    return shard.rsplit("/", 1)[-1]


def load_begun(folder: str) -> Begun:
    """What a cache is of, finished or not."""
    return Begun.model_validate_json(open_folder(folder).read(SPEC))


def confident(manifest: Manifest, folder: str, least: float) -> Iterator[str]:
    """The teacher's readings of the training lines that it is at least so sure of, in [0, 1]."""
    for shard in manifest.shards_of("train"):
        table = open_table(f"{folder}/{name_of(shard.path)}", ["view", "text", "confidence"])
        rows = (row for row in table.to_pylist() if row["view"] == 0)
        yield from (row["text"] for row in rows if row["confidence"] >= least)


def memory_of(folder: str, student: Codec, temperature: float) -> Memory:
    """How a cache is read for a student that is trained at this temperature.

    Raises: ValueError where the cache was made for another temperature and cannot serve this one.
    """
    manifest = load_begun(folder)
    keep = manifest.spec.keep
    if not serves_all_temperatures(manifest) and keep.temperature != temperature:
        raise ValueError(
            f"temperature={temperature}, but the teacher's cache {folder} holds {keep.kept} of the distribution at "
            f"temperature {keep.temperature}; label again at this temperature, or with --cache_as hidden, which serves "
            "them all"
        )
    own = {token: index for index, token in enumerate(student.tokens)}
    to_student = np.asarray([own.get(token, -1) for token in manifest.tokens], np.int64)
    width = 0
    if keep.kept == "hidden":
        width = dict(deserialize(open_folder(folder).read(HEAD)))["weight"]["shape"][1]
    tail = keep.kept != "hidden" and manifest.spec.kind == "autoregressive"
    return Memory(to_student, np.dtype(id_dtype(len(manifest.tokens))).itemsize, keep.views, tail, width)


def serves_all_temperatures(manifest: Begun) -> bool:
    """Whether what is kept can be softened at will: the frames of CTC, hidden states, whole distributions."""
    keep = manifest.spec.keep
    whole = keep.kept == "top_k" and keep.k >= len(manifest.tokens)
    return keep.kept == "hidden" or manifest.spec.kind == "ctc" or whole


def differences(root: Folder, spec: Spec) -> list[str]:
    """The other caches below a root, each in words: what it was made for that this one is not."""
    found = []
    for name in root.files(""):
        if name.endswith(f"/{SPEC}") and (other := Begun.model_validate_json(root.read(name)).spec) != spec:
            mine, theirs = spec.model_dump(), other.model_dump()
            fields = {key: theirs[key] for key in mine if mine[key] != theirs[key]}
            found.append(f"{name.removesuffix(f'/{SPEC}')} ({', '.join(f'{k}={v}' for k, v in fields.items())})")
    return found
