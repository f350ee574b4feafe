"""What a student learns from a teacher of another vocabulary, at places where their labels meet or between them.

Shapes: N places, V_s and V_t tokens of student and teacher, K candidates kept of a stored teacher, C classes; B texts,
S and T positions of the student's and the teacher's labels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tdtrain.losses.signal import Candidates

ALM_TEMPERATURE = 100.0
"""tau, as tokenkit has it."""
ALM_EPSILON = 1e-6
"""How far log p^(1/tau) stays below 0, where the logarithm of 1 - p would be infinite; tokenkit's."""


def class_kl(
    student_logits: Float[Tensor, "N V_s"],
    student_classes: Int[Tensor, " V_s"],
    teacher_logits: Float[Tensor, "N V_t"],
    teacher_classes: Int[Tensor, " V_t"],
    num_classes: int,
    temperature: float,
) -> Float[Tensor, ""]:
    """T^2 * KL(teacher || student) between the classes of tokens, summed over places.

    Both are softened as tokens, and then summed by class. Tokens of class -1 are no outcome: the divergence is that of
    the distributions given that none of them is written, times the probability that the teacher writes none. This is
    the part of the whole divergence that remains without that of "none is written" itself, by its chain rule.

    Args:
        student_logits: computed in fp32 at least; float64 stays float64.
        student_classes: int64, -1 or below C; where the teacher has a class the student needs one, else it is infinite.
        teacher_logits: log-probabilities serve as well; -inf is a probability of zero.
        temperature: T > 0.

    Returns: nats. Divide by the global number of places. `forward_kl` where each token is a class.
    Source: Hinton et al. 2015, arXiv 1503.02531, section 2, over classes; the projected KL (P-KL) of X-Token, Sreenivas
        et al. 2026, arXiv 2605.21699, where these are the rows of its matrix W.
    """
    log_q = _class_logits(student_logits, student_classes, num_classes, temperature).log_softmax(-1)
    log_p = (_exact(teacher_logits) / temperature).log_softmax(-1)
    return temperature**2 * _kl(_by_class(log_p, teacher_classes.expand_as(log_p), num_classes), log_q)


def class_kl_candidates(
    student_logits: Float[Tensor, "N V_s"],
    student_classes: Int[Tensor, " V_s"],
    teacher: Candidates,
    teacher_classes: Int[Tensor, " V_t"],
    num_classes: int,
    temperature: float,
) -> Float[Tensor, ""]:
    """`class_kl` against a teacher of whom only K tokens a place were kept; at K = V_t it is that.

    The tail is a class of its own, and the student's is that of all classes without a candidate. Where there are no
    such classes, or no tail, it is not taught.

    Args:
        teacher: ids and log-probabilities N,K over the teacher's vocabulary, each token at most once a place, and a
            tail N. Softened here as far as they are not, the tail as one token. A place without any costs nothing.

    Returns: nats. Divide by the global number of places.
    """
    log_q = _class_logits(student_logits, student_classes, num_classes, temperature).log_softmax(-1)
    log_p = _softened(teacher, temperature)
    kept = _by_class(log_p[:, :-1], teacher_classes[teacher.ids], num_classes)
    others = kept.isneginf() & ~log_q.isneginf()
    taught = others.any(-1, keepdim=True) & ~kept.isneginf().all(-1, keepdim=True)
    tail = log_p[:, -1:].masked_fill(~taught, -torch.inf)
    rest = log_q.masked_fill(~others, -torch.inf).logsumexp(-1, keepdim=True)
    return temperature**2 * _kl(torch.cat([kept, tail], 1), torch.cat([log_q, rest], 1))


def approximate_likelihood(
    student_logprobs: Float[Tensor, "B S"],
    student_chunks: Int[Tensor, "B S"],
    teacher_logprobs: Float[Tensor, "B T"],
    teacher_chunks: Int[Tensor, "B T"],
    temperature: float = ALM_TEMPERATURE,
) -> Float[Tensor, ""]:
    """Approximate likelihood matching (ALM): is a chunk of text as likely to the student as it is to the teacher?

    With the chunk's likelihood p, the product of its tokens' probabilities, the sum over chunks of
    f(p_T^(1/tau), p_S^(1/tau)) + f(1 - p_T^(1/tau), 1 - p_S^(1/tau)) where f(a, b) = a log(a / b): the KL of two
    outcomes, "this chunk" and "another". Its size goes with 1 / tau.

    Args:
        student_logprobs: at T = 1, of the label's own tokens, the end token included; any float type, computed in fp32
            at least. Values at padding count for nothing.
        student_chunks: int64, the chunk of each token, below S; -1 at padding and for tokens that are not compared.
        temperature: tau > 0; the greater, the more the likelihoods near 0 count beside those near 1.

    Returns: nats. Divide by the global number of chunks; those that only one side has are no chunks.
    Source: Minixhofer et al. 2025, arXiv 2503.20083, the binarised f-divergence with KL for f; tokenkit's `binary_ce`
        less the teacher's own entropy. Without their debiasing of outcome chunks, and their hidden states.
    """
    num_chunks = max(student_chunks.shape[1], teacher_chunks.shape[1])
    log_q, has_student = _chunk_sums(student_logprobs, student_chunks, num_chunks)
    log_p, has_teacher = _chunk_sums(teacher_logprobs, teacher_chunks, num_chunks)
    both = has_student & has_teacher
    log_q, log_p = (x[both] / temperature - ALM_EPSILON for x in (log_q, log_p))
    other_q, other_p = ((-torch.expm1(x)).log() for x in (log_q, log_p))
    return (log_p.exp() * (log_p - log_q) + other_p.exp() * (other_p - other_q)).sum()


