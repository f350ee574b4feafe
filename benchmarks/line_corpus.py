"""Drawn timetable lines of one size, on which small TrOCRs learn to read within minutes on a CPU.

The published TrOCRs squeeze a line into 384x384; models of a few hundred thousand weights learn that slowly, so these
lines are drawn at the size that the small models take, and nothing is squeezed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tdtrain.data.pack import pack
from tdtrain.data.pack_options import PackOptions
from tdtrain.data.sample.fonts import characters_of, packaged_faces
from tdtrain.data.sample.vocabulary import languages

HEIGHT, WIDTH = 32, 192
LANGUAGES = ("de", "en", "fr", "cs")
LONGEST = 20


def line_texts(num: int, seed: int, among: Sequence[str] = LANGUAGES, invented: float = 0.0) -> list[str]:
    """Lines as timetables have them: times, subjects with rooms, names, days, classes; at most LONGEST characters.

    Args:
        among: languages of the words.
        invented: share of the lines that have no words but letters in any order, with the letters of all languages in
            Latin script. Who learns these reads letters, and knows no words by heart.
    """
    rng, texts = random.Random(seed), []
    while len(texts) < num:
        text = _invented(rng) if rng.random() < invented else _text(rng, languages()[rng.choice(among)])
        if len(text) <= LONGEST:
            texts.append(text)
    return texts


@cache
def _letters() -> str:
    """Small Latin letters of all languages' words, as often as they come."""
    told = "".join(
        "".join(words.subjects + words.surnames + words.days + words.stops) for words in languages().values()
    )
    return "".join(letter for letter in told.lower() if letter.isalpha() and letter < "\u0250")


def _invented(rng: random.Random) -> str:
    often = _letters()
    every = sorted(set(often))
    words = []
    for _ in range(rng.randint(1, 3)):
        letters = often if rng.random() < 0.5 else every
        word = "".join(rng.choice(letters) for _ in range(rng.randint(2, 9)))
        word = rng.choice((word, word.capitalize(), word.capitalize(), word.upper()))
        words.append(rng.choice((word, word, f"({word})", f"{word}.", str(rng.randint(1, 9999)))))
    return " ".join(words)


def _text(rng: random.Random, words) -> str:
    rooms = (
        f"{rng.choice('ABCDE')}{rng.randint(1, 399)}",
        f"{rng.choice('ABN')}{rng.randint(0, 4)}.{rng.randint(1, 29)}",
    )
    room = rng.choice(rooms)
    start, length = rng.randrange(7 * 60, 18 * 60, 5), rng.choice((45, 50, 60, 90))
    clock = rng.choice(("{}:{:02}", "{:02}:{:02}", "{}.{:02}"))
    first, last = (clock.format(*divmod(minutes, 60)) for minutes in (start, start + length))
    kinds = (
        lambda: f"{rng.choice(words.subjects)} ({room})",
        lambda: f"{rng.choice(words.subjects_short)} {room}",
        lambda: f"{first}{rng.choice(('–', ' – ', '-', ' - '))}{last}",
        lambda: f"{rng.choice(words.days_short)} {first} {rng.choice(words.subjects_short)}",
        lambda: f"{rng.choice(words.honorifics)} {rng.choice(words.surnames)}".strip(),
        lambda: rng.choice(words.days),
        lambda: f"{words.class_word} {rng.randint(1, 13)}{rng.choice('abcd')}",
        lambda: f"{rng.randint(1, 28)}.{rng.randint(1, 12)}.{rng.randint(2019, 2027)}",
        lambda: f"{words.line_word} {rng.randint(1, 399)} {first}",
    )
    return rng.choice(kinds)()


