"""Losses between vocabularies, against float64 references in loops: value, gradient, and what must not matter."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tdtrain.losses.bridge import approximate_likelihood, class_kl, class_kl_candidates, uld
from tdtrain.losses.kl import forward_kl
from tdtrain.losses.signal import Candidates

OURS = torch.tensor([0, 2, 2, 1, -1, 0, 1])
THEIRS = torch.tensor([2, 1, 0, -1, 2])
NUM_CLASSES = 4
"""One of them without any token, as the teacher's tokens that nothing is projected on."""
INF = torch.inf


def logits(num: int, scale: float = 2.0, positions: int = 3) -> Tensor:
    return scale * torch.randn(positions, num, dtype=torch.float64)


def softmax(row: Tensor, temperature: float) -> list[float]:
    exps = [math.exp(float(value) / temperature) for value in row]
    return [value / sum(exps) for value in exps]


def by_class(probabilities: list[float], classes: Tensor) -> list[float]:
    sums = [0.0] * NUM_CLASSES
    for probability, of in zip(probabilities, classes.tolist(), strict=True):
        if of >= 0:
            sums[of] += probability
    return sums


def reference_kl(p: list[float], q: list[float]) -> float:
    """Both as they are among the classes, times the probability of them all."""
    every, ours = sum(p), sum(q)
    return sum(a * math.log((a / every) / (b / ours)) for a, b in zip(p, q, strict=True) if a)


def whole(teacher: Tensor, temperature: float, width: int | None = None) -> Candidates:
    """The K likeliest tokens and the tail; softened."""
    log_p = (teacher / temperature).log_softmax(-1)
    values, ids = log_p.topk(width or teacher.shape[1])
    return Candidates(ids, values, log_p.scatter(1, ids, -INF).logsumexp(-1), softened=True)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_class_kl_is_the_reference_in_value_and_gradient(temperature: float) -> None:
    student, teacher = logits(7), logits(5)
    expected = sum(
        reference_kl(by_class(softmax(t, temperature), THEIRS), by_class(softmax(s, temperature), OURS))
        for s, t in zip(student, teacher, strict=True)
    )
    loss = class_kl(student, OURS, teacher, THEIRS, NUM_CLASSES, temperature)
    assert loss.dtype == torch.float64 and loss.item() == pytest.approx(temperature**2 * expected, rel=1e-10)
    torch.autograd.gradcheck(
        lambda x: class_kl(x, OURS, teacher, THEIRS, NUM_CLASSES, temperature), student.requires_grad_()
    )


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_with_a_class_a_token_it_is_the_forward_kl(temperature: float) -> None:
    student, teacher = logits(6).float().requires_grad_(), logits(6).float()
    same = torch.arange(6)
    for loss in (
        class_kl(student, same, teacher, same, 6, temperature),
        class_kl_candidates(student, same, whole(teacher, temperature), same, 6, temperature),
    ):
        expected = forward_kl(student, teacher, temperature)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(torch.autograd.grad(loss, student), torch.autograd.grad(expected, student))


def test_class_kl_is_zero_where_the_classes_are_as_likely() -> None:
    teacher = torch.tensor([[0.1, 0.2, 0.3, 0.1, 0.3]]).log()  # classes 0.3, 0.2, 0.4; a tenth is excluded
    student = torch.tensor([[0.1, 0.1, 0.1, 0.05, 0.4, 0.05, 0.05]]).log()  # halves of 0.3, 0.2, 0.4
    assert class_kl(student, OURS, teacher, THEIRS, NUM_CLASSES, 1.0).item() == pytest.approx(0, abs=1e-6)
    assert class_kl(student, OURS, teacher.flip(1), THEIRS, NUM_CLASSES, 1.0).item() > 0.01


