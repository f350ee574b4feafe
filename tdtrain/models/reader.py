"""What every OCR model is here: pixels in, tensors through, text out.

A reader has three parts. `pixels` and `codec` are small, picklable and need no weights, so Ray Data tasks can prepare
batches without loading a model; `module` is the network, and the only part that is trained, moved, cast or sharded.

Shapes: B lines, H height, W width, T frames or target positions, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Kind = Literal["ctc", "autoregressive"]
IGNORED = -100
"""The label at padded positions."""


@dataclass(frozen=True)
class Reading:
    """What a reader makes of one line: its text, and its mean probability per character or token, in [0, 1]."""

    text: str
    confidence: float


class Pixels(Protocol):
    """From a picture to the array the network takes. Cheap enough to run in a data task; frozen and hashable."""

    def resize(self, image: np.ndarray) -> np.ndarray:
        """One line, uint8 RGB HxWx3 of any size -> uint8 at the network's height (width may vary by line)."""
        ...

    def resized_width(self, width: int, height: int) -> int:
        """The width that `resize` gives an image of this width and height, pixels."""
        ...

    def frames(self, widths: np.ndarray) -> np.ndarray:
        """How many output frames lines of these resized widths have (CTC; int64)."""
        ...

    def collate(self, images: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Resized lines -> `pixels` uint8 B,H,W,3 (padded right with zeros) and `widths` int64 B."""
        ...

    def normalize(self, pixels: Tensor, widths: Tensor, dtype: torch.dtype) -> Tensor:
        """On the device: uint8 B,H,W,3 -> the network's own input B,C,H,W."""
        ...


class Codec(Protocol):
    """From text to labels and back. `tokens[i]` is the string of id i."""

    @property
    def tokens(self) -> tuple[str, ...]: ...

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Texts -> labels int64 B,T padded with IGNORED. Raises ValueError naming the characters it does not know."""
        ...

    def unknown(self, text: str) -> set[str]:
        """The characters of a text that no label can express."""
        ...

    def fits(self, text: str, frames: int) -> bool:
        """Whether a line of so many output frames can spell the text."""
        ...


class Reader(Protocol):
    """One OCR model with all it needs to learn, to read and to be saved."""

    name: str

    @property
    def kind(self) -> Kind: ...

    @property
    def pixels(self) -> Pixels: ...

    @property
    def codec(self) -> Codec: ...

    @property
    def module(self) -> nn.Module:
        """`module(pixel_values, labels=None, widths=None)` -> ReaderOutput. CTC modules ignore the labels."""
        ...

    def read(self, batch: dict[str, Tensor]) -> list[Reading]:
        """A collated batch (tensors of `Pixels.collate`, any device) -> one Reading a line, in order."""
        ...

    def frozen(self) -> Reader:
        """The same reader with the weights it has now, for reading only, and quicker where the family knows how."""
        ...

    def save(self, folder: Path, state: dict[str, Tensor] | None = None) -> None:
        """Writes a folder that plain transformers loads; `state` overrides the module's own weights."""
        ...


@dataclass
class ReaderOutput:
    """What a forward pass gives, before any softmax.

    Attributes:
        logits: float B,T,V. CTC: a frame each; autoregressive: position t predicts label t. None where `hidden` and
            `head` are there instead, for those who don't need all logits at once.
        frames: int64 B, how many frames of each line are real (CTC only).
        encoder_logits: float B,S,V of the optional CTC head on an autoregressive model's encoder.
        hidden, head: float B,T,D, and the linear layer that makes them logits (autoregressive only).
        encoder_hidden: float B,S,D, the encoder's patches (autoregressive only).
    """

    logits: Tensor | None
    frames: Tensor | None = None
    encoder_logits: Tensor | None = None
    hidden: Tensor | None = None
    head: nn.Linear | None = None
    encoder_hidden: Tensor | None = None


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """The module in evaluation mode; afterwards as it was. Free where it is in evaluation already: a small reader
    would spend a tenth of a line's time on setting flags."""
    if not module.training:
        yield
        return
    module.eval()
    try:
        yield
    finally:
        module.train()


def read_images(reader: Reader, images: Sequence[np.ndarray], batch_size: int = 32) -> list[Reading]:
    """Reads uint8 RGB lines in batches of similar width; the answers keep the order of the images."""
    import torch

    resized = [reader.pixels.resize(image) for image in images]
    order = sorted(range(len(resized)), key=lambda i: resized[i].shape[1])
    readings: list[Any] = [None] * len(resized)
    device = next(reader.module.parameters()).device
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = reader.pixels.collate([resized[i] for i in chosen])
            tensors = {key: torch.from_numpy(value).to(device) for key, value in batch.items()}
            for i, reading in zip(chosen, reader.read(tensors), strict=True):
                readings[i] = reading
    return readings
