"""Any reader by its name: built in, a folder, or on the hub."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers.utils import logging

from tdtrain.models.ppocr import load_ppocr
from tdtrain.models.ppocr_import import BUILT_IN
from tdtrain.models.reader import Reader
from tdtrain.models.trocr import load_trocr

logging.disable_progress_bar()


def load_reader(name_or_folder: str, dtype: torch.dtype = torch.float32) -> Reader:
    """Loads a reader of either family.

    Args:
        name_or_folder: a built-in name (ppocrv6-small, ppocrv6-tiny), a folder, or a name on the hub.
        dtype: of the weights.

    Raises: ValueError where there is no such model, or it is of no family we know.
    """
    return (load_trocr if is_trocr(name_or_folder) else load_ppocr)(name_or_folder, dtype)


def is_trocr(name_or_folder: str) -> bool:
    """Whether a name or folder is of the TrOCR family; the others are PP-OCR's."""
    config = Path(name_or_folder) / "config.json"
    if name_or_folder not in BUILT_IN and config.exists():
        return json.loads(config.read_text()).get("model_type") == "vision-encoder-decoder"
    return "trocr" in name_or_folder.lower()
