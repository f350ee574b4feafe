"""Small corpora of pages for the tests of packing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Placed = tuple[str, tuple[int, int, int, int]]


def draw_page(texts: list[str], columns: int = 3, size: int = 26) -> tuple[Image.Image, list[Placed]]:
    """Texts in a grid, with the rectangle of each."""
    font = ImageFont.load_default(size)
    rows = -(-len(texts) // columns)
    page = Image.new("RGB", (60 + 220 * columns, 60 + 60 * rows), "white")
    draw, placed = ImageDraw.Draw(page), []
    for i, text in enumerate(texts):
        at = (40 + 220 * (i % columns), 40 + 60 * (i // columns))
        draw.text(at, text, "black", font)
        x0, y0, x1, y1 = draw.textbbox(at, text, font)
        placed.append((text, (int(x0), int(y0), int(x1), int(y1))))
    return page, placed


def corners(box: tuple[int, int, int, int]) -> list[list[int]]:
    x0, y0, x1, y1 = box
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]


def boxed_corpus(root: Path, num: int, annotated: int | None = None, first: int = 0) -> Path:
    """Noise pages of two boxes each, so that no detector is needed; the first `annotated` say what the boxes hold."""
    for folder in ("images", "boxes"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for i in range(first, num):
        noise = np.random.default_rng(i).integers(0, 255, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(root / f"images/{i:03}.png")
        told = annotated is None or i < annotated
        texts = [f"{i:02}:00", f"Übung {i}"] if told else [None, None]
        lines = [
            {"text": text, "quad": corners(box), "field": "time"}
            for text, box in zip(texts, [(2, 2, 30, 12), (2, 15, 30, 25)], strict=True)
        ]
        (root / f"boxes/{i:03}.json").write_text(json.dumps({"lines": lines, "tags": {"damage": "none"}}))
    return root


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