def test_a_teacher_who_writes_an_excluded_token_teaches_as_little_as_it_leaves() -> None:
    student = logits(7).requires_grad_()
    teacher = torch.tensor([[1.0, 2.0, 0.0, -INF, 1.0]]).expand(3, 5).clone()
    alone = class_kl(student, OURS, teacher, THEIRS, NUM_CLASSES, 1.0)
    teacher[:, 3] = teacher.logsumexp(1)  # as likely as all others
    half = class_kl(student, OURS, teacher, THEIRS, NUM_CLASSES, 1.0)
    torch.testing.assert_close(half, alone / 2)
    teacher[:, 3] = INF
    (gradient,) = torch.autograd.grad(half, student)
    assert (gradient[:, 4] == 0).all() and (gradient[:, 0] != 0).all()  # nor does it pull on the student's excluded


@pytest.mark.parametrize("tail", [True, False])
@pytest.mark.parametrize("softened", [True, False])
def test_candidates_with_every_token_are_the_whole_distribution(tail: bool, softened: bool) -> None:
    student, teacher = logits(7).requires_grad_(), logits(5)
    kept = whole(teacher, 3.0 if softened else 1.0)
    kept = Candidates(kept.ids, kept.logprobs, kept.tail if tail else None, softened)
    expected = class_kl(student, OURS, teacher, THEIRS, NUM_CLASSES, 3.0)
    loss = class_kl_candidates(student, OURS, kept, THEIRS, NUM_CLASSES, 3.0)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, student), torch.autograd.grad(expected, student))
    torch.testing.assert_close(uld(student, kept, 3.0), uld(student, teacher, 3.0))


def test_the_tail_is_a_class_beside_those_of_the_candidates() -> None:
    student, teacher = logits(7), torch.tensor([[5.0, 1.0, 0.0, -1.0, 4.0], [1.0, 0.0, 5.0, 4.0, -1.0]])
    kept = whole(teacher.double(), 2.0, width=2)  # class 2 twice; class 0 and an excluded token
    expected = 0.0
    for s, ids, values, tail in zip(student, kept.ids, kept.logprobs, kept.tail, strict=False):
        p = [0.0] * NUM_CLASSES
        for token, value in zip(ids.tolist(), values.tolist(), strict=True):
            if THEIRS[token] >= 0:
                p[THEIRS[token]] += math.exp(value)
        q = by_class(softmax(s, 2.0), OURS)
        others = sum(b for a, b in zip(p, q, strict=True) if a == 0)
        mine = [b if a else 0.0 for a, b in zip(p, q, strict=True)]
        expected += 4 * reference_kl([*p, math.exp(tail)], [*mine, others])

    def loss(x: Tensor) -> Tensor:
        return class_kl_candidates(x, OURS, kept, THEIRS, NUM_CLASSES, 2.0)

    student = student[:2].requires_grad_()
    assert loss(student).item() == pytest.approx(expected, rel=1e-10)
    torch.autograd.gradcheck(loss, student)


def test_a_tail_that_no_class_is_left_for_is_not_taught() -> None:
    student, tail = logits(7, positions=1).requires_grad_(), torch.tensor([0.3]).log()
    ids, logprobs = torch.tensor([[0, 1, 2]]), torch.tensor([[0.4, 0.2, 0.1]]).log()
    with_tail, without = (
        class_kl_candidates(student, OURS, Candidates(ids, of, rest), THEIRS, NUM_CLASSES, 1.0)
        for of, rest in ((logprobs, tail), ((logprobs.exp() / 0.7).log(), None))
    )
    torch.testing.assert_close(with_tail, 0.7 * without, rtol=1e-5, atol=1e-6)


