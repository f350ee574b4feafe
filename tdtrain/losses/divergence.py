"""How far two distributions are apart, with the gradient written out: what the chunked loss is made of.

p is the teacher's distribution, q the student's, both over the same C classes: tokens, or candidates and their tail.
Shapes: N positions, C classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

LEAST = math.log(1e-8)


@dataclass(frozen=True)
class Divergence:
    """A mix of divergences, each with its weight; the default is Hinton's forward KL.

    Attributes:
        forward_kl: KL(p || q): the student covers all that the teacher holds possible.
        reverse_kl: KL(q || p): the student keeps to what the teacher finds likely (Gu et al. 2024, arXiv 2306.08543).
        skew_kl: KL(p || skew p + (1 - skew) q) (Ko et al. 2024, DistiLLM, arXiv 2402.03898, eq. 4).
        skew_reverse_kl: KL(q || skew q + (1 - skew) p) (the same, eq. 6).
        jsd: beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q (Agarwal et al. 2024, GKD,
            arXiv 2306.13649, eq. 1).
        skew, beta: their parameters, in (0, 1).
    """

    forward_kl: float = 1.0
    reverse_kl: float = 0.0
    skew_kl: float = 0.0
    skew_reverse_kl: float = 0.0
    jsd: float = 0.0
    skew: float = 0.1
    beta: float = 0.5

    @property
    def only_forward(self) -> bool:
        """Whether it is the forward KL and nothing else, which has a shorter way."""
        return not (self.reverse_kl or self.skew_kl or self.skew_reverse_kl or self.jsd)

    @property
    def only_jsd(self) -> bool:
        """Whether it is the Jensen-Shannon divergence and nothing else, which has a way of few buffers."""
        return not (self.forward_kl or self.reverse_kl or self.skew_kl or self.skew_reverse_kl)


def divergence(
    log_p: Float[Tensor, "N C"], log_q: Float[Tensor, "N C"], mix: Divergence
) -> tuple[Float[Tensor, " N"], Float[Tensor, "N C"]]:
    """The mixed divergence of each position, and what pulls on its logits.

    Args:
        log_p: normalised; -inf where the teacher holds a class impossible. The reverse KL would be infinite there, so
            it takes 1e-8 for the teacher's least probability.
        log_q: normalised; -inf only where the teacher's is as well.

    Returns: the value, nats; and the pull q * dL/dq, of which the gradient in the logits behind a softmax is
        pull - q * sum(pull).
    """
    p, q = log_p.exp(), log_q.exp()
    value, pull = torch.zeros_like(log_p[:, 0]), torch.zeros_like(log_p)
    if mix.forward_kl:
        value = value + mix.forward_kl * _kl(p, log_p, log_q).sum(-1)
        pull = pull - mix.forward_kl * p
    if mix.reverse_kl:
        terms = mix.reverse_kl * _kl(q, log_q, log_p.clamp(min=LEAST))
        value, pull = value + terms.sum(-1), pull + terms
    if mix.skew_kl:
        log_m = _mixture(log_p, log_q, mix.skew)
        value = value + mix.skew_kl * _kl(p, log_p, log_m).sum(-1)
        pull = pull - mix.skew_kl * (1 - mix.skew) * q * _share(log_p, log_m)
    if mix.skew_reverse_kl:
        log_m = _mixture(log_q, log_p, mix.skew)
        terms = _kl(q, log_q, log_m)
        value = value + mix.skew_reverse_kl * terms.sum(-1)
        pull = pull + mix.skew_reverse_kl * (terms - mix.skew * q * _share(log_q, log_m))
    if mix.jsd:
        log_m = _mixture(log_p, log_q, mix.beta)
        terms = (1 - mix.beta) * _kl(q, log_q, log_m)
        value = value + mix.jsd * (mix.beta * _kl(p, log_p, log_m).sum(-1) + terms.sum(-1))
        pull = pull + mix.jsd * terms
    return value, pull


def jensen_shannon(
    log_p: Float[Tensor, "N C"],
    p: Float[Tensor, "N C"],
    log_q: Float[Tensor, "N C"],
    q: Float[Tensor, "N C"],
    mix: Divergence,
) -> tuple[Float[Tensor, " N"], Float[Tensor, "N C"]]:
    """`divergence` of a mix that is `only_jsd`, with one buffer of its own. `log_p` and `log_q` are used up.

    m is made of probabilities, not of their logs: what is less than the least normal number adds nothing.

    Args:
        log_p: normalised; -inf where the teacher holds a class impossible.
        log_q: normalised.
    """
    log_p.clamp_(min=-1e30)  # 0 * -inf is nan
    least = torch.finfo(p.dtype).tiny
    log_m = torch.lerp(q, p, mix.beta).clamp_(min=least).log_()
    terms = log_q.sub_(log_m).mul_(q).mul_(mix.jsd * (1 - mix.beta))
    of_p = summed(p, log_p.sub_(log_m))
    return mix.jsd * mix.beta * of_p + terms.sum(-1), terms


def summed(p: Tensor, values: Tensor) -> Tensor:
    """Sum of p * values over the last dimension, N of N C, without a buffer for their product. Autocast would round
    what goes in to bf16, where 0.999 is 1."""
    with torch.autocast(p.device.type, enabled=False):
        return torch.bmm(p[:, None], values[:, :, None])[:, 0, 0]


def _kl(a: Tensor, log_a: Tensor, log_b: Tensor) -> Tensor:
    # A probability of zero contributes nothing, but 0 * (-inf - x) is nan.
    return a * (log_a - log_b).masked_fill(a == 0, 0.0)


def _mixture(log_a: Tensor, log_b: Tensor, share: float) -> Tensor:
    return torch.logaddexp(log_a + math.log(share), log_b + math.log1p(-share))


def _share(log_a: Tensor, log_m: Tensor) -> Tensor:
    return (log_a - log_m).masked_fill(log_a == -torch.inf, -torch.inf).exp()
