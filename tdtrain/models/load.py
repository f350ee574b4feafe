"""Any reader by its name: built in, a folder, or on the hub."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from tdtrain.models.ppocr import load_ppocr
from tdtrain.models.ppocr_import import BUILT_IN
from tdtrain.models.reader import Reader
from tdtrain.models.trocr import load_trocr

FAMILIES = {"vision-encoder-decoder": load_trocr}


def load_reader(name_or_folder: str, dtype: torch.dtype = torch.float32) -> Reader:
    """Loads a reader of either family.

    Args:
        name_or_folder: a built-in name (ppocrv6-small, ppocrv6-tiny), a folder, or a name on the hub.
        dtype: of the weights.

    Raises: ValueError where there is no such model, or it is of no family we know.
    """
    if name_or_folder in BUILT_IN:
        return load_ppocr(name_or_folder, dtype)
    config = Path(name_or_folder) / "config.json"
    if config.exists():
        family = json.loads(config.read_text()).get("model_type", "")
    else:
        family = "vision-encoder-decoder" if "trocr" in name_or_folder.lower() else "pp-ocr"
    return FAMILIES.get(family, load_ppocr)(name_or_folder, dtype)
