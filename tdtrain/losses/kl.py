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

        T^2 * KL(teacher || student, softened by T, among the kept)  -  log of the student's mass on the kept at T = 1

    The divergence is taken apart (as in Zhao et al. 2022, arXiv 2203.08679), for of the rest only its mass at T = 1 is
    known: next to nothing, in the frames of a CTC reader. Softened it is much, spread nobody knows how, so what is
    within it is not taught. At K = V, whatever T, this is `forward_kl`; at T = 1 it is that of the kept probabilities,
    renormalised.

    Args:
        candidate_ids: tokens in the student's vocabulary, each at most once a position.
        candidate_logprobs: the teacher's log-probabilities at T = 1; -inf for a slot that is not used.

    Returns: nats. Divide by the global number of positions.
    """
    known = (candidate_logprobs > -torch.inf).any(-1)  # else the student has none of the candidates
    told = candidate_logprobs[known].float()
    log_q = student_logits[known].float().log_softmax(-1).gather(-1, candidate_ids[known])
    log_q = log_q.masked_fill(told == -torch.inf, -torch.inf)
    among = _divergence((told / temperature).log_softmax(-1), (log_q / temperature).log_softmax(-1))
    return temperature**2 * among - log_q.logsumexp(-1).sum()


def _divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    # A probability of zero contributes nothing, but 0 * (-inf - x) is nan, in the gradient as well.
    nothing = log_p == -torch.inf
    return (log_p.exp() * (log_p.masked_fill(nothing, 0.0) - log_q.masked_fill(nothing, 0.0))).sum()
