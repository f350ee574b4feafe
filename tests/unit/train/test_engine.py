"""The optimizer step against its formulas: schedule, weight decay, clipping."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tdtrain.options import Optimisation
from tdtrain.train import loop
from tdtrain.train.engine import TorchEngine, parameter_groups, schedule
from tdtrain.train.state import State


def test_the_learning_rate_rises_and_then_follows_a_cosine_to_zero() -> None:
    optimisation = Optimisation(learning_rate=0.2, warmup_share=0.1)
    rates = [schedule(step, 100, optimisation) for step in range(101)]
    assert rates[:10] == pytest.approx([0.02 * (step + 1) for step in range(10)])
    assert rates[10] == pytest.approx(0.2) and rates[55] == pytest.approx(0.1) and rates[100] == pytest.approx(0)
    assert all(later < earlier for earlier, later in pairwise(rates[10:]))
    assert rates[40] == pytest.approx(0.1 * (1 + math.cos(math.pi / 3)))


def test_only_matrices_and_convolutions_decay() -> None:
    module = nn.Sequential(nn.Conv1d(2, 3, 1), nn.BatchNorm1d(3), nn.Linear(4, 5))
    module[2].bias.requires_grad_(False)
    decayed, free = parameter_groups(module, 0.1)
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    assert [tuple(p.shape) for p in decayed["params"]] == [(3, 2, 1), (5, 4)]
    assert [tuple(p.shape) for p in free["params"]] == [(3,), (3,), (3,)]


@pytest.mark.parametrize("size", [0.01, 100.0])
def test_a_step_is_adamw_on_the_clipped_gradient(size: float) -> None:
    """Loshchilov and Hutter 2019, algorithm 2, by hand in float64; a first step alone is only a sign."""
    start = torch.tensor([[0.5, -1.0, 2.0]], dtype=torch.float64)
    slopes = [size * torch.tensor([[1.0, -2.0, 2.0]], dtype=torch.float64), torch.tensor([[0.1, 0.0, 0.3]]).double()]
    module = nn.Linear(3, 1, bias=False).double()
    module.weight.data.copy_(start)
    optimisation = Optimisation(max_grad_norm=1.5, weight_decay=0.1, precision="fp32")
    engine = TorchEngine(module, parameter_groups(module, optimisation.weight_decay), optimisation)
    weight, first, second = start.clone(), torch.zeros(1, 3).double(), torch.zeros(1, 3).double()
    for number, slope in enumerate(slopes, 1):
        engine.backward((module.weight * slope).sum())
        assert engine.step(0.01) == pytest.approx(float(slope.norm()))
        clipped = slope * min(1.0, 1.5 / (float(slope.norm()) + 1e-6))
        first = 0.9 * first + 0.1 * clipped
        second = 0.999 * second + 0.001 * clipped**2
        moved = (first / (1 - 0.9**number)) / ((second / (1 - 0.999**number)).sqrt() + 1e-8)
        weight = weight - 0.01 * 0.1 * weight - 0.01 * moved
    torch.testing.assert_close(module.weight.data, weight, rtol=1e-7, atol=1e-9)


def test_a_gradient_that_is_no_number_moves_nothing() -> None:
    module = nn.Linear(3, 1)
    before = module.weight.detach().clone()
    optimisation = Optimisation(precision="fp32")
    engine = TorchEngine(module, parameter_groups(module, 0.1), optimisation)
    engine.backward(module.weight.sum() * float("inf"))
    assert not math.isfinite(engine.step(0.1))
    assert torch.equal(module.weight, before)


def test_a_trial_that_goes_on_from_anothers_weights_keeps_its_own_settings(tmp_path: Path) -> None:
    module, optimisation = nn.Linear(3, 1), Optimisation(precision="fp32")
    donor = TorchEngine(module, parameter_groups(module, 0.1), optimisation)
    donor.backward(module.weight.sum())
    donor.step(0.1)
    donor.save(tmp_path)
    mine = TorchEngine(module, parameter_groups(module, 0.5), optimisation)
    wanted = [(group["weight_decay"], group["lr_ratio"]) for group in mine._optimizer.param_groups]
    mine.load(tmp_path)
    assert [(group["weight_decay"], group["lr_ratio"]) for group in mine._optimizer.param_groups] == wanted
    assert wanted[0][0] == 0.5 and len(mine._optimizer.state) == 1


def test_spent_patience_stays_spent_after_a_resume() -> None:
    nothing: Any = None
    schedule_ = loop.Schedule(10, 5.0, frozenset({5, 10}), lambda step: 0.1, 1, patience=2)
    state = State(step=5, best_score=0.1, evaluations_without_gain=2)
    ended = loop.train(state, schedule_, nothing, nothing, iter(()), None, nothing, nothing, nothing)
    assert ended.step == 5
