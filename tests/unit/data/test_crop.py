"""Crops against plain slicing and a known homography."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from tdtrain.data.crop import crop_line, encode_png, is_tall

PAGE = np.random.default_rng(0).integers(0, 255, (80, 120, 3), dtype=np.uint8)


def quad(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float32)


def test_upright_quad_is_a_slice_at_native_resolution() -> None:
    assert np.array_equal(crop_line(PAGE, quad(10, 20, 70, 40), margin=0), PAGE[20:40, 10:70])


def test_margin_is_a_share_of_the_height() -> None:
    assert np.array_equal(crop_line(PAGE, quad(10, 20, 70, 40), margin=0.1), PAGE[18:42, 8:72])


def test_margin_beyond_the_page_repeats_its_edge() -> None:
    line = crop_line(PAGE, quad(0, 0, 60, 20), margin=0.1)
    assert line.shape == (24, 64, 3) and np.array_equal(line[2:, 2:], PAGE[:22, :62])


def test_skewed_line_is_rectified() -> None:
    smooth = cv2.GaussianBlur(PAGE, (0, 0), 3)
    turn = cv2.getRotationMatrix2D((60, 40), 20, 1)
    skewed = cv2.warpAffine(smooth, turn, (120, 80), flags=cv2.INTER_CUBIC).astype(np.uint8)
    corners = cv2.transform(quad(40, 30, 80, 50)[None], turn)[0]
    line = crop_line(skewed, corners, margin=0)
    assert line.shape == (20, 40, 3)
    assert np.abs(line.astype(int) - smooth[30:50, 40:80].astype(int)).mean() < 2


def test_png_keeps_every_pixel_in_rgb() -> None:
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_png(PAGE)))), PAGE)


@pytest.mark.parametrize(("height", "tall"), [(15, False), (16, True)])
def test_tall(height: int, tall: bool) -> None:
    assert is_tall(np.zeros((height, 10, 3), np.uint8)) is tall