def test_unused_slots_and_places_without_candidates_cost_nothing() -> None:
    student, kept = logits(7).requires_grad_(), whole(logits(5), 1.0, width=3)
    ids = torch.cat([kept.ids, torch.zeros(3, 2, dtype=torch.int64)], 1)
    logprobs = torch.cat([kept.logprobs, torch.full((3, 2), -INF)], 1)
    padded = Candidates(ids, logprobs, kept.tail)

    def losses(teacher: Candidates, x: Tensor) -> Tensor:
        return class_kl_candidates(x, OURS, teacher, THEIRS, NUM_CLASSES, 1.0) + uld(x, teacher)

    torch.testing.assert_close(
        class_kl_candidates(student, OURS, padded, THEIRS, NUM_CLASSES, 1.0),
        class_kl_candidates(student, OURS, kept, THEIRS, NUM_CLASSES, 1.0),
    )
    logprobs[1] = -INF
    for tail in (None, torch.tensor([-1.0, -INF, -2.0])):
        loss = losses(Candidates(ids, logprobs, tail), student)
        (gradient,) = torch.autograd.grad(loss, student)
        assert loss.isfinite() and gradient.isfinite().all() and (gradient[1] == 0).all()
        where = torch.tensor([0, 2])
        some = Candidates(ids[where], logprobs[where], None if tail is None else tail[where])
        torch.testing.assert_close(loss, losses(some, student[where]))


def test_a_class_beyond_what_exp_can_say_is_still_pulled_at() -> None:
    student = torch.tensor([[0.0, -400.0, -401.0, -400.0, 0.0, 0.0, -500.0]], requires_grad=True)
    teacher = torch.tensor([[1.0, 2.0, 0.0, -INF, 1.0]])
    for loss in (
        class_kl(student, OURS, teacher, THEIRS, NUM_CLASSES, 1.0),
        class_kl_candidates(student, OURS, whole(teacher, 1.0, width=2), THEIRS, NUM_CLASSES, 1.0),
    ):
        (gradient,) = torch.autograd.grad(loss, student)
        assert 100 < loss < 500 and gradient.isfinite().all() and gradient[0, 1] < -0.1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_half_types_are_computed_in_fp32_and_others_as_they_are(dtype: torch.dtype) -> None:
    student, teacher = logits(7).to(dtype), logits(5).to(dtype)
    exact = torch.promote_types(dtype, torch.float32)
    assert class_kl(student, OURS, teacher, THEIRS, NUM_CLASSES, 2.0).dtype == exact
    assert uld(student, teacher).dtype == exact
    torch.testing.assert_close(
        class_kl(student, OURS, teacher, THEIRS, NUM_CLASSES, 2.0),
        class_kl(student.to(exact), OURS, teacher.to(exact), THEIRS, NUM_CLASSES, 2.0),
    )


# Likelihoods of chunks

MINE = torch.tensor([[0, 0, 1, 2, -1], [0, 1, 1, 1, 2]])
THEIR = torch.tensor([[0, 1, 1, 2], [0, 0, 1, -1]])
"""The second text's last chunk is the student's alone."""


def logprobs(shape: torch.Size) -> Tensor:
    return -torch.rand(shape, dtype=torch.float64) * 2


def reference_alm(student: Tensor, teacher: Tensor, tau: float) -> float:
    total = 0.0
    for row in range(len(MINE)):
        for chunk in sorted(set(MINE[row].tolist()) & set(THEIR[row].tolist()) - {-1}):
            q, p = (
                math.exp(sum(float(v) for v, c in zip(values[row], of[row], strict=True) if c == chunk)) ** (1 / tau)
                for values, of in ((student, MINE), (teacher, THEIR))
            )
            total += p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    return total


@pytest.mark.parametrize("tau", [1.0, 100.0])
def test_approximate_likelihood_is_the_reference_in_value_and_gradient(tau: float) -> None:
    student, teacher = logprobs(MINE.shape), logprobs(THEIR.shape)

    def loss(x: Tensor) -> Tensor:
        return approximate_likelihood(x, MINE, teacher, THEIR, tau)

    assert loss(student).item() == pytest.approx(reference_alm(student, teacher, tau), rel=1e-3)
    torch.autograd.gradcheck(loss, student.requires_grad_())
    (gradient,) = torch.autograd.grad(loss(student), student)
    assert gradient[0, 4] == gradient[1, 4] == 0


