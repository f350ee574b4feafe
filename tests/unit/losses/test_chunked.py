"""The chunked loss against the whole computation in float64: every mode, value and gradients."""

from __future__ import annotations

import inspect
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tdtrain.losses.chunked import Teacher, distillation_loss
from tdtrain.losses.divergence import LEAST, Divergence, summed
from tdtrain.losses.signal import Candidates, HeadOf
from tdtrain.models.reader import IGNORED

N, D, V, E, K = 7, 3, 6, 4, 3
ALPHA = 0.3
MIXES = {
    "forward": Divergence(),
    "reverse": Divergence(0.0, reverse_kl=1.0),
    "skew": Divergence(0.0, skew_kl=1.0, skew=0.3),
    "skew reverse": Divergence(0.0, skew_reverse_kl=1.0),
    "jsd": Divergence(0.0, jsd=1.0, beta=0.3),
    "mixed": Divergence(0.2, 0.3, 0.1, 0.4, 0.5),
}


def double(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


class Case:
    def __init__(self) -> None:
        self.hidden, self.weight, self.bias = (double(*shape).requires_grad_() for shape in ((N, D), (V, D), (V,)))
        self.labels = torch.randint(0, V, (N,))
        self.labels[2] = IGNORED
        self.soft, self.hard = torch.rand(2, N, dtype=torch.float64)
        self.soft[1] = 0
        self.head = HeadOf(double(N, E), double(V, E), double(V))

    def teacher_logits(self) -> Tensor:
        return self.head.hidden @ self.head.weight.T + self.head.bias

    def teachers(self, temperature: float) -> dict[str, Teacher | None]:
        log_p = self.teacher_logits().log_softmax(-1)
        softened = (self.teacher_logits() / temperature).log_softmax(-1)
        values, ids = softened.topk(K, -1)
        tail = torch.log1p(-values.exp().sum(-1))
        everything, every_id = log_p.topk(V, -1)
        return {
            "none": None,
            "head": self.head,
            "candidates": Candidates(ids, log_p.gather(1, ids)),
            "with a tail": Candidates(ids, values, tail, softened=True),
            "all": Candidates(every_id, everything),
        }

    def loss(self, teacher: Teacher | None, temperature: float, mix: Divergence, chunk: int = 3) -> Tensor:
        weights = (self.hidden, self.weight, self.bias)
        return distillation_loss(*weights, self.labels, teacher, self.soft, self.hard, ALPHA, temperature, mix, chunk)[
            0
        ]


def classes(case: Case, teacher: Teacher, temperature: float, mix: Divergence) -> tuple[Tensor, Tensor]:
    """p and q by class, of the whole logits: what the chunked loss compares."""
    logits = case.hidden @ case.weight.T + case.bias
    q = (logits / temperature).softmax(-1)
    if isinstance(teacher, HeadOf):
        return (case.teacher_logits() / temperature).softmax(-1), q
    log_p, q_kept = teacher.logprobs, q.gather(1, teacher.ids)
    if teacher.tail is not None:
        log_p = torch.cat([log_p, teacher.tail[:, None]], 1)
    p = (log_p if teacher.softened else log_p / temperature).softmax(-1)
    if teacher.tail is None and not mix.only_forward:
        p = torch.cat([p, torch.zeros(N, 1)], 1)
    if p.shape[1] > q_kept.shape[1]:
        q_kept = torch.cat([q_kept, 1 - q_kept.sum(-1, keepdim=True)], 1)
    return p, q_kept


def reference(case: Case, teacher: Teacher | None, temperature: float, mix: Divergence) -> Tensor:
    logits = case.hidden @ case.weight.T + case.bias
    total = (F.cross_entropy(logits, case.labels, reduction="none", ignore_index=IGNORED) * case.hard).sum()
    if teacher is None:
        return total
    total = (1 - ALPHA) * total
    p, q = classes(case, teacher, temperature, mix)

    def kl(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(a > 1e-12, a * (a.clamp(min=1e-300) / b.clamp(min=1e-300)).log(), 0.0).sum(-1)

    soft = mix.forward_kl * kl(p, q) + mix.reverse_kl * kl(q, p.clamp(min=math.exp(LEAST)))
    soft = soft + mix.skew_kl * kl(p, mix.skew * p + (1 - mix.skew) * q)
    soft = soft + mix.skew_reverse_kl * kl(q, mix.skew * q + (1 - mix.skew) * p)
    middle = mix.beta * p + (1 - mix.beta) * q
    soft = soft + mix.jsd * (mix.beta * kl(p, middle) + (1 - mix.beta) * kl(q, middle))
    return total + ALPHA * temperature**2 * (soft * case.soft).sum()


@pytest.mark.parametrize(("name", "temperature"), itertools.product(MIXES, [1.0, 3.0]))
def test_value_and_gradients_equal_the_whole_computation(name: str, temperature: float) -> None:
    case, mix = Case(), MIXES[name]
    weights = (case.hidden, case.weight, case.bias)
    for kind, teacher in case.teachers(temperature).items():
        if kind == "all" and not mix.only_forward:
            continue  # its rest is zero, and the reference's 1 - 1 is noise
        mine, theirs = case.loss(teacher, temperature, mix), reference(case, teacher, temperature, mix)
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)
        for own, whole in zip(torch.autograd.grad(mine, weights), torch.autograd.grad(theirs, weights), strict=True):
            torch.testing.assert_close(own, whole, rtol=1e-7, atol=1e-9)
        assert torch.autograd.gradcheck(lambda *_: case.loss(teacher, temperature, mix), weights)  # noqa: B023


@pytest.mark.parametrize("name", MIXES)
def test_all_candidates_are_the_whole_teacher(name: str) -> None:
    case = Case()
    whole, stored = (case.loss(case.teachers(2.0)[kind], 2.0, MIXES[name]) for kind in ("head", "all"))
    torch.testing.assert_close(whole, stored, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", MIXES)
def test_it_is_zero_at_equality(name: str) -> None:
    case = Case()
    teacher = HeadOf(case.hidden.detach(), case.weight.detach(), case.bias.detach())
    none, ones = torch.zeros(N, dtype=torch.float64), torch.ones(N, dtype=torch.float64)
    loss, *_ = distillation_loss(
        case.hidden, case.weight, case.bias, case.labels, teacher, ones, none, 0.5, 2.0, MIXES[name], 2
    )
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert torch.autograd.grad(loss, case.hidden)[0].abs().max() < 1e-12


def test_the_chunk_s_size_changes_nothing() -> None:
    case = Case()
    teacher = case.teachers(2.0)["with a tail"]
    for chunk in (1, 4, 100):
        torch.testing.assert_close(
            case.loss(teacher, 2.0, MIXES["mixed"], chunk), case.loss(teacher, 2.0, MIXES["mixed"])
        )


def test_no_position_at_all_is_no_loss() -> None:
    case = Case()
    empty = (case.hidden[:0], case.weight, case.bias, case.labels[:0], case.head.at(slice(0)), case.soft[:0])
    loss, *_ = distillation_loss(*empty, case.hard[:0], ALPHA)
    loss.backward()
    assert loss.item() == 0 and case.weight.grad.abs().max() == 0


def test_soft_and_hard_parts_add_up_and_an_untaught_line_breaks_nothing() -> None:
    case = Case()
    teacher = case.teachers(1.0)["candidates"]
    teacher.logprobs[3] = -torch.inf
    arguments = (case.hidden, case.weight, case.bias, case.labels, teacher, case.soft, case.hard, ALPHA)
    total, soft, hard = distillation_loss(*arguments)
    assert total.item() == pytest.approx(ALPHA * soft.item() + (1 - ALPHA) * hard.item()) and not soft.requires_grad
    (2 * total).backward()
    assert torch.isfinite(case.hidden.grad).all()
    without = case.soft.clone()
    without[3] = 0
    assert distillation_loss(*arguments[:5], without, case.hard, ALPHA)[0].item() == pytest.approx(total.item())


def test_bf16_is_multiplied_in_bf16_and_added_up_in_fp32() -> None:
    torch.manual_seed(1)
    hidden, weight = torch.randn(300, 64), torch.randn(500, 64) / 8
    teacher, their_weight = torch.randn(300, 32), torch.randn(500, 32) / 4
    labels, ones = torch.randint(0, 500, (300,)), torch.full((300,), 1 / 300)

    def run(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        low = [x.to(dtype).requires_grad_() for x in (hidden, weight)]
        target = HeadOf(teacher.to(dtype), their_weight.to(dtype))
        loss, *_ = distillation_loss(*low, None, labels, target, ones, ones, ALPHA)
        loss.backward()
        return loss.detach(), low[0].grad, low[1].grad

    exact, rounded = run(torch.float64), run(torch.bfloat16)
    assert rounded[0].dtype == torch.float32 and rounded[2].dtype == torch.bfloat16
    assert rounded[0].item() == pytest.approx(exact[0].item(), rel=2e-3)
    for low, high in zip(rounded[1:], exact[1:], strict=True):
        assert (low.double() - high).norm() / high.norm() < 1e-2


def test_fp32_weights_meet_bf16_hidden_states_as_under_autocast() -> None:
    hidden, weight = torch.randn(5, 8, requires_grad=True), torch.randn(11, 8, requires_grad=True)
    labels, ones = torch.randint(0, 11, (5,)), torch.ones(5)
    loss, *_ = distillation_loss(hidden.bfloat16(), weight, None, labels, None, ones, ones, ALPHA)
    loss.backward()
    with torch.autocast("cpu", torch.bfloat16):
        logits = F.linear(hidden, weight)
    assert loss.item() == pytest.approx(F.cross_entropy(logits.float(), labels, reduction="sum").item(), rel=1e-5)
    assert weight.grad.dtype == torch.float32


def test_a_frozen_head_gets_no_gradient() -> None:
    case = Case()
    loss, *_ = distillation_loss(
        case.hidden, case.weight.detach(), None, case.labels, case.head, case.soft, case.hard, ALPHA
    )
    loss.backward()
    assert case.hidden.grad is not None and case.weight.grad is None


class TinyModel(nn.Module):
    """Embedding, a layer, and a head that is the embedding (tied) or its own."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.embed, self.layer = nn.Embedding(V, D), nn.Linear(D, D)
        self.head = nn.Linear(D, V, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids: Tensor, teacher: Teacher, weights: Tensor) -> Tensor:
        hidden = checkpoint(lambda i: self.layer(self.embed(i)).tanh(), ids, use_reentrant=False)
        unchecked = inspect.unwrap(distillation_loss)  # beartype cannot be compiled
        return unchecked(hidden, self.head.weight, None, ids, teacher, weights, weights, ALPHA, chunk=2)[0]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("way", ["plain", "compiled", "checkpointed"])
def test_tied_heads_compilation_and_activation_checkpointing(tied: bool, way: str) -> None:
    model = TinyModel(tied).double()
    ids, teacher, weights = torch.arange(V), HeadOf(double(V, E), double(V, E)), torch.rand(V, dtype=torch.float64)
    logits = model.head(model.layer(model.embed(ids)).tanh())
    log_q, log_p = logits.log_softmax(-1), (teacher.hidden @ teacher.weight.T).log_softmax(-1)
    soft = (log_p.exp() * (log_p - log_q)).sum(-1)
    hard = F.cross_entropy(logits, ids, reduction="none")
    whole = (weights * (ALPHA * soft + (1 - ALPHA) * hard)).sum()
    expected = torch.autograd.grad(whole, list(model.parameters()))
    call = torch.compile(model, backend="aot_eager") if way == "compiled" else model
    if way == "checkpointed":
        mine = checkpoint(model, ids, teacher, weights, use_reentrant=False)
    else:
        mine = call(ids, teacher, weights)
    torch.testing.assert_close(mine, whole)
    for own, theirs in zip(torch.autograd.grad(mine, list(model.parameters())), expected, strict=True):
        torch.testing.assert_close(own, theirs)


def test_what_is_reported_is_not_rounded_by_autocast() -> None:
    p = torch.tensor([[0.999, 0.001]])
    values = torch.tensor([[8.001, -3.0]])
    plain = summed(p, values)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(summed(p, values), plain)
    torch.testing.assert_close(plain, (p * values).sum(-1))
