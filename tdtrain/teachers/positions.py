"""From a teacher's outputs to the bytes that a cache keeps of each position.

Shapes: B lines, T frames or label positions, N real positions of one line, V vocabulary, K kept tokens.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tdtrain.data.rows import content_id
from tdtrain.models.reader import IGNORED, ReaderOutput
from tdtrain.teachers.cache import Keep, id_dtype

NOTHING = {"num_positions": 0, "k": 0} | dict.fromkeys(("ids", "logprobs", "tail", "label_logprobs", "hidden"))
"""The row of a line that the teacher cannot be asked about."""


def frame_rows(ids_BTK: Tensor, logprobs_BTK: Tensor, frames_B: Tensor, num_tokens: int) -> list[dict]:
    """A CTC teacher's frames: their likeliest tokens, and no tail, for they hold nearly all of the probability."""
    rows = []
    for ids, logprobs, frames in zip(ids_BTK.cpu().numpy(), logprobs_BTK.cpu().numpy(), frames_B.tolist(), strict=True):
        kept = {"ids": _bytes(ids[:frames], id_dtype(num_tokens)), "logprobs": _bytes(logprobs[:frames], np.float16)}
        rows.append({**NOTHING, "num_positions": frames, "k": ids.shape[-1], **kept})
    return rows


def token_rows(output: ReaderOutput, labels_BT: Tensor, keep: Keep, seeds: list[str]) -> list[dict]:
    """What an autoregressive teacher holds possible at each label of each line. `seeds`: a string a line, for draws."""
    assert output.hidden is not None and output.head is not None
    rows = []
    for hidden_TD, labels_T, seed in zip(output.hidden, labels_BT, seeds, strict=True):
        real = labels_T != IGNORED
        labels, hidden = labels_T[real], hidden_TD[real]
        logits = output.head(hidden).float()
        told = logits.log_softmax(-1).gather(-1, labels[:, None])[:, 0]
        row = {**NOTHING, "num_positions": len(labels), "label_logprobs": _bytes(told.cpu().numpy(), np.float32)}
        if keep.kept == "hidden":
            row["hidden"] = _bytes(hidden.float().cpu().numpy(), np.float16)
        else:
            ids, logprobs, tail = _kept((logits / keep.temperature).log_softmax(-1), keep, seed)
            row |= {"k": ids.shape[-1], "ids": _bytes(ids.cpu().numpy(), id_dtype(logits.shape[-1]))}
            row |= {key: _bytes(x.cpu().numpy(), np.float16) for key, x in (("logprobs", logprobs), ("tail", tail))}
        rows.append(row)
    return rows


def _kept(log_p_NV: Tensor, keep: Keep, seed: str) -> tuple[Tensor, Tensor, Tensor]:
    """Ids and log-probabilities N,K, and the tail's log-mass N (-inf: none)."""
    if keep.kept == "samples":
        return _drawn(log_p_NV, keep.k, seed)
    values, ids = log_p_NV.topk(min(keep.k, log_p_NV.shape[-1]), dim=-1)
    others = log_p_NV.scatter(-1, ids, -torch.inf)
    return ids, values, others.logsumexp(-1)


def _drawn(log_p_NV: Tensor, number: int, seed: str) -> tuple[Tensor, Tensor, Tensor]:
    """So many draws a position, as shares by token: unbiased (arXiv 2503.16870). The same for the same seed."""
    generator = torch.Generator().manual_seed(int(content_id(seed)[:15], 16))
    drawn = torch.multinomial(log_p_NV.exp().cpu(), number, replacement=True, generator=generator)
    rows = [torch.unique(row, return_counts=True) for row in drawn]
    width = max((len(ids) for ids, _ in rows), default=1)
    ids, shares = torch.zeros(len(rows), width, dtype=torch.int64), torch.zeros(len(rows), width)
    for i, (own, counts) in enumerate(rows):
        ids[i, : len(own)], shares[i, : len(own)] = own, counts / number
    return ids, shares.log(), torch.full((len(rows),), -torch.inf)


def _bytes(values: np.ndarray, dtype: type) -> bytes:
    return values.astype(dtype).tobytes()
