"""What goes into a TrOCR and what comes out as text: its folder, its pixels, its tokenizer. No weights are needed.

Shapes: B lines, H height, W width, C channels, T target positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from huggingface_hub import snapshot_download
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, AutoTokenizer, GenerationConfig, VisionEncoderDecoderConfig
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from tdtrain.models.reader import IGNORED
from tdtrain.models.remote_code import loading, trusted

Config: TypeAlias = Any
"""A VisionEncoderDecoderConfig. Its annotations say that its parts may be dicts or None; loaded ones never are."""
Processor: TypeAlias = Any
"""A PIL-backed image processor, which gets its fields only when it is made."""
DEFAULT_MAX_TARGET_TOKENS = 128
"""For folders whose generation config has no max_new_tokens, as the hub's: twice the longest timetable lines."""


def model_folder(name_or_folder: str, weights: bool = True) -> Path:
    """A local folder as it is, or a hub model's files in the local cache. Never fetches pickles or code.

    Raises: ValueError where there is no such folder and the hub cannot give it.
    """
    folder = Path(name_or_folder).expanduser()
    if folder.is_dir():
        return folder
    patterns = ["*.json", "*.txt", "*.model"] + (["*.safetensors"] if weights else [])
    try:
        return Path(snapshot_download(name_or_folder, allow_patterns=patterns))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"model={name_or_folder!r} is neither a local folder nor a hub model that can be reached from here "
            f"({type(error).__name__}); give the path of a folder that holds config.json and model.safetensors, or "
            f"fetch it where the hub is reachable: hf download {name_or_folder}"
        ) from error


def vocabulary(name_or_folder: str) -> tuple[str, ...]:
    """A model's tokens in order of their ids, read from its tokenizer files alone."""
    return _tokens(_tokenizer(model_folder(name_or_folder, weights=False)))


