"""The soft loss: how far the student's softened distribution is from the teacher's.

Shapes: N positions, V vocabulary, K candidates that were kept of a stored teacher.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def forward_kl(
    student_logits: Float[Tensor, "N V"], teacher_logits: Float[Tensor, "N V"], temperature: float
) -> Float[Tensor, ""]:
    """T^2 * KL(teacher || student) of the distributions softened by T, summed over positions.

    Args:
        student_logits: any float type, computed in fp32; padding already removed.
        teacher_logits: over the same vocabulary; log-probabilities serve as well. -inf: never.
        temperature: T > 0. The factor T^2 keeps the gradient's size as T grows.

    Returns: nats. Divide by the global number of positions.
    Source: Hinton et al. 2015, arXiv 1503.02531, section 2.
    """
    log_q = (student_logits.float() / temperature).log_softmax(-1)
    log_p = (teacher_logits.float() / temperature).log_softmax(-1)
    return temperature**2 * _divergence(log_p, log_q)


def forward_kl_candidates(
    student_logits: Float[Tensor, "N V"],
    candidate_ids: Int[Tensor, "N K"],
    candidate_logprobs: Float[Tensor, "N K"],
    temperature: float,
) -> Float[Tensor, ""]:
    """`forward_kl` against a teacher of whom only the K likeliest tokens a position were kept.

    The kept probabilities are renormalised after softening; at K = V this is `forward_kl`. What the tail held is not
    taught, which is exact enough where the kept mass is near one, as in the frames of a CTC reader.

    Args:
        candidate_ids: tokens in the student's vocabulary, each at most once a position.
        candidate_logprobs: the teacher's log-probabilities at T = 1; -inf for a slot that is not used.

    Returns: nats. Divide by the global number of positions.
    """
    known = (candidate_logprobs > -torch.inf).any(-1)  # else the student has none of the candidates
    log_q = (student_logits[known].float() / temperature).log_softmax(-1).gather(-1, candidate_ids[known])
    log_p = (candidate_logprobs[known].float() / temperature).log_softmax(-1)
    return temperature**2 * _divergence(log_p, log_q)


def _divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    # A probability of zero contributes nothing, but 0 * (-inf - x) is nan, in the gradient as well.
    terms = log_p.exp() * (log_p.masked_fill(log_p == -torch.inf, 0.0) - log_q)
    return terms.masked_fill(log_p == -torch.inf, 0.0).sum()
