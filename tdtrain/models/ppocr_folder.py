"""PP-OCR folders as transformers has them, the charset where its own image processors keep it.

`preprocessor_config.json` holds `character_list`, one entry an id: the blank under some name first, the space last.
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_RECOGNITION_MAPPING_NAMES
from transformers.utils import cached_file

from tdtrain.models.ctc_codec import CTCCodec

PROCESSORS = {
    "pp_ocrv5_server_rec": "PPOCRV5ServerRecImageProcessor",
    "pp_ocrv5_mobile_rec": "PPOCRV5ServerRecImageProcessor",
    "pp_ocrv6_small_rec": "PPOCRV6SmallRecImageProcessor",
    "pp_ocrv6_tiny_rec": "PPOCRV6SmallRecImageProcessor",
}
"""transformers' image processor by model type; with it, plain transformers reads pictures and decodes."""
_CHARSET_FILES = ("preprocessor_config.json", "processor_config.json")


def write_folder(folder: Path, config: PreTrainedConfig, weights: dict[str, Tensor], codec: CTCCodec) -> None:
    """Writes a folder that plain transformers loads: config, weights, and the image processor with the charset.

    The same files as `save_pretrained`, which imports DeepSpeed where that is installed and so takes seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config.architectures = [MODEL_FOR_TEXT_RECOGNITION_MAPPING_NAMES[config.model_type]]
    config.save_pretrained(folder)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    processor = {
        "image_processor_type": PROCESSORS[config.model_type],
        "size": {"height": 48, "width": 320},
        "pad_size": {"height": 48, "width": 320},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "rescale_factor": 1 / 255,
        "character_list": ["blank", *codec.tokens[1:]],
    }
    text = json.dumps(processor, ensure_ascii=False, indent=1)
    (folder / "preprocessor_config.json").write_text(text + "\n", encoding="utf-8")


def read_charset(name_or_folder: str, num_tokens: int) -> CTCCodec:
    """The charset of a local folder or a hub model.

    Args:
        name_or_folder: a folder, or a name on the hub.
        num_tokens: the head's outputs, blank and space among them; a charset without these two gets them added.

    Raises: ValueError when there is none, or its length is not the head's.
    """
    for file in _CHARSET_FILES:
        path = cached_file(
            name_or_folder, file, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_gated_repo=False
        )
        config = json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
        characters = config.get("character_list") or config.get("image_processor", {}).get("character_list")
        if not characters:
            continue
        if len(characters) == num_tokens:
            return CTCCodec(("", *characters[1:]))
        if len(characters) == num_tokens - 2:
            return CTCCodec(("", *characters, " "))
        raise ValueError(
            f"{name_or_folder}: character_list in {file} has {len(characters)} entries and the head {num_tokens} "
            f"outputs; {num_tokens} or {num_tokens - 2} (without blank and space) are right"
        )
    raise ValueError(f"{name_or_folder} has no character_list in {' or '.join(_CHARSET_FILES)}; add the charset there")
