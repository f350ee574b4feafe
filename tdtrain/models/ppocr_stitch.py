"""A student from two pre-trained readers: the backbone of a small one under the neck and head of a large one.

PP-OCRv6 tiny has a quick backbone and no way to look further than a few characters; PP-OCRv6 small's neck, two
transformer blocks over a line's frames, costs next to nothing beside its backbone. Two linear maps are missing between
them. They are fitted by least squares, so that the neck gets from the small backbone what comes nearest to what it got
from its own: the student reads before it was trained at all.

Sources: stitching, Lenc and Vedaldi 2015, arXiv 1411.5908; the teacher's classifier reused, Chen et al. 2022 (SimKD),
arXiv 2203.14001.

Shapes: N frames, C channels of the small backbone, D channels of the neck.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForTextRecognition, PPOCRV6SmallRecConfig

from tdtrain.models.line_pixels import own_frames
from tdtrain.models.ppocr import PPOCRModule, PPOCRReader, load_ppocr
from tdtrain.models.ppocr_student import trim_alphabet

RIDGE = 1e-5
"""Of the least squares, as a share of the features' mean square: keeps channels that never vary from exploding."""
BATCH_LINES = 16


def stitch(alphabet: Iterable[str], images: Sequence[np.ndarray]) -> PPOCRReader:
    """PP-OCRv6 tiny's backbone under PP-OCRv6 small's neck, its head cut to an alphabet; 0.80 M weights with 150 of it.

    Args:
        alphabet: the characters it shall read, as in `trim_alphabet`.
        images: uint8 RGB lines, a few hundred of the kind it will read; no text is needed.

    Returns: a reader whose every weight is copied or fitted: the same for the same images and alphabet.
    Raises: ValueError without images.
    """
    if not images:
        raise ValueError("a stitched student needs some lines of the corpus to fit its middle to, and there are none")
    small = trim_alphabet(load_ppocr("ppocrv6-small"), alphabet)
    tiny = load_ppocr("ppocrv6-tiny")
    theirs: Any = small.module.network
    own: Any = tiny.module.network
    config = PPOCRV6SmallRecConfig(
        backbone_config=own.config.backbone_config, head_out_channels=theirs.config.head_out_channels
    )
    with torch.random.fork_rng(devices=[]):
        network: Any = AutoModelForTextRecognition.from_config(config, dtype=torch.float32)
    network.model.load_state_dict(own.model.state_dict())
    fitted = ("encoder.conv_block.0.", "encoder.conv_block.1.")
    copied = {name: value for name, value in theirs.head.state_dict().items() if not name.startswith(fitted)}
    network.head.load_state_dict(copied, strict=False)
    layers = list(theirs.head.encoder.conv_block[:2])
    features_NC, wanted_ND = _features(tiny, small, layers, images)
    for layer, target_ND in zip(network.head.encoder.conv_block[:2], wanted_ND, strict=True):
        _fill(layer, *least_squares(features_NC, target_ND))
    module = PPOCRModule(network.eval(), frozen_statistics=True)
    return PPOCRReader("stitched", module.eval(), small.codec, tiny.pixels)


@torch.inference_mode()
def _features(
    tiny: PPOCRReader, small: PPOCRReader, layers: list[Any], images: Sequence[np.ndarray]
) -> tuple[Tensor, list[Tensor]]:
    """What the small backbone gives at every real frame, and what the neck's first layers had of the large one."""
    resized = sorted((tiny.pixels.resize(image) for image in images), key=lambda image: image.shape[1])
    features: list[Tensor] = []
    wanted: list[list[Tensor]] = [[] for _ in layers]
    for start in range(0, len(resized), BATCH_LINES):
        arrays = tiny.pixels.collate(resized[start : start + BATCH_LINES])
        widths = torch.from_numpy(arrays["widths"])
        pixels = tiny.pixels.normalize(torch.from_numpy(arrays["pixels"]), widths, torch.float32)
        backbones: list[Any] = [reader.module.network.model for reader in (tiny, small)]
        own, theirs = (backbone(pixels).last_hidden_state for backbone in backbones)
        real = torch.arange(own.shape[3]) < own_frames(widths, own.shape[3])[:, None]
        features.append(own.squeeze(2).transpose(1, 2)[real])
        for found, layer in zip(wanted, layers, strict=True):
            before_activation = layer.normalization(layer.convolution(theirs))
            found.append(before_activation.squeeze(2).transpose(1, 2)[real])
    return torch.cat(features), [torch.cat(found) for found in wanted]


def least_squares(features_NC: Tensor, target_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Weight D,C and bias D of the linear map that takes features nearest to a target, in float64."""
    mean_C, mean_D = features_NC.double().mean(0), target_ND.double().mean(0)
    centred_NC = features_NC.double() - mean_C
    gram_CC = centred_NC.T @ centred_NC
    gram_CC += RIDGE * gram_CC.diagonal().mean() * torch.eye(len(gram_CC), dtype=torch.float64)
    weight_CD = torch.linalg.solve(gram_CC, centred_NC.T @ (target_ND.double() - mean_D))
    return weight_CD.T, mean_D - mean_C @ weight_CD


@torch.no_grad()
def _fill(layer: Any, weight_DC: Tensor, bias_D: Tensor) -> None:
    """A 1x1 convolution with a batch norm that only adds the bias."""
    layer.convolution.weight.copy_(weight_DC[:, :, None, None])
    norm: nn.BatchNorm2d = layer.normalization
    assert norm.running_mean is not None and norm.running_var is not None
    norm.weight.fill_(math.sqrt(1 + norm.eps))
    norm.bias.copy_(bias_D)
    norm.running_mean.zero_()
    norm.running_var.fill_(1)
