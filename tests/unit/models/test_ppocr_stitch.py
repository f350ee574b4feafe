"""A student stitched from two readers: it fits exactly what is linear, and reads before it is trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tdtrain.evaluate.metrics import cer
from tdtrain.models.load import load_reader
from tdtrain.models.ppocr import load_ppocr
from tdtrain.models.ppocr_stitch import least_squares, stitch
from tdtrain.models.reader import read_images
from tests.models_small import draw_line, timetable_texts

TEXTS = [text for text in timetable_texts(400) if text.isascii()]
ALPHABET = set("".join(TEXTS))


@pytest.fixture(scope="module")
def lines() -> list[np.ndarray]:
    return [draw_line(text) for text in TEXTS[:150]]


def test_least_squares_equals_numpy_and_finds_what_is_linear() -> None:
    rng = np.random.default_rng(0)
    features, weight, bias = rng.normal(size=(200, 7)) + 3, rng.normal(size=(5, 7)), rng.normal(size=5)
    noisy = features @ weight.T + bias + rng.normal(size=(200, 5))
    for target, tolerance in ((features @ weight.T + bias, 1e-4), (noisy, 1e-3)):
        found, offset = least_squares(torch.from_numpy(features), torch.from_numpy(target))
        with_ones = np.hstack([features, np.ones((200, 1))])
        expected = np.linalg.lstsq(with_ones, target, rcond=None)[0]
        np.testing.assert_allclose(found.numpy(), expected[:-1].T, atol=tolerance)
        np.testing.assert_allclose(offset.numpy(), expected[-1], atol=20 * tolerance)


def test_a_channel_that_never_varies_does_no_harm() -> None:
    features = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    features[:, 1] = 4.0
    weight, bias = least_squares(features, features[:, :1] * 2 + 1)
    assert torch.isfinite(weight).all()
    torch.testing.assert_close(features.double() @ weight.T + bias, features[:, :1].double() * 2 + 1, atol=1e-3, rtol=0)


@pytest.mark.slow
def test_a_stitched_student_reads_before_it_is_trained(lines: list[np.ndarray], tmp_path: Path) -> None:
    student = stitch(ALPHABET, lines)
    unseen = TEXTS[150:200]
    readings = [reading.text for reading in read_images(student, [draw_line(text) for text in unseen])]
    assert cer(unseen, readings) < 0.25
    large = sum(p.numel() for p in load_ppocr("ppocrv6-small").module.parameters())
    assert sum(p.numel() for p in student.module.parameters()) < large / 5
    student.save(tmp_path)
    loaded = load_reader(str(tmp_path))
    assert [reading.text for reading in read_images(loaded, [draw_line(text) for text in unseen])] == readings
    assert not any(norm.training for norm in loaded.module.train().modules() if "BatchNorm" in type(norm).__name__)


@pytest.mark.slow
def test_the_same_lines_give_the_same_student(lines: list[np.ndarray]) -> None:
    states = [stitch(ALPHABET, lines[:40]).module.state_dict() for _ in range(2)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_without_lines_there_is_nothing_to_fit_to() -> None:
    with pytest.raises(ValueError, match="needs some lines"):
        stitch(ALPHABET, [])
