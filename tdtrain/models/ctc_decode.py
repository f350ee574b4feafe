"""From a CTC reader's frames to text.

Connectionist temporal classification (Graves et al. 2006) gives one distribution a frame over the characters and a
blank. The text is the best path with repeats merged and blanks dropped.

Shapes: B lines, T frames or label positions, V characters with the blank.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tdtrain.models.ctc_codec import BLANK
from tdtrain.models.reader import Codec, Reading


def greedy_readings(logits_BTV: Tensor, frames_B: Tensor, tokens: Sequence[str]) -> list[Reading]:
    """The best path of each line.

    Args:
        logits_BTV: values before the softmax, any float type.
        frames_B: int64, how many frames of each line are real.
        tokens: the string of each id.
    """
    # Line by line: a batch of them over 18,710 characters falls out of every cache and takes a CPU five times as long.
    best = [logits_TV.float().log_softmax(dim=-1).max(dim=-1) for logits_TV in logits_BTV]
    logprobs_BT, ids_BT = (torch.stack(parts) for parts in zip(*best, strict=True))
    return path_readings(ids_BT, logprobs_BT, frames_B, tokens)


def path_readings(ids_BT: Tensor, logprobs_BT: Tensor, frames_B: Tensor, tokens: Sequence[str]) -> list[Reading]:
    """The reading of each line's path: repeats merged, blanks dropped.

    Confidence is the mean probability of the frames that gave a character, each run of repeats counted by its first
    frame, as PaddleOCR has it; an empty reading has confidence 0.

    Args:
        ids_BT: a character or the blank a frame.
        logprobs_BT: their log-probabilities.
        frames_B: int64, how many frames of each line are real.
        tokens: the string of each id.
    """
    ids, probabilities = ids_BT.cpu().numpy(), logprobs_BT.exp().cpu().numpy()  # small: torch would take thrice as long
    kept = (np.arange(ids.shape[1]) < frames_B.cpu().numpy()[:, None]) & (ids != BLANK)
    kept[:, 1:] &= ids[:, 1:] != ids[:, :-1]
    return [
        Reading("".join([tokens[i] for i in row[chosen]]), min(float(p[chosen].mean()), 1.0) if chosen.any() else 0.0)
        for row, p, chosen in zip(ids, probabilities, kept, strict=True)
    ]


def character_map(teacher: Codec, student: Codec) -> Tensor:
    """int64 V_student: the teacher's id of each of the student's, -1 where the teacher has no such character."""
    ids = {token: i for i, token in enumerate(teacher.tokens)}
    return torch.tensor([ids.get(token, -1) for token in student.tokens])
