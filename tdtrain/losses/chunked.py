"""The distillation loss of a language head that never holds its logits.

A chunk of positions at a time, hidden states are multiplied with the head's weight, compared with teacher and labels,
and turned into the gradient of hidden states and weight, all in the forward pass; the logits are gone before the next
chunk. Extra memory is three buffers of `chunk` x V and the weight's gradient, whatever the number of positions.

Shapes: N positions, D width of the student, E width of the teacher, V vocabulary, K candidates.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tdtrain.losses.divergence import Divergence, divergence, jensen_shannon, summed
from tdtrain.losses.signal import Candidates, HeadOf
from tdtrain.models.reader import IGNORED

CHUNK = 128
"""Positions at a time. On a CPU 64 to 256 are alike; below, the weight is read from memory too often."""


Teacher: TypeAlias = HeadOf | Candidates


def distillation_loss(
    hidden: Float[Tensor, "N D"],
    weight: Float[Tensor, "V D"],
    bias: Float[Tensor, " V"] | None,
    labels: Int[Tensor, " N"],
    teacher: Teacher | None,
    soft_share: Float[Tensor, " N"],
    hard_share: Float[Tensor, " N"],
    alpha: float,
    temperature: float = 1.0,
    mix: Divergence = Divergence(),  # noqa: B008  (frozen)
    chunk: int = CHUNK,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    """alpha * sum(soft_share * T^2 * divergence(teacher, student)) + (1 - alpha) * sum(hard_share * cross-entropy).

    Args:
        hidden: what the head sees; padding already removed. bf16 and fp16 are multiplied as such; everything behind the
            product is fp32 (float64 stays float64).
        weight: of the head, tied or not; gathered, where ZeRO-3 shards it.
        labels: token ids; IGNORED where `hard_share` is 0.
        soft_share: of each position in the soft loss, such as 1 / global number of soft positions; 0: not taught.
        hard_share: as that, of the hard loss.
        alpha: in [0, 1]; without a teacher it is 0.
        temperature: T > 0, of both distributions in the soft loss.

    Returns: the loss, and its two sums without a gradient.
    Source: the soft loss is Hinton et al. 2015, arXiv 1503.02531; gradients in the forward pass as in Liger Kernel
        (Hsu et al. 2024, arXiv 2410.10989, section 3.2).
    """
    if not alpha:
        teacher = None
    if teacher is None:
        alpha = 0.0
    shares = (soft_share, hard_share, alpha)
    return _Chunked.apply(hidden, weight, bias, labels, teacher, *shares, temperature, mix, chunk)


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        teacher: Teacher | None,
        soft_share: Tensor,
        hard_share: Tensor,
        alpha: float,
        temperature: float,
        mix: Divergence,
        chunk: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        wanted = ctx.needs_input_grad[:3]
        exact = torch.promote_types(hidden.dtype, torch.float32)
        cast = weight.to(hidden.dtype)  # as autocast would: fp32 weights meet bf16 hidden states in bf16
        soft, hard = hidden.new_zeros((), dtype=exact), hidden.new_zeros((), dtype=exact)
        grad_hidden = torch.empty_like(hidden) if wanted[0] else None
        grad_weight = torch.zeros_like(weight, dtype=exact) if wanted[1] else None
        grad_bias = torch.zeros_like(bias, dtype=exact) if bias is not None and wanted[2] else None
        for start in range(0, len(hidden), chunk):
            here = slice(start, start + chunk)
            logits = _product(hidden[here], cast, bias, exact)
            told = None if teacher is None else teacher.at(here)
            shares = (soft_share[here].to(exact), hard_share[here].to(exact), alpha)
            *losses, gradient = _of_chunk(logits, labels[here], told, *shares, temperature, mix)
            soft += losses[0]
            hard += losses[1]
            half = gradient.to(hidden.dtype)
            if grad_hidden is not None:
                torch.mm(half, cast, out=grad_hidden[here])
            if grad_weight is not None:
                _add_product(grad_weight, half, hidden[here])
            if grad_bias is not None:
                grad_bias += gradient.sum(0)
        ctx.save_for_backward(
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None or bias is None else grad_bias.to(bias.dtype),
        )
        ctx.mark_non_differentiable(soft, hard)
        return alpha * soft + (1 - alpha) * hard, soft, hard

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        scale = grads[0]
        own = [None if grad is None else grad * scale.to(grad.dtype) for grad in ctx.saved_tensors]
        return (*own, *(None,) * 8)


def _product(hidden: Tensor, weight: Tensor, bias: Tensor | None, exact: torch.dtype) -> Tensor:
    logits = torch.mm(hidden, weight.t()).to(exact)
    return logits if bias is None else logits.add_(bias)


def _add_product(grad_weight: Tensor, gradient: Tensor, hidden: Tensor) -> None:
    if gradient.dtype == grad_weight.dtype:
        grad_weight.addmm_(gradient.t(), hidden)
    else:
        grad_weight += torch.mm(gradient.t(), hidden)


def _of_chunk(
    logits: Tensor,
    labels: Tensor,
    teacher: Teacher | None,
    soft_share: Tensor,
    hard_share: Tensor,
    alpha: float,
    temperature: float,
    mix: Divergence,
) -> tuple[Tensor, Tensor, Tensor]:
    """The two sums, and the gradient of the loss in the logits, which are used up."""
    index = labels.clamp(min=0)[:, None]
    hard_share = hard_share * (labels != IGNORED)
    q, log_total = _softmax(logits)
    hard = torch.dot(log_total - logits.gather(1, index)[:, 0], hard_share)
    hard_weight = (1 - alpha) * hard_share
    if teacher is None:
        return torch.zeros_like(hard), hard, _minus_label(q.mul_(hard_weight[:, None]), index, hard_weight)
    slope_weight = alpha * temperature * soft_share
    if temperature != 1:
        logits.div_(temperature)
        q_soft, log_total = _softmax(logits)
    else:
        q_soft = q
    if isinstance(teacher, HeadOf):
        value, gradient = _dense(logits, q_soft, log_total, teacher, slope_weight, temperature, mix)
    else:
        value, gradient = _sparse(logits, q_soft, log_total, teacher, slope_weight, temperature, mix)
    gradient.addcmul_(q, hard_weight[:, None])
    return temperature**2 * torch.dot(value, soft_share), hard, _minus_label(gradient, index, hard_weight)


def _softmax(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The softmax, and the log of its denominator: a row's greatest logit less the log of its probability."""
    q = logits.softmax(-1)
    return q, logits.amax(-1) - q.amax(-1).log()


