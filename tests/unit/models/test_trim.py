"""TrOCRs cut to a corpus: the same tokens, the same logits at them, and a folder that plain transformers loads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers
from torch import Tensor, nn
from transformers import AutoTokenizer, RobertaTokenizerFast, VisionEncoderDecoderModel, XLMRobertaTokenizer
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from tdtrain.models.reader import read_images
from tdtrain.models.trim import kept_tokens, trim, trim_tokenizer
from tdtrain.models.trocr import TrOCRReader
from tdtrain.models.trocr_inputs import TrOCRCodec, load_inputs
from tdtrain.models.trocr_load import load_trocr
from tests.models_small import LIKES, draw_line, small_trocr, small_trocr_folder, timetable_texts

CORPUS = timetable_texts(12, seed=1)
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]


@pytest.fixture(scope="module", params=LIKES)
def reader(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TrOCRReader:
    return small_trocr(tmp_path_factory.mktemp(request.param), request.param, ctc=True, seed=3)


@pytest.fixture(scope="module")
def trimmed(reader: TrOCRReader) -> TrOCRReader:
    return trim(reader, iter(CORPUS))


def written(codec: TrOCRCodec, texts: list[str]) -> list[list[str]]:
    """The tokens of each label."""
    return [[codec.tokens[i] for i in label if i >= 0] for label in codec.encode(texts)]


def inputs_of(reader: TrOCRReader, texts: list[str] = CORPUS) -> tuple[Tensor, Tensor]:
    pixel_values = torch.randn(len(texts), 3, 32, 160, generator=torch.Generator().manual_seed(0))
    return pixel_values, torch.from_numpy(reader.codec.encode(texts))


def codec_of(tokenizer: PreTrainedTokenizerBase) -> TrOCRCodec:
    return TrOCRCodec(tokenizer, tuple(tokenizer.convert_ids_to_tokens(range(len(tokenizer)))), 64)


# Tokens


@settings(max_examples=40)
@given(corpus=st.lists(st.sampled_from(timetable_texts(200)), min_size=1, max_size=5), data=st.data())
def test_corpus_texts_keep_their_tokens_and_others_can_be_spelled(
    reader: TrOCRReader, corpus: list[str], data: st.DataObject
) -> None:
    kept = kept_tokens(reader.codec, corpus)
    codec = codec_of(trim_tokenizer(reader.codec.tokenizer, kept))
    assert codec.tokens == tuple(reader.codec.tokens[i] for i in kept)
    assert codec.tokens[:4] == tuple(SPECIAL)
    assert written(codec, corpus) == written(reader.codec, corpus)
    assert [codec.decode(label) for label in codec.encode(corpus)] == corpus
    word = st.text(sorted(set("".join(corpus)) - {" "}), min_size=1, max_size=8)
    text = " ".join(data.draw(st.lists(word, min_size=1, max_size=3)))
    assert codec.unknown(text) == set()
    assert codec.decode(codec.encode([text])[0]) == text


def test_nothing_stays_that_is_not_needed(reader: TrOCRReader, trimmed: TrOCRReader) -> None:
    used = {token for line in written(reader.codec, CORPUS) for token in line}
    model = json.loads(reader.codec.tokenizer.backend_tokenizer.to_str())["model"]
    if model["type"] == "BPE":
        needed = set(pre_tokenizers.ByteLevel.alphabet())
        assert needed < set(trimmed.codec.tokens)
        # From the last merge to the first, so that a part of a part is found.
        for left, right in reversed(model["merges"]):
            if left + right in used:
                used |= {left, right}
    else:
        needed = set("".join(used - {"</s>"})) | {"▁", min(model["vocab"], key=lambda entry: entry[1])[0]}
    assert set(trimmed.codec.tokens) == used | needed | {*SPECIAL, "<mask>"}
    assert len(trimmed.codec.tokens) < len(reader.codec.tokens)


def test_unknown_characters_cost_what_they_did() -> None:
    """Without the unlikely z, `:` alone would cost less than the three pieces around it."""
    scores = {"▁": -9.0, "a": -9.0, "b": -9.0, "c": -9.0, "d": -9.0, "ab": -0.5, "cd": -0.5, "b:c": -9.0, "k": -20.0}
    tokenizer = XLMRobertaTokenizer(vocab=[*((token, 0.0) for token in SPECIAL), *scores.items(), ("z", -30.0)])
    texts = ["ab:cd", "ab", "cd", "€"]
    kept = kept_tokens(codec_of(tokenizer), texts)
    cut = trim_tokenizer(tokenizer, kept)
    assert cut.tokenize("ab:cd") == tokenizer.tokenize("ab:cd") == ["▁", "a", "b:c", "d"]
    assert cut("€").input_ids == [0, cut.convert_tokens_to_ids("▁"), 3, 2]
    assert "k" not in cut.get_vocab() and "z" in cut.get_vocab()


def test_a_token_merged_in_two_ways_keeps_both() -> None:
    vocab = {token: i for i, token in enumerate([*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), "ab", "bc"])}
    vocab |= {"abc": len(vocab), "xy": len(vocab) + 1}
    merges = [("b", "c"), ("a", "b"), ("a", "bc"), ("ab", "c"), ("x", "y")]
    tokenizer = RobertaTokenizerFast(vocab=vocab, merges=merges)
    cut = trim_tokenizer(tokenizer, kept_tokens(codec_of(tokenizer), ["abc"]))
    assert {"ab", "bc", "abc"} < cut.get_vocab().keys() and "xy" not in cut.get_vocab()
    assert json.loads(cut.backend_tokenizer.to_str())["model"]["merges"] == [list(pair) for pair in merges[:-1]]


def test_a_sentencepiece_model_keeps_its_normalization(tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    small_trocr_folder(tmp_path, "small")
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "texts.txt").write_text("\n".join(timetable_texts(200)), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "texts.txt"), model_prefix=str(tmp_path / "trained"), vocab_size=90,
        hard_vocab_limit=False, character_coverage=1.0, minloglevel=2,
    )  # fmt: skip
    (tmp_path / "trained.model").rename(tmp_path / "sentencepiece.bpe.model")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "XLMRobertaTokenizer"}))
    _, codec, _ = load_inputs(tmp_path)
    # Full-width digits and a ligature-like fraction are two or three plain characters.
    texts = ["Ｍｏ １２:００", "Do ⑰"]
    cut = codec_of(trim_tokenizer(codec.tokenizer, kept_tokens(codec, texts)))
    assert len(cut.tokens) < len(codec.tokens)
    assert [cut.tokenizer.tokenize(text) for text in texts] == [codec.tokenizer.tokenize(text) for text in texts]
    assert cut.decode(cut.ids(["⑰ １:０"])[0]) == "17 1:0"
    cut.tokenizer.save_pretrained(tmp_path / "cut")
    again = AutoTokenizer.from_pretrained(tmp_path / "cut")
    assert again.backend_tokenizer.to_str() == cut.tokenizer.backend_tokenizer.to_str()


def test_the_word_lists_of_the_published_models_are_cut(tmp_path: Path) -> None:
    """vocab.json holds <mask> as its last token, and the configuration names it again."""
    small_trocr_folder(tmp_path, "large")
    model = json.loads((tmp_path / "tokenizer.json").read_text())["model"]
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"] | {"<mask>": len(model["vocab"])}))
    merges = [" ".join(merge) for merge in model["merges"]]
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    mask = {"__type": "AddedToken", "content": "<mask>", "lstrip": True, "normalized": True}
    names = {"tokenizer_class": "RobertaTokenizer", "add_prefix_space": False, "mask_token": mask}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(names))
    _, codec, _ = load_inputs(tmp_path)
    cut = codec_of(trim_tokenizer(codec.tokenizer, kept_tokens(codec, CORPUS)))
    assert written(cut, CORPUS) == written(codec, CORPUS)
    assert cut.tokens[-1] == "<mask>" and cut.tokenizer.mask_token_id == len(cut.tokens) - 1 < len(codec.tokens) - 1
    cut.tokenizer.save_pretrained(tmp_path / "cut")
    assert codec_of(AutoTokenizer.from_pretrained(tmp_path / "cut")).tokens == cut.tokens


def test_what_cannot_be_cut_is_refused(reader: TrOCRReader) -> None:
    with pytest.raises(ValueError, match="texts are empty"):
        trim(reader, [])
    with pytest.raises(ValueError, match=r"must keep the ids \[0, 1, 2, 3\]"):
        trim_tokenizer(reader.codec.tokenizer, [0, 2, 3, 4, 5])
    other = AutoTokenizer.from_pretrained(reader.name)
    other.backend_tokenizer.model = models.WordLevel({"<unk>": 3}, unk_token="<unk>")
    with pytest.raises(ValueError, match="WordLevel model"):
        trim_tokenizer(other, [0, 1, 2, 3])


# Weights


@torch.no_grad()
def test_logits_are_the_readers_own_at_the_kept_tokens(reader: TrOCRReader) -> None:
    before = {name: value.clone() for name, value in reader.module.state_dict().items()}
    cut = trim(reader, CORPUS)
    kept = kept_tokens(reader.codec, CORPUS)
    pixel_values, labels = inputs_of(reader)
    _, cut_labels = inputs_of(cut)
    assert not torch.equal(labels, cut_labels)
    theirs, ours = reader.module(pixel_values, labels), cut.module(pixel_values, cut_labels)
    assert torch.equal(ours.logits, theirs.logits[..., kept])
    assert torch.equal(ours.encoder_logits, theirs.encoder_logits)
    after = reader.module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert reader.module.head.out_features == reader.module.model.config.decoder.vocab_size == len(reader.codec.tokens)


def test_only_rows_of_embedding_and_head_go(reader: TrOCRReader, trimmed: TrOCRReader) -> None:
    decoder = trimmed.module.model.decoder
    tied = decoder.output_projection.weight is decoder.model.decoder.embed_tokens.weight
    assert tied is reader.module.model.config.decoder.tie_word_embeddings
    gone = len(reader.codec.tokens) - len(trimmed.codec.tokens)
    sizes = [sum(weight.numel() for weight in each.module.parameters()) for each in (reader, trimmed)]
    assert sizes[0] - sizes[1] == gone * 32 * (1 if tied else 2) > 0


@torch.no_grad()
def test_a_bias_of_the_head_and_frozen_weights_stay_so(tmp_path: Path) -> None:
    reader = small_trocr(tmp_path, "large")
    reader.module.head.bias = nn.Parameter(torch.arange(float(len(reader.codec.tokens))))
    reader.module.requires_grad_(False)
    cut = trim(reader, CORPUS)
    assert cut.module.head.bias.tolist() == kept_tokens(reader.codec, CORPUS)
    assert not any(weight.requires_grad for weight in cut.module.parameters())


@torch.no_grad()
def test_a_saved_folder_is_plain_transformers(reader: TrOCRReader, trimmed: TrOCRReader, tmp_path: Path) -> None:
    trimmed.save(tmp_path)
    pixel_values, labels = inputs_of(trimmed)
    model, loading = VisionEncoderDecoderModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"] and not loading["mismatched_keys"]
    output = model.eval()(pixel_values=pixel_values, labels=labels)
    assert torch.equal(output.logits, trimmed.module(pixel_values, labels).logits)
    assert output.loss.isfinite()
    assert model.generation_config.max_new_tokens == reader.max_target_tokens
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert type(tokenizer) is type(reader.codec.tokenizer)
    assert tokenizer.backend_tokenizer.to_str() == trimmed.codec.tokenizer.backend_tokenizer.to_str()
    again = load_trocr(str(tmp_path))
    assert (again.codec.tokens, again.ctc_codec) == (trimmed.codec.tokens, reader.ctc_codec)
    assert again.max_target_tokens == reader.max_target_tokens
    assert np.array_equal(again.codec.encode(CORPUS), labels)
    images = [draw_line(text) for text in CORPUS]
    assert read_images(again, images) == read_images(trimmed, images)
