"""Every loss against a plain float64 reference written out in loops, in value and in gradient."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from tdtrain.losses.ctc import ctc, frames_needed
from tdtrain.losses.kl import forward_kl, forward_kl_candidates
from tdtrain.losses.objective import Counts, Objective, Targets
from tdtrain.losses.signal import Candidates, HeadOf
from tdtrain.models.reader import IGNORED, ReaderOutput


def softmax(row: Tensor, temperature: float) -> list[float]:
    exps = [math.exp(float(value) / temperature) for value in row]
    return [value / sum(exps) for value in exps]


def reference_kl(student: Tensor, teacher: Tensor, temperature: float) -> float:
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        p, q = softmax(t, temperature), softmax(s, temperature)
        total += sum(pi * math.log(pi / qi) for pi, qi in zip(p, q, strict=True))
    return temperature**2 * total


def numerical_gradient(function, at: Tensor, epsilon: float = 1e-5) -> Tensor:
    gradient = torch.zeros_like(at)
    for index in itertools.product(*map(range, at.shape)):
        up, down = at.clone(), at.clone()
        up[index] += epsilon
        down[index] -= epsilon
        gradient[index] = (function(up) - function(down)) / (2 * epsilon)
    return gradient


@pytest.mark.parametrize("temperature", [0.5, 1.0, 5.0])
def test_forward_kl_equals_the_reference_in_value_and_gradient(temperature: float) -> None:
    student, teacher = torch.randn(4, 6, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64) * 2
    leaf = student.clone().requires_grad_()
    loss = forward_kl(leaf, teacher, temperature)
    loss.backward()
    assert loss.item() == pytest.approx(reference_kl(student, teacher, temperature), rel=1e-5)
    numerical = numerical_gradient(lambda x: reference_kl(x, teacher, temperature), student)
    torch.testing.assert_close(leaf.grad, numerical, rtol=1e-4, atol=1e-5)


def test_kl_is_zero_at_equality_and_positive_elsewhere() -> None:
    logits = torch.randn(5, 9)
    assert forward_kl(logits, logits + 3.0, 2.0).item() == pytest.approx(0, abs=1e-5)
    assert forward_kl(logits, torch.randn(5, 9), 2.0).item() > 0.1


def test_the_factor_t_squared_keeps_the_gradient_s_size() -> None:
    """For T far above the logits T^2 KL tends to |z_t - z_s|^2 / 2V (zero-mean logits): Hinton et al., section 2.1."""
    student, teacher = torch.randn(1, 8, dtype=torch.float64), torch.randn(1, 8, dtype=torch.float64)
    student, teacher = student - student.mean(), teacher - teacher.mean()
    limit = float(((student - teacher) ** 2).sum() / 16)
    assert forward_kl(student.float(), teacher.float(), 100.0).item() == pytest.approx(limit, rel=0.05)


def test_a_token_the_teacher_excludes_costs_nothing_and_breaks_nothing() -> None:
    student = torch.randn(3, 5, requires_grad=True)
    teacher = torch.randn(3, 5)
    teacher[:, 2] = -torch.inf
    forward_kl(student, teacher, 2.0).backward()
    assert torch.isfinite(student.grad).all()


def test_candidates_with_every_token_are_the_whole_distribution() -> None:
    student, teacher = torch.randn(6, 7), torch.randn(6, 7)
    values, ids = teacher.log_softmax(-1).topk(7, dim=-1)
    whole = forward_kl(student, teacher, 3.0)
    torch.testing.assert_close(forward_kl_candidates(student, ids, values, 3.0), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 5.0])
def test_candidates_are_taught_among_themselves_and_the_rest_keeps_its_share(temperature: float) -> None:
    student, teacher = torch.randn(4, 9), torch.randn(4, 9)
    values, ids = teacher.log_softmax(-1).topk(3, dim=-1)
    expected = 0.0
    for s, kept, logprobs in zip(student, ids.tolist(), values, strict=True):
        of_all, told, among = softmax(s, 1.0), softmax(logprobs, temperature), softmax(s[kept], temperature)
        expected += temperature**2 * sum(p * math.log(p / q) for p, q in zip(told, among, strict=True))
        expected -= math.log(sum(of_all[i] for i in kept))
    assert forward_kl_candidates(student, ids, values, temperature).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 5.0, 10.0])
def test_a_student_that_is_as_its_stored_teacher_has_nothing_to_learn(temperature: float) -> None:
    """Softened, the 92 characters that are not kept have more than half of the mass; that must push nothing."""
    teacher = torch.randn(6, 100)
    teacher[:, 0] += 16
    student = teacher.clone().requires_grad_()
    values, ids = teacher.log_softmax(-1).topk(8, dim=-1)
    assert (teacher / 5).softmax(-1).gather(-1, ids).sum(-1).max() < 0.5
    loss = forward_kl_candidates(student, ids, values, temperature)
    loss.backward()
    assert 0 <= loss < 1e-3 and student.grad.abs().max() < 1e-3


def test_a_position_without_any_candidate_is_left_out() -> None:
    student = torch.randn(2, 5, requires_grad=True)
    ids = torch.tensor([[1, 2], [0, 0]])
    logprobs = torch.tensor([[-0.1, -2.3], [-torch.inf, -torch.inf]])
    loss = forward_kl_candidates(student, ids, logprobs, 1.0)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(student.grad).all()
    assert (student.grad[1] == 0).all() and (student.grad[0] != 0).any()


def reference_ctc(logits: Tensor, label: list[int]) -> float:
    """-log of the summed probability of all paths that collapse to the label, by enumeration."""
    frames, vocabulary = logits.shape
    probabilities = [softmax(row, 1.0) for row in logits]
    total = 0.0
    for path in itertools.product(range(vocabulary), repeat=frames):
        merged = [token for token, _ in itertools.groupby(path)]
        if [token for token in merged if token != 0] == label:
            total += math.prod(probabilities[t][token] for t, token in enumerate(path))
    return -math.log(total)


def test_ctc_equals_the_sum_over_all_paths() -> None:
    logits = torch.randn(3, 5, 4)
    labels = torch.tensor([[1, 2, IGNORED], [3, 3, IGNORED], [IGNORED, IGNORED, IGNORED]])
    frames = torch.tensor([5, 4, 5])
    expected = reference_ctc(logits[0], [1, 2]) + reference_ctc(logits[1, :4], [3, 3])
    assert ctc(logits, frames, labels).item() == pytest.approx(expected, rel=1e-4)


def test_ctc_refuses_a_text_that_does_not_fit() -> None:
    labels = torch.tensor([[2, 2]])
    assert frames_needed(labels).tolist() == [3]
    with pytest.raises(ValueError, match="fewer frames than their text needs"):
        ctc(torch.randn(1, 2, 4), torch.tensor([2]), labels)


def _batch(size: int, frames: int) -> tuple[ReaderOutput, Targets]:
    generator = torch.Generator().manual_seed(7)
    logits = torch.randn(size, frames, 6, generator=generator, requires_grad=True)
    real = torch.randint(5, frames + 1, (size,), generator=generator)
    labels = torch.randint(1, 6, (size, 2), generator=generator)
    labels[0, 1] = IGNORED
    values, ids = torch.randn(size, frames, 6, generator=generator).log_softmax(-1).topk(3, dim=-1)
    everywhere = torch.ones(size, dtype=torch.bool)
    return ReaderOutput(logits, real), Targets(labels, Candidates(ids, values), taught=everywhere)


def _counts(output: ReaderOutput, targets: Targets) -> Counts:
    return Counts(float(output.frames.sum()), float((targets.labels != IGNORED).sum()))


def test_cutting_a_step_into_parts_changes_no_gradient() -> None:
    output, targets = _batch(6, 9)
    objective = Objective("ctc", temperature=2.0, alpha=0.4)
    counts = _counts(output, targets)
    whole, *_ = objective(output, targets, counts)
    (expected,) = torch.autograd.grad(whole, output.logits, retain_graph=True)
    total = torch.tensor(0.0)
    for rows in (slice(0, 1), slice(1, 4), slice(4, 6)):
        soft = Candidates(targets.soft.ids[rows], targets.soft.logprobs[rows])
        part = Targets(targets.labels[rows], soft, taught=targets.taught[rows])
        total = total + objective(ReaderOutput(output.logits[rows], output.frames[rows]), part, counts)[0]
    (gradient,) = torch.autograd.grad(total, output.logits)
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-7)


def test_padding_changes_nothing() -> None:
    output, targets = _batch(4, 7)
    objective = Objective("ctc", temperature=2.0, alpha=0.4)
    counts = _counts(output, targets)
    padded_logits = torch.cat([output.logits, torch.randn(4, 5, 6)], 1)
    padded_labels = torch.cat([targets.labels, torch.full((4, 3), IGNORED)], 1)
    padded = Targets(padded_labels, targets.soft, taught=targets.taught)
    first = objective(output, targets, counts)
    second = objective(ReaderOutput(padded_logits, output.frames), padded, counts)
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b)


def test_alpha_mixes_and_zero_needs_no_teacher() -> None:
    output, targets = _batch(4, 7)
    counts = _counts(output, targets)
    _, soft, hard = Objective("ctc", 2.0, 0.3)(output, targets, counts)
    assert Objective("ctc", 2.0, 0.3)(output, targets, counts)[0].item() == pytest.approx(
        0.3 * soft.item() + 0.7 * hard.item(), rel=1e-6
    )
    alone = Objective("ctc", 2.0, 0.0)(output, Targets(targets.labels), counts)
    assert alone[0].item() == pytest.approx(hard.item()) and alone[1].item() == 0


def test_lines_the_teacher_did_not_read_are_not_taught() -> None:
    output, targets = _batch(4, 7)
    silent = Targets(targets.labels, targets.soft, taught=torch.tensor([True, False, True, False]))
    loss = Objective("ctc", 1.0, 1.0)(output, silent, _counts(output, targets))[0]
    (gradient,) = torch.autograd.grad(loss, output.logits)
    assert (gradient[1] == 0).all() and (gradient[0] != 0).any()


def test_lines_that_are_not_told_have_no_hard_loss() -> None:
    output, targets = _batch(4, 7)
    told = torch.tensor([True, False, True, True])
    _, _, hard = Objective("ctc", 1.0, 0.0)(output, Targets(targets.labels, told=told), Counts(0.0, 1.0))
    alone = [ctc(output.logits[i : i + 1], output.frames[i : i + 1], targets.labels[i : i + 1]) for i in (0, 2, 3)]
    assert hard.item() == pytest.approx(sum(loss.item() for loss in alone), rel=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_an_autoregressive_step_equals_the_reference_with_and_without_a_ctc_head(alpha: float) -> None:
    """Label positions only, averaged over all of them; the CTC head shares the hard loss (Hori et al. 2017)."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 4, 6, generator=generator, requires_grad=True)
    teacher = 2 * torch.randn(2, 4, 6, generator=generator)
    encoder = torch.randn(2, 5, 4, generator=generator, requires_grad=True)
    labels = torch.tensor([[3, 1, 2, IGNORED], [5, 2, IGNORED, IGNORED]])
    ctc_labels = torch.tensor([[1, 2], [3, IGNORED]])
    places = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    detached = logits.detach()
    soft = sum(reference_kl(detached[b, t][None], teacher[b, t][None], 2.0) for b, t in places) / 5
    cross = -sum(math.log(softmax(detached[b, t], 1.0)[int(labels[b, t])]) for b, t in places)
    paths = reference_ctc(encoder.detach()[0], [1, 2]) + reference_ctc(encoder.detach()[1], [3])
    objective, counts = Objective("autoregressive", 2.0, alpha), Counts(5.0, 5.0)
    targets = Targets(labels, HeadOf(teacher, torch.eye(6)), ctc_labels=ctc_labels)
    head = torch.nn.Linear(6, 6, bias=False)
    torch.nn.init.eye_(head.weight)
    for encoder_logits, hard in ((None, cross / 5), (encoder, (0.5 * cross + 0.5 * paths) / 5)):
        total, of_teacher, of_labels = objective(
            ReaderOutput(None, None, encoder_logits, logits, head), targets, counts
        )
        assert of_labels.item() == pytest.approx(hard, rel=1e-4)
        assert of_teacher.item() == pytest.approx(soft if alpha else 0.0, rel=1e-4)
        assert total.item() == pytest.approx(alpha * soft + (1 - alpha) * hard, rel=1e-4)
        (gradient,) = torch.autograd.grad(total, logits, retain_graph=True)
        assert (gradient[0, 3] == 0).all() and (gradient[1, 2:] == 0).all() and (gradient[0, :3] != 0).any()
