"""Augmentation: the same for the same row, epoch and seed, different otherwise, and never in geometry."""

from __future__ import annotations

import numpy as np

from tdtrain.data.augment import augment
from tests.models_small import draw_line

LINE = draw_line("Mo 8:05 Mathe 204", height=40)


def test_row_epoch_and_seed_decide_it() -> None:
    first = augment(LINE, "row", 0, 0)
    assert np.array_equal(first, augment(LINE.copy(), "row", 0, 0))
    for other in (("row", 1, 0), ("row", 0, 1), ("another", 0, 0)):
        assert any(
            not np.array_equal(augment(LINE, f"{other[0]}{i}", *other[1:]), augment(LINE, f"row{i}", 0, 0))
            for i in range(8)
        )


def test_it_keeps_size_and_place() -> None:
    """Ink stays in its columns: frames of a stored teacher stay aligned."""
    ink = np.abs(LINE.astype(int) - LINE[0, 0].astype(int)).sum((0, 2)) > 200
    changed, distances = 0, []
    for i in range(60):
        image = augment(LINE, f"row{i}", 0, 0)
        assert image.shape == LINE.shape and image.dtype == np.uint8
        changed += not np.array_equal(image, LINE)
        columns = image.astype(float).std(0).sum(1)
        distances.append(columns[ink].mean() - columns[~ink].mean())
    assert 35 <= changed < 60
    assert np.mean(np.array(distances) > 0) > 0.9
