"""LoRA (Hu et al. 2021, arXiv 2106.09685): adapters inside a model, in a folder, merged. The only importer of peft.

W + (alpha / rank) B A, with B = 0 at the start, so that an adapted model begins as the one it came from.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from tdtrain.models.causal import CausalModule
from tdtrain.models.ppocr import PPOCRModule
from tdtrain.models.reader import Reader
from tdtrain.models.trocr import TrOCRModule
from tdtrain.options import Lora

EVERYTHING = "all"
SPELLINGS = (("query", "q_proj", "qkv"), ("key", "k_proj", "qkv"), ("value", "v_proj", "qkv"), ("o_proj", "out_proj"))
"""What families and releases of transformers call the same layer. A fused one is part of three."""
_PEFT = "base_model.model."


@dataclass(frozen=True)
class Part:
    """The transformers model inside one of our modules, which plain peft knows how to adapt.

    Attributes:
        attribute: its name in the module.
        head: the name of the last layer in it.
        head_is_read: the loss multiplies with the head's weight itself, and would not see an adapter there.
    """

    attribute: str
    model: nn.Module
    head: str
    head_is_read: bool


@dataclass(frozen=True)
class Adapters:
    """What was put into a module.

    Attributes:
        layers: the full names of the layers that got an adapter, by the name that was asked for.
        left_out: layers that were asked for and cannot have one.
        num_trained, num_parameters: of the adapted model.
    """

    wrapped: PeftModel
    attribute: str
    layers: Mapping[str, tuple[str, ...]]
    left_out: tuple[str, ...]
    num_trained: int
    num_parameters: int

    def words(self) -> str:
        """What matched, and how much of the model is trained."""
        found = ", ".join(f"{name}: {len(layers)}" for name, layers in self.layers.items())
        share = self.num_trained / self.num_parameters
        said = f"adapters in {found} layers; {self.num_trained:,} parameters are trained, {share:.2%} of the model"
        gone = ", ".join(self.left_out)
        return f"{said}; none in {gone}: DoRA cannot scale a row of zeros" if gone else said

    def save(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        """Writes a folder that plain peft loads.

        Args:
            state: the adapters' weights, by their names in the module; others may be among them.
        """
        inner = f"{self.attribute}."
        own = {f"{_PEFT}{name.removeprefix(inner)}": value for name, value in state.items() if name.startswith(inner)}
        self.wrapped.save_pretrained(str(folder), state_dict=own, save_embedding_layers=False)


def adapt(module: nn.Module, name: str, lora: Lora) -> Adapters:
    """Puts fresh adapters into a module; all else in it is frozen. A is drawn from torch's generator.

    Args:
        module: of a reader, or of a causal language model.
        name: what the model was loaded by, for those who load the adapters.

    Raises: ValueError where a name matches no layer, listing those that there are.
    """
    part = part_of(module)
    layers = resolve(part, lora.target_modules, name)
    module.requires_grad_(False)
    wanted = {layer for found in layers.values() for layer in found}
    left_out = {layer for layer in wanted if lora.dora and _has_zero_row(part.model.get_submodule(layer))}
    layers = {asked: tuple(layer for layer in found if layer not in left_out) for asked, found in layers.items()}
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.scaled_by,  # type: ignore[arg-type]  # peft divides it, whatever it is
        target_modules=sorted(wanted - left_out),
        lora_dropout=lora.lora_dropout,
        use_rslora=lora.rslora,
        use_dora=lora.dora,
        bias=lora.bias,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers for a name that it will give up
        wrapped = get_peft_model(part.model, config)  # type: ignore[arg-type]  # puts them into the model itself
    wrapped.peft_config["default"].base_model_name_or_path = str(Path(name).resolve()) if Path(name).is_dir() else name
    assert isinstance(wrapped, PeftModel)
    if not lora.dora:  # which measures lengths of columns in the type of its input
        _spare_casts(wrapped)
    own = list(module.parameters())
    trained = sum(p.numel() for p in own if p.requires_grad)
    num_parameters = sum(p.numel() for p in own)
    return Adapters(wrapped, part.attribute, layers, tuple(sorted(left_out)), trained, num_parameters)


def _spare_casts(wrapped: nn.Module) -> None:
    """Autocast gives each product of an adapter its type. peft's cast to the adapter's own type before it changes no
    bit, and costs two passes over all activations, forth and back."""
    for layer in wrapped.modules():
        if hasattr(layer, "cast_input_dtype_enabled"):
            layer.cast_input_dtype_enabled = False  # type: ignore[assignment]


def merge(reader: Reader, folder: Path) -> Reader:
    """The reader with the adapters of a folder added to its weights; it is changed, and has no adapters."""
    PeftModel.from_pretrained(part_of(reader.module).model, str(folder)).merge_and_unload()  # type: ignore[arg-type]
    reader.module.requires_grad_(True)
    return reader


def merge_causal(module: CausalModule, folder: Path) -> CausalModule:
    """As `merge`, for a language model."""
    PeftModel.from_pretrained(module.model, str(folder)).merge_and_unload()  # type: ignore[arg-type]
    return module


def part_of(module: nn.Module) -> Part:
    """Where adapters go in a module."""
    if isinstance(module, CausalModule):
        head = next(name for name, layer in module.model.named_modules() if layer is module.head)
        return Part("model", module.model, head, head_is_read=True)
    if isinstance(module, TrOCRModule):
        return Part("model", module.model, "decoder.output_projection", head_is_read=True)
    assert isinstance(module, PPOCRModule)
    network = module.network
    head = next(name for name, layer in network.named_modules() if layer is module.head)
    return Part("network", network, head, head_is_read=False)


def resolve(part: Part, asked: Sequence[str], model: str) -> dict[str, tuple[str, ...]]:
    """The full names of the layers that each name means, found in the model as it was loaded.

    A name means the layers whose path holds it, in any spelling: `query`, `fc1`, `decoder`, `layers.0`.

    Raises: ValueError where one means none, or the head of a model whose loss reads the head's weight.
    """
    there = [layer for layer in adaptable(part.model) if layer != part.head or not part.head_is_read]
    found = {}
    for name in asked:
        layers = [layer for layer in there if layer != part.head]
        if name != EVERYTHING:
            ways = {name, *(way for ways in SPELLINGS if name in ways and name != "qkv" for way in ways)}
            layers = [layer for layer in there if any(f".{way}." in f".{layer}." for way in ways)]
        if not layers:
            kinds = Counter(_kind(layer) for layer in there).most_common()
            listed = ", ".join(f"{kind} ({count})" for kind, count in kinds)
            raise ValueError(
                f"target_modules={name} is no linear layer or 1x1 convolution of model_name {model} that can be "
                f"adapted; it has {listed}; all means all of them but the head"
            )
        found[name] = tuple(layers)
    return found


def adaptable(model: nn.Module) -> list[str]:
    """The full names of all linear layers and ungrouped 1x1 convolutions, but for the pooler, which nothing uses."""
    return [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear)
        or (isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1)
        if ".pooler." not in f".{name}."
    ]


def _has_zero_row(layer: nn.Module) -> bool:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    if weight.is_meta:  # nobody knows
        return False
    return not bool(weight.flatten(1).norm(dim=1).all())  # or of what is zero when squared


def _kind(layer: str) -> str:
    """The last part of a layer's path that says something."""
    return [part for part in layer.split(".") if not part.isdigit() and part != "convolution"][-1]
