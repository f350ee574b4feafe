"""Causal language models that write what a page says: prompts, examples, and passes over packed documents.

Documents are laid one after the other without padding, and see themselves alone.

Shapes: T tokens of several documents, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedTokenizerBase,
)

from tdtrain.data.sequences import Example
from tdtrain.models.load import adapted_from
from tdtrain.models.packed import PACKED
from tdtrain.models.ppocr_import import BUILT_IN
from tdtrain.models.remote_code import loading, trusted
from tdtrain.models.smollm2 import NAME, import_smollm2

INSTRUCTION = "Write this timetable as JSON.\n\n"
FEW = 64
"""Tokens, and inner width, of a model that stands for another of its kind."""
LARGE = 50.0
"""Times its logits: those of trained weights reach a cap."""
ANSWER = '{"timeblocks":[]}'
"""Stands for an answer where a template is asked what comes around it."""


class Prompter:
    """From a page's text and its answer to tokens, by a model's own chat template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raises ValueError where the tokenizer has no chat template, or one that does not end an answer."""
        if not tokenizer.chat_template:
            raise ValueError(
                f"model_name={tokenizer.name_or_path} has no chat template; use an instruction-tuned model, such as "
                "Llama-3-8B-Instruct"
            )
        self.tokenizer = tokenizer
        _, self._end = self._around("page")
        if not self._end:
            raise ValueError(
                f"model_name={tokenizer.name_or_path}: its chat template does not say where an answer ends"
            )

    def prompt(self, page: str) -> list[int]:
        """What the model is asked about a page, up to where it answers."""
        return self._ids(self._around(page)[0])

    def example(self, name: str, page: str, answer: str) -> Example:
        """A page with its answer, which ends with the token that ends one."""
        prompt = self.prompt(page)
        return Example(name, (*prompt, *self._ids(answer + self._end)), len(prompt))

    @property
    def end_ids(self) -> list[int]:
        """The tokens that end an answer."""
        return self._ids(self._end)

    def _around(self, page: str) -> tuple[str, str]:
        """What the template writes before an answer (a space or an empty thought may come last), and what ends it."""
        messages = [
            {"role": "user", "content": INSTRUCTION + page},
            {"role": "assistant", "content": ANSWER},
        ]
        text = self.tokenizer.apply_chat_template(messages, tokenize=False)
        assert isinstance(text, str)
        before, found, after = text.rpartition(ANSWER)
        if not found:
            raise ValueError(
                f"model_name={self.tokenizer.name_or_path}: its chat template leaves out what the assistant says"
            )
        return before, after.strip()

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]  # type: ignore[return-value]


class CausalModule(nn.Module):
    """The network under training. `model` is what plain transformers loads and saves."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    @property
    def head(self) -> nn.Linear:
        """From hidden states to logits; its weight may be the embedding's."""
        return self.model.get_output_embeddings()

    def hidden_states(self, tokens: Tensor, lengths: Sequence[int]) -> Tensor:
        """T,D: what the head makes the next token of, at each position.

        Args:
            tokens: int64 T, documents one after the other.
            lengths: tokens of each document, T together.
        """
        positions = torch.cat([torch.arange(length, device=tokens.device) for length in lengths])
        output = self.model.base_model(
            input_ids=tokens[None], position_ids=positions[None], packed_lengths=list(lengths), use_cache=False
        )
        return output.last_hidden_state[0]


def save_causal(module: CausalModule, prompter: Prompter, folder: Path, weights: dict[str, Tensor]) -> None:
    """Writes a folder that plain transformers loads.

    Args:
        weights: of the module, by its own names.
    """
    inner = {name.removeprefix("model."): value.detach().contiguous() for name, value in weights.items()}
    module.model.save_pretrained(folder, state_dict=inner)
    prompter.tokenizer.save_pretrained(folder)


def load_causal(
    name_or_folder: str, dtype: torch.dtype = torch.float32, four_bit: bool = False
) -> tuple[CausalModule, Prompter]:
    """A causal language model by built-in name (smollm2-135m), folder, or name on the hub, in evaluation. A folder of
    adapters is merged into the model they are for.

    Args:
        dtype: of the weights, or of what they are computed in.
        four_bit: keep the layers' weights as 4-bit NormalFloat, their scales in 8 bits (Dettmers et al. 2023, arXiv
            2305.14314, section 3).

    Raises: ValueError where there is no such model, it has no chat template, or no safetensors.
    """
    if four_bit:
        check_four_bit(name_or_folder)
    if (base := adapted_from(name_or_folder)) is not None:
        from tdtrain.models.lora import merge_causal  # peft takes seconds to import

        module, prompter = load_causal(base, dtype)
        return merge_causal(module, Path(name_or_folder)), prompter
    quantization = _in_four_bits(dtype) if four_bit else None

    def whole(source: str, config: Any) -> Any:
        return AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype, use_safetensors=True, attn_implementation=PACKED, trust_remote_code=trusted(),
            quantization_config=quantization,
        )  # fmt: skip

    model, tokenizer = _loaded(name_or_folder, whole)
    if four_bit:
        _keep_gradients(model)
    return CausalModule(model).eval(), Prompter(tokenizer)


def outline(name_or_folder: str) -> tuple[CausalModule, Prompter]:
    """The same model without the numbers of its weights (torch's meta device), which are only looked for: a driver may
    have no room for them.

    Raises: as `load_causal`; ValueError also where training on packed documents does not follow it.
    """
    base = base_of(name_or_folder)
    model, tokenizer = _loaded(base, _without_numbers)
    few = _stand_in(model.config)
    check_packed(few or load_causal(base)[0], name_or_folder)
    return CausalModule(model).eval(), Prompter(tokenizer)