def _minus_label(gradient: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    return gradient.scatter_add_(1, index, -weight[:, None])


def _dense(
    logits: Tensor, q: Tensor, log_total: Tensor, teacher: HeadOf, weight: Tensor, temperature: float, mix: Divergence
) -> tuple[Tensor, Tensor]:
    theirs = _product(teacher.hidden, teacher.weight.to(teacher.hidden.dtype), teacher.bias, logits.dtype)
    if temperature != 1:
        theirs.div_(temperature)
    if not mix.only_forward:
        log_q = logits.sub_(log_total[:, None])
        if mix.only_jsd:
            p, their_total = _softmax(theirs)
            value, pull = jensen_shannon(theirs.sub_(their_total[:, None]), p, log_q, q, mix)
        else:
            value, pull = divergence(theirs.log_softmax(-1), log_q, mix)
        return value, pull.addcmul_(q, -pull.sum(-1, keepdim=True)).mul_(weight[:, None])
    p, their_total = _softmax(theirs)
    expected = summed(p, theirs.sub_(logits))
    value = mix.forward_kl * (expected - their_total + log_total)
    return value, p.neg_().add_(q).mul_((mix.forward_kl * weight)[:, None])


def _sparse(
    logits: Tensor,
    q: Tensor,
    log_total: Tensor,
    teacher: Candidates,
    weight: Tensor,
    temperature: float,
    mix: Divergence,
) -> tuple[Tensor, Tensor]:
    """The candidates are a class each and the tail is one; what pulls on the tail is shared out by probability."""
    used = teacher.logprobs > -torch.inf
    log_p = teacher.logprobs.to(logits.dtype)
    log_q = (logits.gather(1, teacher.ids) - log_total[:, None]).masked_fill(~used, -torch.inf)
    kept = q.gather(1, teacher.ids) * used
    rest = torch.ones_like(log_total)
    with_rest = teacher.tail is not None or not mix.only_forward
    if with_rest:
        # Added up as such: one less the candidates would be noise where the student is sure.
        rest = q.scatter_add_(1, teacher.ids, -kept).sum(-1).clamp(min=torch.finfo(q.dtype).tiny)
        q.scatter_add_(1, teacher.ids, kept)
        tail = torch.full_like(rest, -torch.inf) if teacher.tail is None else teacher.tail.to(log_p.dtype)
        log_p = torch.cat([log_p, tail[:, None]], 1)
        log_q = torch.cat([log_q, rest.log()[:, None]], 1)
    untaught = ~(log_p > -torch.inf).any(-1)  # the student has none of the candidates
    log_p = log_p.masked_fill(untaught[:, None], 0.0)
    log_p = (log_p if teacher.softened else log_p / temperature).log_softmax(-1)
    value, pull = divergence(log_p, log_q, mix)
    weight = weight * ~untaught
    k = teacher.ids.shape[1]
    of_rest = pull[:, k] / rest if with_rest else torch.zeros_like(rest)
    gradient = q * ((of_rest - pull.sum(-1)) * weight)[:, None]
    gradient.scatter_add_(1, teacher.ids, (pull[:, :k] - kept * of_rest[:, None]) * weight[:, None])
    return value.masked_fill(untaught, 0.0), gradient