def draw(text: str, rng: np.random.Generator, fonts: list[Path]) -> np.ndarray:
    """The text on a canvas of HEIGHT x WIDTH, uint8 RGB: some font, size, place, paper and ink, a little damage."""
    path, size = str(fonts[rng.integers(len(fonts))]), int(rng.integers(17, 23))
    font = ImageFont.truetype(path, size)
    while font.getlength(text) > WIDTH - 6 and size > 8:
        size -= 1
        font = ImageFont.truetype(path, size)
    paper, ink = int(rng.integers(200, 256)), int(rng.integers(0, 90))
    image = Image.new("L", (WIDTH, HEIGHT), paper)
    spare = WIDTH - font.getlength(text) - 2
    place = int(rng.integers(2, max(3, min(12, spare)))), HEIGHT // 2 + int(rng.integers(-2, 3))
    ImageDraw.Draw(image).text(place, text, fill=ink, font=font, anchor="lm")
    pixels = np.asarray(image).astype(np.float32)
    if rng.random() < 0.4:
        pixels = cv2.GaussianBlur(pixels, (0, 0), float(rng.uniform(0.3, 1.0)))
    pixels += rng.normal(0, rng.uniform(0, 12), pixels.shape)
    return np.repeat(np.clip(pixels, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def photographed(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The line as a camera sees it: askew, in uneven light, out of focus, compressed."""
    corners = np.array([[0, 0], [WIDTH, 0], [WIDTH, HEIGHT], [0, HEIGHT]], np.float32)
    moved = corners + rng.uniform(-3.5, 3.5, (4, 2)).astype(np.float32)
    edge = tuple(int(value) for value in np.median(image.reshape(-1, 3), axis=0))
    view = cv2.getPerspectiveTransform(corners, moved)
    seen = cv2.warpPerspective(image, view, (WIDTH, HEIGHT), borderMode=cv2.BORDER_CONSTANT, borderValue=edge)
    light = np.linspace(rng.uniform(0.55, 1.0), rng.uniform(0.55, 1.0), WIDTH)[None, :, None]
    seen = cv2.GaussianBlur(seen * light, (0, 0), float(rng.uniform(0.5, 1.3)))
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 60))]
    return cv2.imdecode(cv2.imencode(".jpg", seen.clip(0, 255).astype(np.uint8), quality)[1], cv2.IMREAD_COLOR)


def write_corpus(
    folder: Path,
    num: int,
    annotated: int,
    seed: int,
    languages: Sequence[str] = LANGUAGES,
    camera: bool = False,
    invented: float = 0.0,
    validation_share: float = 0.05,
) -> Path:
    """Packs `num` drawn lines, the first `annotated` with their text.

    Args:
        camera: the lines are `photographed`.
        invented: see `line_texts`.

    Returns: the folder of the packed corpus; the same arguments find it again.
    Raises: ValueError where the folder has a corpus of other arguments.
    """
    packed = folder / "lines"
    asked = json.dumps([num, annotated, seed, list(languages), camera, invented, validation_share])
    if (packed / "manifest.json").exists():
        if (folder / "arguments.json").read_text() != asked:
            raise ValueError(f"{folder} has lines of other arguments; remove it, or give another output_dir")
        return packed
    (folder / "corpus/images").mkdir(parents=True, exist_ok=True)
    (folder / "corpus/annotations").mkdir(exist_ok=True)
    texts, rng = line_texts(num, seed, languages, invented), np.random.default_rng(seed)
    needed = {ord(character) for text in texts for character in text}
    fonts = [path for path in packaged_faces() if needed <= characters_of(path)]
    for i, text in enumerate(texts):
        image = draw(text, rng, fonts)
        Image.fromarray(photographed(image, rng) if camera else image).save(
            folder / f"corpus/images/{i:06}.png", compress_level=1
        )
        if i < annotated:
            (folder / f"corpus/annotations/{i:06}.txt").write_text(text, encoding="utf-8")
    (folder / "arguments.json").write_text(asked)
    pack(folder / "corpus", packed, PackOptions(corpus_kind="lines", validation_share=validation_share, test_share=0.1))
    return packed