def uld(
    student_logits: Float[Tensor, "N V_s"], teacher: Float[Tensor, "N V_t"] | Candidates, temperature: float = 1.0
) -> Float[Tensor, ""]:
    """Universal logit distillation: the L1 distance of sorted probabilities, whatever their tokens, summed over places.

    Args:
        student_logits: computed in fp32 at least; the smaller vocabulary is padded with zeros.
        teacher: logits, or K candidates a place, whose tail is compared with the student's mass behind its K likeliest;
            a place without candidates costs nothing.
        temperature: T > 0, of both; without a factor T^2.

    Returns: at most 2 a place. Divide by the global number of places.
    Source: Boizard et al. 2024, arXiv 2402.12030, the closed form of its Wasserstein distance with uniform costs.
    """
    q = (_exact(student_logits) / temperature).softmax(-1).sort(-1, descending=True).values
    if isinstance(teacher, Candidates):
        num_kept = teacher.ids.shape[1]
        p = _softened(teacher, temperature).exp()
        p = torch.cat([p[:, :-1].sort(-1, descending=True).values, p[:, -1:]], 1)
        q = F.pad(q, (0, max(num_kept - q.shape[1], 0)))
        q = torch.cat([q[:, :num_kept], q[:, num_kept:].sum(-1, keepdim=True)], 1)
        q = q * (teacher.logprobs > -torch.inf).any(-1, keepdim=True)
    else:
        p = (_exact(teacher) / temperature).softmax(-1).sort(-1, descending=True).values
        width = max(p.shape[1], q.shape[1])
        p, q = F.pad(p, (0, width - p.shape[1])), F.pad(q, (0, width - q.shape[1]))
    return (p - q).abs().sum()


def _class_logits(logits: Tensor, classes: Tensor, num_classes: int, temperature: float) -> Tensor:
    return _by_class(_exact(logits) / temperature, classes.expand_as(logits), num_classes)


def _by_class(log_mass: Tensor, classes: Tensor, num_classes: int) -> Tensor:
    """Log of the mass of each class N,C, of that of its tokens N,V; -inf for a class without any."""
    counted = (classes >= 0) & ~log_mass.isneginf()
    index = classes.masked_fill(~counted, num_classes)
    log_mass = log_mass.masked_fill(~counted, 0.0)
    shape = (len(log_mass), num_classes + 1)
    # The greatest of each class, not of the row: a class may be less likely than exp can say.
    top = log_mass.new_full(shape, -torch.inf).scatter_reduce(1, index, log_mass.detach(), "amax")
    sums = log_mass.new_zeros(shape).scatter_add(1, index, (log_mass - top.gather(1, index)).exp())
    return (sums.log() + top)[:, :num_classes]


def _softened(teacher: Candidates, temperature: float) -> Tensor:
    """Log-probabilities N,K+1 of the candidates and the tail; all -inf at a place without candidates."""
    kept = _exact(teacher.logprobs)
    tail = torch.full_like(kept[:, :1], -torch.inf) if teacher.tail is None else teacher.tail[:, None].to(kept.dtype)
    silent = kept.isneginf().all(-1, keepdim=True)
    log_p = torch.cat([kept, tail], 1) / (1.0 if teacher.softened else temperature)
    return log_p.masked_fill(silent, 0.0).log_softmax(-1).masked_fill(silent, -torch.inf)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """The divergence given that it is one of these classes, times the teacher's probability that it is.

    log_q is normalised over them; log_p need not be.
    """
    absent = log_p.isneginf()
    total = log_p.masked_fill(absent.all(-1, keepdim=True), 0.0).logsumexp(-1, keepdim=True)
    # A probability of zero contributes nothing, but 0 * (-inf - x) is nan, in the gradient as well.
    gap = log_p.masked_fill(absent, 0.0) - log_q.masked_fill(absent, 0.0) - total
    return (log_p.exp() * gap).sum()


def _chunk_sums(logprobs: Tensor, chunks: Tensor, num_chunks: int) -> tuple[Tensor, Tensor]:
    """The sum of each chunk B,C, and whether it has a token."""
    padding = chunks < 0
    index = chunks.masked_fill(padding, num_chunks)
    logprobs = _exact(logprobs).masked_fill(padding, 0.0)
    sums = logprobs.new_zeros(len(chunks), num_chunks + 1).scatter_add(1, index, logprobs)
    has = torch.zeros_like(sums, dtype=torch.bool).scatter(1, index, True)
    return sums[:, :num_chunks], has[:, :num_chunks]


def _exact(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
