"""TrOCR from a hub name or a folder."""

from __future__ import annotations

import json
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import GenerationConfig, VisionEncoderDecoderModel
from transformers.models.trocr.modeling_trocr import (
    TrOCRLearnedPositionalEmbedding,
    TrOCRSinusoidalPositionalEmbedding,
)

from tdtrain.models.trocr import CTC_TOKENS, CTC_WEIGHTS, Model, TrOCRModule, TrOCRReader
from tdtrain.models.trocr_inputs import load_inputs, model_folder


def load_trocr(name_or_folder: str, dtype: torch.dtype = torch.float32) -> TrOCRReader:
    """A TrOCR by hub name (microsoft/trocr-large-printed) or from a local folder, on the CPU, in evaluation mode.

    Reads greedily whatever the folder's generation config says about beams; writes that into the folders it saves.

    Raises: ValueError where the folder or the hub model is not there, is no TrOCR, or lacks weights.
    """
    folder = model_folder(name_or_folder)
    if not (folder / "config.json").is_file():
        raise ValueError(f"model={name_or_folder!r}: {folder} has no config.json; give a TrOCR's folder")
    model_type = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("decoder", {}).get("model_type")
    if model_type != "trocr":
        raise ValueError(f"model={name_or_folder!r}: its decoder is {model_type!r}, not 'trocr'")
    pixels, codec, processor = load_inputs(folder)
    try:
        loaded: Any = VisionEncoderDecoderModel.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, output_loading_info=True
        )
    except OSError as error:
        raise ValueError(f"model={name_or_folder!r}: no model.safetensors in {folder}; pickles are not read") from error
    model, loading = loaded
    # The encoder's pooler is not in the published files, and nothing uses it.
    if absent := sorted(name for name in loading["missing_keys"] if not name.startswith("encoder.pooler.")):
        raise ValueError(f"model={name_or_folder!r}: {folder} has no weights for {absent[:5]} ({len(absent)} in all)")
    if model.encoder.pooler is not None:
        # Without gradients, data-parallel training would wait for them.
        model.encoder.pooler.requires_grad_(False)
    _tabulate_positions(model)
    start_id = _start_id(model)
    model.generation_config = GenerationConfig(
        max_new_tokens=codec.max_target_tokens,
        num_beams=1,
        do_sample=False,
        use_cache=True,
        decoder_start_token_id=start_id,
        bos_token_id=codec.tokenizer.bos_token_id,
        eos_token_id=codec.end_id,
        pad_token_id=codec.pad_id,
    )
    reader = TrOCRReader(name_or_folder, TrOCRModule(model, start_id, codec.pad_id), pixels, codec, processor)
    if (folder / CTC_TOKENS).is_file():
        tokens = json.loads((folder / CTC_TOKENS).read_text(encoding="utf-8"))["tokens"]
        reader.add_ctc_head(tokens[1:]).load_state_dict(load_file(folder / CTC_WEIGHTS))
    reader.module.eval()
    return reader


def _start_id(model: Model) -> int:
    configs = (model.generation_config, model.config, model.config.decoder)
    for config in configs:
        if (start_id := getattr(config, "decoder_start_token_id", None)) is not None:
            return start_id
    raise ValueError("decoder_start_token_id is in neither generation_config.json nor config.json; TrOCR's is 2")


def _tabulate_positions(model: Model) -> None:
    """Turns sinusoidal positions into a frozen table of learned ones with the same values.

    transformers 5 leaves the sinusoids on the meta device after `from_pretrained`, and `.to` forgets them, since they
    are neither parameter nor buffer. A table moves, casts and shards as every weight does, and a folder saved from it
    loads in plain transformers, where a sinusoidal one fails at the first forward.
    """
    config = model.config.decoder
    decoder = model.decoder.model.decoder
    if not config.use_learned_position_embeddings:
        num_positions, width, pad_id = config.max_position_embeddings, config.d_model, config.pad_token_id
        sinusoids = TrOCRSinusoidalPositionalEmbedding.get_embedding(num_positions + pad_id + 1, width, pad_id)
        table = TrOCRLearnedPositionalEmbedding(num_positions, width)
        with torch.no_grad():
            # Position t is row t + offset of learned ones, row t + pad_id + 1 of sinusoids.
            table.weight[: table.offset] = 0
            table.weight[table.offset :] = sinusoids[pad_id + 1 :]
        decoder.embed_positions = table.to(decoder.embed_tokens.weight.dtype)
        config.use_learned_position_embeddings = True
        config.fixed_position_embeddings = True
    if getattr(config, "fixed_position_embeddings", False):
        decoder.embed_positions.requires_grad_(False)
