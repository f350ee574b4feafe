"""Small TrOCRs with random weights, of the same classes and tokenizer kinds as the three published ones.

For tests, for students trained from nothing, and for trying a pipeline before the large models are fetched.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    DeiTConfig,
    DeiTImageProcessorPil,
    GenerationConfig,
    RobertaTokenizerFast,
    TrOCRConfig,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTImageProcessorPil,
    XLMRobertaTokenizer,
)
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from tdtrain.models.trocr_load import load_trocr

Like = Literal["large", "base", "small"]
SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>"]


def build_trocr(
    folder: Path,
    like: Like,
    texts: Sequence[str],
    *,
    encoder_width: int = 96,
    decoder_width: int = 96,
    encoder_layers: int = 2,
    decoder_layers: int = 1,
    num_heads: int = 4,
    decoder_heads: int | None = None,
    image_size: tuple[int, int] = (32, 160),
    patch_size: tuple[int, int] = (32, 4),
    vocab_size: int = 400,
    num_logits: int | None = None,
    max_target_tokens: int = 64,
    dropout: float = 0.1,
    ctc_alphabet: Sequence[str] | None = None,
    seed: int = 0,
) -> Path:
    """Writes a TrOCR folder as the hub has them, for `load_trocr` or plain transformers.

    Args:
        folder: where to; made where it is not there.
        like: `large` ViT, sinusoidal positions, relu, untied head, byte-level BPE; `base` ViT, learned, gelu, tied,
            byte-level BPE; `small` DeiT, learned, relu, untied, unigram.
        texts: what the tokenizer is trained on. The unigram one knows no other characters than theirs.
        encoder_width: of the encoder, divisible by num_heads.
        decoder_width: of the decoder, divisible by num_heads.
        encoder_layers: their number.
        decoder_layers: their number.
        num_heads: of every attention.
        decoder_heads: of the decoder's attentions, where they have another number.
        image_size: (height, width), pixels, divisible by patch_size.
        patch_size: (height, width), pixels; as high as the image makes one column of features a patch, as CTC likes.
        vocab_size: at most so many tokens; a byte-level tokenizer has at least 261, a unigram one a token a character.
        num_logits: the head's size where it shall be larger than the vocabulary, as to know what a real one costs.
        max_target_tokens: the longest label and reading, end token included.
        dropout: of the decoder.
        ctc_alphabet: characters of an additional CTC head on the encoder; None for none.
        seed: of the weights.

    Raises: ValueError for sizes that do not divide.
    """
    if any(size % patch for size, patch in zip(image_size, patch_size, strict=True)):
        raise ValueError(f"image_size={image_size} is not divisible by patch_size={patch_size}")
    decoder_heads = decoder_heads or num_heads
    for field, width, heads in (
        ("encoder_width", encoder_width, num_heads),
        ("decoder_width", decoder_width, decoder_heads),
    ):
        if width % heads:
            raise ValueError(f"{field}={width} is not divisible by num_heads={heads}")
    tokenizer = _unigram(texts, vocab_size) if like == "small" else _byte_level(texts, vocab_size)
    # The real large-printed is the odd one out: sinusoids, scaled embeddings without a norm.
    encoder = (DeiTConfig if like == "small" else ViTConfig)(
        hidden_size=encoder_width,
        num_hidden_layers=encoder_layers,
        num_attention_heads=num_heads,
        intermediate_size=4 * encoder_width,
        image_size=list(image_size),
        patch_size=list(patch_size),
        qkv_bias=like == "small",
    )
    decoder = TrOCRConfig(
        vocab_size=max(len(tokenizer), num_logits or 0),
        d_model=decoder_width,
        decoder_layers=decoder_layers,
        decoder_attention_heads=decoder_heads,
        decoder_ffn_dim=4 * decoder_width,
        cross_attention_hidden_size=encoder_width,
        max_position_embeddings=max_target_tokens,
        dropout=dropout,
        activation_function="gelu" if like == "base" else "relu",
        use_learned_position_embeddings=like != "large",
        layernorm_embedding=like != "large",
        scale_embedding=like != "base",
        tie_word_embeddings=like == "base",
    )
    special = {"decoder_start_token_id": 2, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        encoder, decoder, tie_word_embeddings=False, **special
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = VisionEncoderDecoderModel(config)
    model.generation_config = GenerationConfig(max_new_tokens=max_target_tokens, **special)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"height": image_size[0], "width": image_size[1]}
    processor = (
        DeiTImageProcessorPil(size=size, resample=2, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3)
        if like == "small"
        else ViTImageProcessorPil(size=size)
    )
    processor.save_pretrained(folder)
    if ctc_alphabet is not None:
        reader = load_trocr(str(folder))
        reader.add_ctc_head(ctc_alphabet, seed)
        reader.save_ctc_head(folder)
    return Path(folder)


def _byte_level(texts: Sequence[str], vocab_size: int) -> PreTrainedTokenizerBase:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,  # transformers adds <mask>
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    trained = json.loads(tokenizer.to_str())["model"]
    merges: list[Any] = [tuple(merge) for merge in trained["merges"]]
    return RobertaTokenizerFast(vocab=trained["vocab"], merges=merges)


def _unigram(texts: Sequence[str], vocab_size: int) -> PreTrainedTokenizerBase:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")]
    )
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size - 1,
        special_tokens=SPECIAL_TOKENS,
        unk_token="<unk>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    scores: list[Any] = [tuple(entry) for entry in json.loads(tokenizer.to_str())["model"]["vocab"]]
    return XLMRobertaTokenizer(vocab=scores)
