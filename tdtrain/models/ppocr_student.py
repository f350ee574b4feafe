"""PP-OCR students: a pre-trained recogniser cut to an alphabet, or a fresh one of the same kind.

Half of PP-OCRv6 tiny's weights are its 6,906-character head; a timetable corpus needs some 150 of them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Literal, get_args

import torch
from torch import nn
from transformers import AutoModelForTextRecognition

from tdtrain.models.ctc_codec import CTCCodec
from tdtrain.models.ppocr import PPOCRModule, PPOCRReader
from tdtrain.models.ppocr_import import tiny_config

Size = Literal["mobile", "nano"]
_UNKNOWN_MARGIN = 4.0
"""How far below an average character's logit one that the reader has never seen starts, in nats."""


def alphabet_codec(alphabet: Iterable[str], order: CTCCodec | None = None) -> CTCCodec:
    """Blank, the alphabet's characters, space. Known characters keep the order they have in `order`; others follow.

    Raises: ValueError when the alphabet has an entry of no or several characters, or nothing but space.
    """
    characters = set(alphabet) - {" "}
    if wrong := sorted(entry for entry in characters if len(entry) != 1):
        raise ValueError(f"alphabet has {wrong[:5]}; every entry has to be one character")
    if not characters:
        raise ValueError("alphabet is empty; give the characters of the texts to be read")
    ids = order.ids if order else {}
    return CTCCodec(("", *sorted(characters, key=lambda c: (ids.get(c, len(ids) + 1), c)), " "))


def trim_alphabet(reader: PPOCRReader, alphabet: Iterable[str]) -> PPOCRReader:
    """A copy of a reader whose head knows only blank, space and an alphabet.

    The logits of kept characters are those they had. A character the reader does not know starts as the average
    character, 4 nats less likely, so that it is hardly ever read before training raises it.

    Raises: ValueError when the alphabet has an entry of several characters, or none.
    """
    codec = alphabet_codec(alphabet, reader.codec)
    old = reader.module.head
    ids = torch.tensor([0, *(reader.codec.ids.get(token, -1) for token in codec.tokens[1:])], device=old.weight.device)
    known = ids >= 0
    with torch.no_grad():
        weight = torch.where(known[:, None], old.weight[ids.clamp(min=0)], old.weight[1:].mean(dim=0))
        bias = torch.where(known, old.bias[ids.clamp(min=0)], old.bias[1:].mean() - _UNKNOWN_MARGIN)
    module = copy.deepcopy(reader.module)
    head = module.head
    head.weight, head.bias, head.out_features = nn.Parameter(weight), nn.Parameter(bias), len(codec.tokens)
    module.network.config.head_out_channels = len(codec.tokens)
    return PPOCRReader(f"{reader.name}-{len(codec.tokens)}", module, codec, reader.pixels)


def fresh_ppocr(size: Size, alphabet: Iterable[str], seed: int = 0) -> PPOCRReader:
    """A reader with random weights: `mobile` has PP-OCRv6 tiny's architecture, `nano` is two thirds to half as wide.

    Its batch norms learn their statistics in training. With 150 characters: 0.56 M and 0.23 M weights.

    Args:
        size: mobile or nano.
        alphabet: the characters it shall read; blank and space are added.
        seed: of the weights; torch's own random state is left alone.

    Raises: ValueError when the size is unknown or the alphabet has no characters.
    """
    codec = alphabet_codec(alphabet)
    if size == "mobile":
        config = tiny_config(len(codec.tokens))
    elif size == "nano":
        config = tiny_config(len(codec.tokens), stem=(16, 32), stages=(32, 32, 64, 96), hidden_size=64)
    else:
        raise ValueError(f"size={size!r} is not one of {', '.join(get_args(Size))}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = AutoModelForTextRecognition.from_config(config, dtype=torch.float32)
        _initialize(network)
    return PPOCRReader(size, PPOCRModule(network, frozen_statistics=False).eval(), codec)


@torch.no_grad()
def _initialize(network: nn.Module) -> None:
    """He initialisation (arXiv 1502.01852); depthwise convolutions without a norm start near the identity."""
    for module in network.modules():
        if not isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
            continue
        if isinstance(module, nn.Conv2d) and module.groups > 1 and module.bias is not None:
            nn.init.normal_(module.weight, std=0.1)
            module.weight[:, :, module.kernel_size[0] // 2, module.kernel_size[1] // 2] += 1
        else:
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