@dataclass(frozen=True)
class TrOCRPixels:
    """Squeezes every line to one size, as TrOCR's processor does: the aspect is not kept.

    Attributes:
        height: pixels the encoder takes.
        width: pixels the encoder takes.
        mean: by channel, of pixels scaled to [0, 1].
        std: by channel.
        resample: PIL's number of the filter; 2 is bilinear.
        scale: what a uint8 pixel is multiplied by.
    """

    height: int
    width: int
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    resample: int = int(Image.Resampling.BILINEAR)
    scale: float = 1 / 255

    @property
    def size(self) -> tuple[int, int]:
        """(height, width), pixels."""
        return self.height, self.width

    def resize(self, image: np.ndarray) -> np.ndarray:
        """One line, uint8 RGB HxWx3 of any size -> uint8 height x width x 3."""
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ValueError(f"image is {image.dtype} {image.shape}; a line must be uint8 RGB HxWx3, not empty")
        resized = Image.fromarray(image).resize((self.width, self.height), Image.Resampling(self.resample))
        return np.asarray(resized)

    def resized_width(self, width: int, height: int) -> int:
        """The width that `resize` gives, whatever the image's own."""
        return self.width

    def frames(self, widths: np.ndarray) -> np.ndarray:
        """Zeros: an autoregressive reader has no frames."""
        return np.zeros_like(widths)

    def collate(self, images: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Resized lines -> `pixels` uint8 B,H,W,3 and `widths` int64 B, which all are the full width here."""
        return {"pixels": np.stack(images), "widths": np.full(len(images), self.width, dtype=np.int64)}

    def normalize(self, pixels: Tensor, widths: Tensor, dtype: torch.dtype) -> Tensor:
        """On the device: uint8 B,H,W,3 -> the encoder's input B,C,H,W. The widths change nothing."""
        mean = torch.tensor(self.mean, device=pixels.device)
        std = torch.tensor(self.std, device=pixels.device)
        return ((pixels.float() * self.scale - mean) / std).permute(0, 3, 1, 2).to(dtype).contiguous()


@dataclass(frozen=True, eq=False)
class TrOCRCodec:
    """Texts to a tokenizer's ids and back. Labels end with the end token and have no start token.

    Attributes:
        tokenizer: the model's own fast tokenizer.
        tokens: the string of each id, as many as the logits are wide. Two codecs with equal tokens may be compared
            logit by logit.
        max_target_tokens: the longest label, end token included.
    """

    tokenizer: PreTrainedTokenizerBase
    tokens: tuple[str, ...]
    max_target_tokens: int
    _lossless: dict[str, bool] = field(default_factory=dict, init=False, repr=False)

    def fits(self, text: str, frames: int) -> bool:
        """Whether the text's tokens, with the end token, are no more than the decoder writes. Frames: unused."""
        return len(self.ids([text])[0]) + 1 <= self.max_target_tokens

    @property
    def end_id(self) -> int:
        """The id that ends every label."""
        return self.tokenizer.eos_token_id

    @property
    def pad_id(self) -> int:
        """The id that stands at padded positions of the decoder's inputs."""
        return self.tokenizer.pad_token_id

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Texts -> labels int64 B,T padded with IGNORED.

        Runs of spaces may count as one, as the tokenizer has it.

        Raises: ValueError naming the characters the tokenizer loses, or the text that is too long.
        """
        unknown = {character for text in texts for character in self.unknown(text)}
        if unknown:
            raise ValueError(
                f"the tokenizer cannot express {sorted(unknown)[:10]} ({len(unknown)} characters); "
                "set these lines aside or choose a model with a byte-level tokenizer"
            )
        rows = [[*ids, self.end_id] for ids in self.ids(texts)]
        for text, row in zip(texts, rows, strict=True):
            if len(row) > self.max_target_tokens:
                raise ValueError(
                    f"text {text[:60]!r}... has {len(row)} tokens, the model writes at most {self.max_target_tokens}; "
                    "split the line, or raise max_new_tokens in the model's generation_config.json"
                )
        labels = np.full((len(rows), max(map(len, rows), default=0)), IGNORED, dtype=np.int64)
        for label, row in zip(labels, rows, strict=True):
            label[: len(row)] = row
        return labels

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """One line's ids -> its text. Special tokens and IGNORED say nothing."""
        known = [int(i) for i in ids if 0 <= i < len(self.tokenizer)]
        # Old tokenizer configurations ask for a clean-up that turns "8 : 00" into "8: 00".
        return str(self.tokenizer.decode(known, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def unknown(self, text: str) -> set[str]:
        """The characters of a text whose way through the tokenizer and back is lossy, alone or beside the others."""
        alone = {character for character in set(text) if not self._survives(character)}
        return alone | (set(text) - set(self.decode(self.ids([text])[0])) - {" "} if text else set())

    def _survives(self, character: str) -> bool:
        if character not in self._lossless:
            # A lone space may be stripped at a text's ends; between words every tokenizer keeps it.
            self._lossless[character] = character == " " or self.decode(self.ids([character])[0]) == character
        return self._lossless[character]

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, without the end token; what cannot be spelled is unknown."""
        if not texts:
            return []
        # split_special_tokens: a text that holds "</s>" is spelled out and does not end there.
        return self.tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]


def load_inputs(folder: Path) -> tuple[TrOCRPixels, TrOCRCodec, Processor]:
    """The pixels and the codec of a local TrOCR folder, and the processor they came from.

    Raises: ValueError where processor, tokenizer and config.json contradict each other.
    """
    config: Config = VisionEncoderDecoderConfig.from_pretrained(folder)
    with loading(str(folder)):
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil", trust_remote_code=trusted())
    pixels = _pixels(folder, config, processor)
    tokenizer = _tokenizer(folder)
    tokens = _tokens(tokenizer)
    num_logits = config.decoder.vocab_size
    if len(tokens) > num_logits:
        raise ValueError(f"{folder}: the tokenizer has {len(tokens)} tokens, the decoder only {num_logits} logits")
    tokens += tuple(f"<unused {i}>" for i in range(len(tokens), num_logits))
    limit = DEFAULT_MAX_TARGET_TOKENS
    if (folder / "generation_config.json").is_file():
        # max_length is not heeded: where the hub's files have it, it is a default of 20 that cuts lines off.
        limit = GenerationConfig.from_pretrained(folder).max_new_tokens or limit
    codec = TrOCRCodec(tokenizer, tokens, min(limit, config.decoder.max_position_embeddings))
    return pixels, codec, processor


def codec_of(name_or_folder: str) -> TrOCRCodec:
    """A model's codec, read without its weights."""
    return load_inputs(model_folder(name_or_folder, weights=False))[1]


def _pixels(folder: Path, config: Config, processor: Processor) -> TrOCRPixels:
    size = (processor.size["height"], processor.size["width"])
    encoder_size = pair(config.encoder.image_size)
    if size != encoder_size:
        raise ValueError(f"{folder}: the image processor resizes to {size}, but the encoder takes {encoder_size}")
    crop = processor.crop_size
    if getattr(processor, "do_center_crop", False) and (crop["height"], crop["width"]) != size:
        raise ValueError(f"{folder}: the image processor crops to {crop} after resizing to {size}; set do_center_crop "
                         "to false in preprocessor_config.json")  # fmt: skip
    if not (processor.do_resize and processor.do_rescale):
        raise ValueError(f"{folder}: do_resize and do_rescale must be true in preprocessor_config.json")
    mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else ([0.0] * 3, [1.0] * 3)
    return TrOCRPixels(*size, tuple(mean), tuple(std), int(processor.resample), processor.rescale_factor)


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    try:
        with loading(str(folder)):
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trusted())
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} holds no tokenizer that transformers can load: {error}") from error
    for role in ("eos_token_id", "pad_token_id"):
        if getattr(tokenizer, role) is None:
            raise ValueError(f"{folder}: the tokenizer has no {role}; a TrOCR needs one")
    return tokenizer


def _tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    return tuple(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))))


def pair(size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) of a ViT's image_size or patch_size."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])
