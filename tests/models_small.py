"""Small models and drawn lines for everybody's tests: plain functions, a second or less each."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tdtrain.models.trocr import TrOCRReader
from tdtrain.models.trocr_build import Like, build_trocr
from tdtrain.models.trocr_load import load_trocr

LIKES: tuple[Like, ...] = ("large", "base", "small")
_SUBJECTS = ("Mathe", "Deutsch", "Sport", "Kunst", "Физика", "Čeština", "Français", "Biologie")
_DAYS = ("Mo", "Di", "Mi", "Do", "Fr")


def timetable_texts(num: int, seed: int = 0) -> list[str]:
    """Short timetable lines such as `Mo 8:05 Mathe 204`; the same for the same seed."""
    rng = random.Random(seed)
    return [
        f"{rng.choice(_DAYS)} {rng.randint(7, 17)}:{rng.randrange(0, 60, 5):02d} "
        f"{rng.choice(_SUBJECTS)} {rng.randint(1, 399)}"
        for _ in range(num)
    ]


def draw_line(text: str, height: int = 32, width: int | None = None) -> np.ndarray:
    """The text in black on white, uint8 RGB HxWx3; as wide as it needs where no width is given."""
    font = _font(int(height * 0.6))
    needed = int(font.getlength(text)) + 8
    image = Image.new("RGB", (width or needed, height), "white")
    ImageDraw.Draw(image).text((4, height // 2), text, fill="black", font=font, anchor="lm")
    return np.asarray(image)


def small_trocr_folder(
    folder: Path, like: Like = "base", texts: Sequence[str] = (), ctc: bool = False, seed: int = 0, **sizes: Any
) -> Path:
    """A TrOCR of a few thousand weights in a folder as the hub has them: 32x160 pixels, patches of 32x4, no training.

    Args:
        like: `large` (sinusoidal, untied), `base` (tied) or `small` (DeiT, unigram).
        texts: of the tokenizer; `timetable_texts(200)` where there are none.
        ctc: with a CTC head over the texts' characters.
        sizes: other arguments of `build_trocr`.
    """
    texts = list(texts) or timetable_texts(200)
    smallest = {"encoder_width": 32, "decoder_width": 32, "encoder_layers": 1, "decoder_layers": 1, "num_heads": 2}
    alphabet = sorted(set("".join(texts))) if ctc else None
    return build_trocr(folder, like, texts, ctc_alphabet=alphabet, seed=seed, **{**smallest, **sizes})


def small_llama_folder(folder: Path) -> Path:
    """A Llama of few weights with SmolLM2's tokenizer and chat template, no training."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

    from tdtrain.models.smollm2 import import_smollm2

    tokenizer = AutoTokenizer.from_pretrained(import_smollm2())
    config = LlamaConfig(
        hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=len(tokenizer), tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def small_trocr(folder: Path, like: Like = "base", ctc: bool = False, seed: int = 0, **sizes: Any) -> TrOCRReader:
    """`small_trocr_folder`, loaded."""
    return load_trocr(str(small_trocr_folder(folder, like, ctc=ctc, seed=seed, **sizes)))


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", size)