def test_chunks_that_are_as_likely_cost_nothing_however_they_are_cut() -> None:
    student = torch.tensor([[-0.5, -0.25, -0.1, 0.0]])
    teacher = torch.tensor([[-0.75, -0.1, -0.0]])
    mine, theirs = torch.tensor([[0, 0, 1, 2]]), torch.tensor([[0, 1, 2]])
    assert approximate_likelihood(student, mine, teacher, theirs).item() == pytest.approx(0, abs=1e-7)
    assert approximate_likelihood(student * 2, mine, teacher, theirs).item() > 1e-3


def test_likelihoods_of_one_and_of_nearly_nothing_have_finite_gradients() -> None:
    for student in (0.0, -1e-8, -1e4):
        for teacher in (0.0, -1e-8, -1e4):
            x = torch.full((1, 1), student, requires_grad=True)
            loss = approximate_likelihood(x, torch.zeros(1, 1, dtype=torch.int64), torch.full((1, 1), teacher),
                                          torch.zeros(1, 1, dtype=torch.int64))  # fmt: skip
            (gradient,) = torch.autograd.grad(loss, x)
            assert loss.isfinite() and gradient.isfinite().all() and (loss > 1e-9) == (abs(student - teacher) > 1)


def test_padding_and_order_of_texts_change_no_likelihood() -> None:
    student, teacher = logprobs(MINE.shape), logprobs(THEIR.shape)
    expected = approximate_likelihood(student, MINE, teacher, THEIR)
    more = torch.full((2, 3), -1)
    padded = torch.cat([student, torch.full((2, 3), -INF)], 1), torch.cat([MINE, more], 1)
    torch.testing.assert_close(approximate_likelihood(*padded, teacher, THEIR), expected)
    torch.testing.assert_close(
        approximate_likelihood(student.flip(0), MINE.flip(0), teacher.flip(0), THEIR.flip(0)), expected
    )
    parts = [approximate_likelihood(student[i], MINE[i], teacher[i], THEIR[i]) for i in ([0], [1])]
    torch.testing.assert_close(sum(parts), expected)


# Sorted probabilities


@pytest.mark.parametrize("sizes", [(7, 5), (5, 7)])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_uld_is_the_reference_in_value_and_gradient(sizes: tuple[int, int], temperature: float) -> None:
    student, teacher = logits(sizes[0]), logits(sizes[1])
    expected = 0.0
    for s, t in zip(student, teacher, strict=True):
        q, p = sorted(softmax(s, temperature), reverse=True), sorted(softmax(t, temperature), reverse=True)
        q, p = q + [0.0] * (7 - len(q)), p + [0.0] * (7 - len(p))
        expected += sum(abs(a - b) for a, b in zip(p, q, strict=True))
    checked: Callable[[Tensor], Tensor] = lambda x: uld(x, teacher, temperature)  # noqa: E731
    assert checked(student).item() == pytest.approx(expected, rel=1e-10)
    torch.autograd.gradcheck(checked, student.requires_grad_())


def test_uld_is_zero_for_the_same_probabilities_of_any_tokens_and_sums_the_tails() -> None:
    teacher = torch.tensor([[0.5, 0.3, 0.1, 0.1]]).log()
    assert uld(teacher[:, [2, 0, 3, 1]], teacher).item() == pytest.approx(0, abs=1e-6)
    student = torch.tensor([[0.1, 0.6, 0.1, 0.1, 0.1]]).log()
    kept = Candidates(torch.tensor([[1, 0]]), torch.tensor([[0.3, 0.5]]).log(), torch.tensor([0.2]).log())
    assert uld(student, kept).item() == pytest.approx(0.1 + 0.2 + 0.1)
