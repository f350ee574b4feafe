"""PP-OCR recognisers as readers: PP-OCRv5 and v6 from transformers, real weights from a package, a folder or the hub.

A line of 48 pixels' height goes in, one distribution over the characters every 8 pixels comes out (CTC).

Shapes: B lines, C colour channels, H height, W width, T frames, V characters with the blank at 0.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForTextRecognition, PreTrainedModel

from tdtrain.models.ctc_codec import CTCCodec
from tdtrain.models.ctc_decode import greedy_readings
from tdtrain.models.line_pixels import LinePixels, own_frames
from tdtrain.models.ppocr_folder import PROCESSORS, read_charset, write_folder
from tdtrain.models.ppocr_graph import record
from tdtrain.models.ppocr_import import BUILT_IN, import_ppocr
from tdtrain.models.reader import ReaderOutput, Reading, evaluating
from tdtrain.models.remote_code import loading, trusted


class PPOCRModule(nn.Module):
    """A transformers PP-OCR recogniser whose output stops before the softmax.

    Attributes:
        network: the transformers model, which ends in a softmax.
        frozen_statistics: keep the batch norms' running statistics as they are in train() too, as pre-trained models
            need it on small batches.
    """

    def __init__(self, network: PreTrainedModel, frozen_statistics: bool) -> None:
        super().__init__()
        self.network = network
        self.frozen_statistics = frozen_statistics

    def train(self, mode: bool = True) -> PPOCRModule:
        """nn.Module's, except that frozen batch norms stay in evaluation."""
        super().train(mode)
        if self.frozen_statistics:
            for norm in batch_norms(self):
                norm.eval()
        return self

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, widths: Tensor | None = None) -> ReaderOutput:
        """Logits and real frames of a batch.

        Args:
            pixel_values: B,3,48,W of `LinePixels.normalize`.
            labels: unused; a CTC reader's output does not depend on them.
            widths: int64 B, pixels without the padding; None says that nothing is padded.
        """
        backbone: Any = self.network.model
        hidden = backbone(pixel_values).last_hidden_state
        head: Any = self.network.head
        if hasattr(head, "encoder"):
            logits_BTV = head.head(head.encoder(hidden).last_hidden_state)
        else:  # tiny's head is one module from convolution to softmax
            hidden = head.act_fn(head.norm1(head.conv1(hidden.squeeze(2))))
            hidden = head.act_fn(head.norm2(head.conv2(hidden)))
            logits_BTV = head.fc2(head.fc1(hidden.transpose(1, 2)))
        batch, num_frames, _ = logits_BTV.shape
        if widths is None:
            return ReaderOutput(logits_BTV, torch.full((batch,), num_frames, device=logits_BTV.device))
        return ReaderOutput(logits_BTV, own_frames(widths, num_frames))

    @property
    def head(self) -> nn.Linear:
        """The last layer, from hidden states to logits."""
        head: Any = self.network.head
        return head.head if hasattr(head, "encoder") else head.fc2


@dataclass
class PPOCRReader:
    """A PP-OCR recogniser: see `Reader`."""

    name: str
    module: PPOCRModule
    codec: CTCCodec
    pixels: LinePixels = field(default_factory=LinePixels)
    kind: Literal["ctc"] = "ctc"
    graph: Callable[[Tensor], Tensor] | None = None

    def read(self, batch: dict[str, Tensor]) -> list[Reading]:
        """A collated batch, tensors on any device -> one Reading a line, in order."""
        with evaluating(self.module), torch.inference_mode():
            weight = self.module.head.weight
            pixels, widths = batch["pixels"].to(weight.device), batch["widths"].to(weight.device)
            values = self.pixels.normalize(pixels, widths, weight.dtype)
            logits_BTV = self.module(values).logits if self.graph is None else self.graph(values)
        return greedy_readings(logits_BTV, own_frames(widths, logits_BTV.shape[1]), self.codec.tokens)

    def frozen(self) -> PPOCRReader:
        """The same reader with the weights it has now, for reading only: see `ppocr_graph`."""
        return replace(self, graph=record(self.module))

    def save(self, folder: Path, state: dict[str, Tensor] | None = None) -> None:
        """Writes a folder that plain transformers loads (AutoModelForTextRecognition), with the charset.

        Args:
            folder: made when missing.
            state: weights to write in place of the module's, by the module's own names.

        Raises: ValueError when `state` lacks a weight of the module or has one that it does not know.
        """
        own = self.module.state_dict()
        if state is not None and state.keys() != own.keys():
            differing = sorted(state.keys() ^ own.keys())
            raise ValueError(
                f"state differs from the module in {len(differing)} names, such as {differing[0]}; "
                "give all of the module's state_dict()"
            )
        weights = {
            name.removeprefix("network."): value.detach().to("cpu", own[name].dtype).contiguous()
            for name, value in (state or own).items()
        }
        write_folder(Path(folder), self.module.network.config, weights, self.codec)


def load_ppocr(name_or_folder: str, dtype: torch.dtype = torch.float32) -> PPOCRReader:
    """A PP-OCR reader, in evaluation.

    The statistics of its batch norms stay frozen in training, unless the folder is of a reader that was never trained
    (`fresh_ppocr`, saved): then they have everything to learn.

    Args:
        name_or_folder: `ppocrv6-small` or `ppocrv6-tiny`, whose weights come with packages; a local folder, from
            `PPOCRReader.save` or the hub; or a name on the hub, such as PaddlePaddle/PP-OCRv5_server_rec_safetensors.
        dtype: of the weights.

    Raises: ValueError when there is no such model, it is none of PP-OCR's, or it comes without its charset.
    """
    source = str(import_ppocr(name_or_folder)) if name_or_folder in BUILT_IN else name_or_folder
    try:
        with loading(name_or_folder):
            config = AutoConfig.from_pretrained(source, trust_remote_code=trusted())
        if config.model_type not in PROCESSORS:
            raise ValueError(f"{name_or_folder} is a {config.model_type}, not one of {', '.join(PROCESSORS)}")
        network = AutoModelForTextRecognition.from_pretrained(source, config=config, dtype=dtype, use_safetensors=True)
    except OSError as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{name_or_folder!r} is no folder with a PP-OCR model, and the Hugging Face hub gave none ({reason}); "
            f"use {' or '.join(BUILT_IN)}, whose weights come with packages, or a folder with config.json, "
            "model.safetensors and preprocessor_config.json"
        ) from error
    codec = read_charset(source, config.head_out_channels)
    network = copy.deepcopy(network)  # weights lie in the file unaligned, and that changes the last digits of sums
    module = PPOCRModule(network, frozen_statistics=not all(map(_untouched, batch_norms(network))))
    return PPOCRReader(name_or_folder, module.eval(), codec)


def batch_norms(module: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """The batch norms of a module."""
    return [norm for norm in module.modules() if isinstance(norm, nn.modules.batchnorm._BatchNorm)]


def _untouched(norm: nn.modules.batchnorm._BatchNorm) -> bool:
    """Whether a batch norm's statistics are those it was made with."""
    mean, variance = norm.running_mean, norm.running_var
    return mean is not None and variance is not None and bool((mean == 0).all() and (variance == 1).all())
