"""A stored teacher's rows as the arrays of a micro batch.

Shapes: B lines, T frames or label positions, K kept tokens, D width of the teacher.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tdtrain.models.spans import align_batch

SIDES = {"a": "student", "b": "teacher"}


@dataclass(frozen=True)
class Memory:
    """How a cache's bytes are read for one student. Picklable, and holds no weights.

    Attributes:
        to_student: of each of the teacher's tokens, the student's id, -1 where it has none.
        ids_bytes: bytes of a stored id.
        views: see `tdtrain.teachers.cache.Keep`.
        tail: whether rows have one; a micro batch may have no row that would tell.
        width: D, of hidden states; 0: it has none.
    """

    to_student: np.ndarray
    ids_bytes: int = 2
    views: int = 0
    tail: bool = False
    width: int = 0


def soft_arrays(rows: Sequence[dict | None], positions: np.ndarray, memory: Memory) -> dict[str, np.ndarray]:
    """What a stored teacher says about a micro batch, over the student's vocabulary.

    Args:
        rows: of each line, None where the teacher was not asked.
        positions: int64 B, how many frames or labels each line has for the student.

    Returns: `taught` bool B; and either `soft_hidden` float32 B,T,D or `soft_ids` int64 B,T,K with `soft_logprobs`
        float32 B,T,K (-inf: a slot not used, or a token that the student does not have) and, of tokens, `soft_tail`
        float32 B,T; and of tokens `soft_told` float32 B,T, the log-probability of the teacher's own label.
    Raises: ValueError where teacher and student cut a line into different numbers of positions.
    """
    known = [(i, row) for i, row in enumerate(rows) if row is not None and row["num_positions"]]
    if any(row["num_positions"] != positions[i] for i, row in known):
        raise ValueError(
            "teacher and student cut a line into different numbers of positions, so these cannot be compared; "
            "use --targets sequence"
        )
    taught = np.zeros(len(rows), bool)
    taught[[i for i, _ in known]] = True
    shape = (len(rows), int(positions.max()))
    if memory.width:
        hidden = np.zeros((*shape, memory.width), np.float32)
        for i, row in known:
            hidden[i, : positions[i]] = np.frombuffer(row["hidden"], np.float16).reshape(-1, memory.width)
        return {"taught": taught, "soft_hidden": hidden}
    told = np.zeros(shape, np.float32)
    k = max((row["k"] for _, row in known), default=1)
    ids, logprobs = np.zeros((*shape, k), np.int64), np.full((*shape, k), -np.inf, np.float32)
    tail = np.full(shape, -np.inf, np.float32)
    for i, row in known:
        here = (i, slice(positions[i]))
        theirs = np.frombuffer(row["ids"], f"u{memory.ids_bytes}").reshape(-1, row["k"])
        mapped = memory.to_student[theirs]
        values = np.frombuffer(row["logprobs"], np.float16).reshape(theirs.shape).astype(np.float32)
        ids[here][:, : row["k"]] = np.maximum(mapped, 0)
        logprobs[here][:, : row["k"]] = np.where(mapped >= 0, values, -np.inf)
        if memory.tail:
            tail[here] = np.frombuffer(row["tail"], np.float16)
            told[here] = np.frombuffer(row["label_logprobs"], np.float32)
    of_tokens = {"soft_tail": tail, "soft_told": told} if memory.tail else {}
    return {"taught": taught, "soft_ids": ids, "soft_logprobs": logprobs} | of_tokens


def beside(student: Any, teacher: Any, texts: Sequence[str]) -> dict[str, np.ndarray]:
    """The texts of a micro batch in the teacher's tokens, and how they lie beside the student's.

    Args:
        student, teacher: their codecs, of the TrOCR kind.

    Returns: `teacher_labels` int64 B,U; `pairs_student`, `pairs_teacher` B,P and `chunk_student`, `chunk_teacher`, see
        `align_batch`; and `taught` bool B: False where the teacher cannot spell the text.
    """
    spelt = np.asarray([not teacher.unknown(text) and teacher.fits(text, 0) for text in texts])
    told = [text if ok else "" for text, ok in zip(texts, spelt, strict=True)]
    aligned = align_batch(student, teacher, told)
    named = {f"{what}_{who}": aligned[f"{what}_{side}"] for what in ("pairs", "chunk") for side, who in SIDES.items()}
    # A line that the teacher cannot spell may be the student's longest.
    missing = student.encode(texts).shape[1] - named["chunk_student"].shape[1]
    named["chunk_student"] = np.pad(named["chunk_student"], ((0, 0), (0, missing)), constant_values=-1)
    return {"teacher_labels": teacher.encode(told), "taught": spelt, **named}
