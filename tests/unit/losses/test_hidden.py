"""Encoder matching against loops."""

from __future__ import annotations

import pytest
import torch

from tdtrain.losses.hidden import hidden_match


def test_it_is_one_less_the_cosine_averaged_over_patches() -> None:
    student, teacher = torch.randn(2, 6, 5, requires_grad=True), torch.randn(2, 6, 5)
    expected = 0.0
    for line in range(2):
        for patch in range(6):
            a, b = student[line, patch].detach().double(), teacher[line, patch].double()
            expected += float(1 - (a @ b) / (a.norm() * b.norm())) / 6
    loss = hidden_match(student, teacher, (2, 3), (2, 3))
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=1e-5) and torch.isfinite(student.grad).all()
    assert hidden_match(3 * teacher, teacher, (2, 3), (2, 3)).item() == pytest.approx(0, abs=1e-5)


def test_a_finer_grid_is_resized_to_the_student_s() -> None:
    row, column = torch.arange(4.0)[:, None].expand(4, 6), torch.arange(6.0)[None].expand(4, 6)
    teacher = torch.stack([row, column, torch.full((4, 6), 2.5)], -1).reshape(1, 24, 3)
    coarse = (
        torch.nn.functional.avg_pool2d(teacher.reshape(4, 6, 3).permute(2, 0, 1), 2).permute(1, 2, 0).reshape(1, 6, 3)
    )
    assert hidden_match(coarse, teacher, (2, 3), (4, 6)).item() == pytest.approx(0, abs=5e-3)
    assert hidden_match(coarse.flip(1), teacher, (2, 3), (4, 6)).item() > 0.1
