"""Any reader by its name: built in, a folder, or on the hub."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers.utils import logging

from tdtrain.models.ppocr import load_ppocr
from tdtrain.models.ppocr_import import BUILT_IN
from tdtrain.models.reader import Reader
from tdtrain.models.trocr_load import load_trocr

ADAPTERS = "adapter_config.json"

logging.disable_progress_bar()

# cuDNN's attention, torch's first choice on Hopper, plans 0.12 s for every length it has not seen, and here nearly
# every length is new; flash attention takes as long for any (benchmarks/LOG.md).
torch.backends.cuda.enable_cudnn_sdp(False)


def load_reader(name_or_folder: str, dtype: torch.dtype = torch.float32) -> Reader:
    """Loads a reader of either family.

    Args:
        name_or_folder: a built-in name (ppocrv6-small, ppocrv6-tiny), a folder, or a name on the hub. A folder of
            adapters is merged into the model they are for.
        dtype: of the weights.

    Raises: ValueError where there is no such model, or it is of no family we know.
    """
    if (base := adapted_from(name_or_folder)) is not None:
        from tdtrain.models.lora import merge  # peft takes seconds to import

        reader = merge(load_reader(base, dtype), Path(name_or_folder))
        reader.name = name_or_folder
        return reader
    return (load_trocr if is_trocr(name_or_folder) else load_ppocr)(name_or_folder, dtype)


def is_trocr(name_or_folder: str) -> bool:
    """Whether a name or folder is of the TrOCR family; the others are PP-OCR's."""
    name_or_folder = adapted_from(name_or_folder) or name_or_folder
    config = Path(name_or_folder) / "config.json"
    if name_or_folder not in BUILT_IN and config.exists():
        return json.loads(config.read_text()).get("model_type") == "vision-encoder-decoder"
    return "trocr" in name_or_folder.lower()


def adapted_from(name_or_folder: str) -> str | None:
    """The name or folder of the model that a folder's adapters are for; None where it holds none."""
    config = Path(name_or_folder) / ADAPTERS
    return json.loads(config.read_text())["base_model_name_or_path"] if config.is_file() else None
