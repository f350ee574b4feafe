"""A recorded network gives what the network gave, at any width and batch size, and is no longer tied to it."""

from __future__ import annotations

import pytest
import torch

from tdtrain.models.ppocr import PPOCRReader, load_ppocr
from tdtrain.models.ppocr_student import fresh_ppocr
from tdtrain.models.reader import read_images
from tests.models_small import draw_line

LETTERS = "0123456789:-aehimort"


@pytest.fixture(scope="module", params=["ppocrv6-small", "ppocrv6-tiny", "nano"])
def reader(request: pytest.FixtureRequest) -> PPOCRReader:
    return fresh_ppocr("nano", LETTERS) if request.param == "nano" else load_ppocr(request.param)


@pytest.mark.parametrize(("lines", "width"), [(1, 16), (1, 520), (2, 320), (7, 104)])
def test_it_gives_the_network_s_logits(reader: PPOCRReader, lines: int, width: int) -> None:
    frozen = reader.frozen()
    assert frozen.graph is not None
    pixels = torch.randn(lines, 3, 48, width, generator=torch.Generator().manual_seed(width))
    with torch.inference_mode():
        torch.testing.assert_close(frozen.graph(pixels), reader.module(pixels).logits, atol=2e-3, rtol=1e-3)


def test_readings_agree_and_later_training_changes_nothing(reader: PPOCRReader) -> None:
    images = [draw_line(text) for text in ("8:05 mathe", "10:15", "7", "mathe 12 heim")]
    frozen = reader.frozen()
    before = read_images(frozen, images)
    assert [r.text for r in before] == [r.text for r in read_images(reader, images)]
    with torch.no_grad():
        reader.module.head.bias += torch.linspace(0, 5, len(reader.module.head.bias))
    try:
        assert read_images(frozen, images) == before
        assert read_images(reader, images) != before
    finally:
        with torch.no_grad():
            reader.module.head.bias -= torch.linspace(0, 5, len(reader.module.head.bias))


def test_recording_leaves_a_module_in_training_as_it_was() -> None:
    reader = fresh_ppocr("nano", LETTERS)
    reader.module.train()
    reader.frozen()
    assert reader.module.training and all(p.requires_grad for p in reader.module.parameters())