def base_of(name_or_folder: str) -> str:
    """The model that a folder's adapters are for, and those of that folder, and so on; the name itself where it is none
    of adapters."""
    while (base := adapted_from(name_or_folder)) is not None:
        name_or_folder = base
    return name_or_folder


def is_quantized(config: Any) -> bool:
    """Whether a model's weights are stored in fewer bits than they are computed in."""
    return getattr(config, "quantization_config", None) is not None


def shortened(config: Any, layers: int, **changes: Any) -> Any:
    """The config of a model with the first of its layers alone."""
    values = config.to_dict()
    by_layer = {name: value[:layers] for name, value in values.items() if name.endswith("layer_types") and value}
    return type(config).from_dict(values | by_layer | {"num_hidden_layers": layers} | changes)


def _without_numbers(source: str, config: Any) -> Any:
    how: dict[str, Any] = {
        "dtype": torch.float32, "attn_implementation": PACKED, "trust_remote_code": trusted()
    }  # fmt: skip
    if not is_quantized(config):
        return AutoModelForCausalLM.from_pretrained(source, use_safetensors=True, device_map="meta", **how)
    with torch.device("meta"):  # quantized weights cannot be looked at there
        return AutoModelForCausalLM.from_config(config, **how)


@torch.no_grad()
def _stand_in(config: Any) -> CausalModule | None:
    """A model of the same kind with a layer of each sort, few tokens and narrow inner layers, weights at random; large
    logits, so that a cap on them shows. None of families whose config names things in ways of its own."""
    try:
        config = config.get_text_config(decoder=True)
        kinds = getattr(config, "layer_types", None) or [""]
        layers = min(config.num_hidden_layers, max(2, *(1 + kinds.index(kind) for kind in set(kinds))))
        narrow = {name: FEW for name in config.to_dict() if name.endswith("intermediate_size")}
        model = AutoModelForCausalLM.from_config(
            shortened(config, layers, vocab_size=FEW, pad_token_id=None, **narrow),
            dtype=torch.float32, attn_implementation=PACKED, trust_remote_code=trusted(),
        )  # fmt: skip
        module = CausalModule(model).eval()
        module.head.weight.mul_(LARGE)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError):
        return None
    return module


def _loaded(name: str, model_of: Callable[[str, Any], Any]) -> tuple[Any, PreTrainedTokenizerBase]:
    source = source_of(name)
    try:
        with loading(name):
            config = AutoConfig.from_pretrained(source, trust_remote_code=trusted())  # says what is wrong shortly
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trusted())
            model = model_of(source, config)
    except OSError as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"model_name={name!r} is no folder with a causal language model, and the Hugging Face hub gave "
            f"none ({reason}); use {NAME}, whose weights come with a package, or a folder with config.json, "
            "model.safetensors and tokenizer.json"
        ) from error
    return model, tokenizer


@torch.no_grad()
def check_packed(module: CausalModule, name: str) -> None:
    """Raises ValueError where packed documents do not get the logits that the model gives them apart: some families
    scale or cap them in ways of their own."""
    model, lengths = module.model, [3, 5]
    tokens = torch.arange(sum(lengths), device=next(model.parameters()).device)
    refused = (
        f"model_name={name}: {type(model).__name__} computes its logits in a way that training on packed documents "
        "does not follow; use a model of the kind of Llama, Mistral, Qwen or SmolLM"
    )
    try:
        packed = module.head(module.hidden_states(tokens, lengths))
    except (ValueError, TypeError, RuntimeError, AssertionError) as error:
        raise ValueError(refused) from error
    model.set_attn_implementation("eager")
    apart = torch.cat([model(input_ids=part[None]).logits[0] for part in tokens.split(lengths)])
    model.set_attn_implementation(PACKED)
    if not (packed - apart).abs().max() <= 0.02 * apart.abs().max():  # nor where they are no numbers
        raise ValueError(refused)


def check_four_bit(name_or_folder: str) -> None:
    """Raises ValueError where a model cannot be kept in 4 bits here."""
    if adapted_from(name_or_folder) is not None:
        raise ValueError(
            f"four_bit=True: {name_or_folder} holds adapters, which do not merge into 4 bits; name a model"
        )
    if find_spec("bitsandbytes") is None:
        raise ValueError("four_bit=True needs the package bitsandbytes; run `pip install bitsandbytes`")


def _in_four_bits(dtype: torch.dtype) -> BitsAndBytesConfig:
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def _keep_gradients(model: nn.Module) -> None:
    """On processors with AVX-512 BF16, bitsandbytes (0.50, Linear4bit.forward) repacks weights for good at the first
    evaluation, into a form that passes no gradient on and refuses widths that 32 does not divide. Not so here."""
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def source_of(name_or_folder: str) -> str:
    """What transformers loads: a folder, or a name on the hub."""
    return str(import_smollm2()) if name_or_folder == NAME else name_or_folder


def is_causal(name_or_folder: str) -> bool:
    """Whether a built-in name, folder or name on the hub is a causal language model (or adapters for one)."""
    name_or_folder = adapted_from(name_or_folder) or name_or_folder
    if name_or_folder in (NAME, *BUILT_IN):
        return name_or_folder == NAME
    try:
        config = AutoConfig.from_pretrained(name_or_folder, trust_remote_code=trusted())
        return type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
    except (OSError, ValueError):
        return False  # who loads it says what is wrong
