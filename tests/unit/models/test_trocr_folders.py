"""Folders of the TrOCR family: plain transformers', the published models' files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    TrOCRProcessor,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
)

from tdtrain.models.bridges import bridge_of
from tdtrain.models.trocr import CTC_TOKENS, CTC_WEIGHTS, TrOCRReader
from tdtrain.models.trocr_build import build_trocr
from tdtrain.models.trocr_inputs import vocabulary
from tdtrain.models.trocr_load import load_trocr
from tests.models_small import LIKES, draw_line, small_trocr, small_trocr_folder, timetable_texts
from tests.trocr_cases import TEXTS, batch_of, inputs_of, original


@torch.no_grad()
def test_a_saved_folder_is_plain_transformers(folder: Path, reader: TrOCRReader, tmp_path: Path) -> None:
    reader.save(tmp_path)
    pixel_values, labels = inputs_of(reader)
    expected = original(folder)(pixel_values=pixel_values, labels=labels).logits
    model, loading = VisionEncoderDecoderModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    assert torch.equal(model.eval()(pixel_values=pixel_values, labels=labels).logits, expected)
    processor = TrOCRProcessor.from_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)(TEXTS)["input_ids"] == processor.tokenizer(TEXTS)["input_ids"]
    theirs = processor([Image.fromarray(draw_line(text)) for text in TEXTS], return_tensors="pt").pixel_values
    written = processor.batch_decode(model.generate(theirs), skip_special_tokens=True)
    assert [reading.text for reading in reader.read(batch_of(reader))] == written


@torch.no_grad()
def test_a_saved_folder_loads_as_it_was(reader: TrOCRReader, tmp_path: Path) -> None:
    reader.save(tmp_path)
    again = load_trocr(str(tmp_path))
    before, after = reader.module(*inputs_of(reader)), again.module(*inputs_of(again))
    assert torch.equal(before.logits, after.logits)
    assert torch.equal(before.encoder_logits, after.encoder_logits)
    assert (again.pixels, again.codec.tokens, again.ctc_codec) == (reader.pixels, reader.codec.tokens, reader.ctc_codec)
    assert again.max_target_tokens == reader.max_target_tokens
    assert again.read(batch_of(again)) == reader.read(batch_of(reader))


@torch.no_grad()
def test_gathered_weights_are_saved_in_place_of_the_modules_own(reader: TrOCRReader, tmp_path: Path) -> None:
    state = {name: (value + 0.01).clone() for name, value in reader.module.state_dict().items()}
    reader.save(tmp_path, state)
    saved = load_trocr(str(tmp_path)).module.state_dict()
    assert saved.keys() == state.keys()
    for name, value in state.items():
        assert torch.equal(saved[name], value), name
    with pytest.raises(ValueError, match=r"module\.stranger"):
        reader.save(tmp_path, {"module.stranger": torch.zeros(1)})


def test_the_head_is_tied_where_the_published_one_is(folder: Path, reader: TrOCRReader, tmp_path: Path) -> None:
    reader.save(tmp_path, {name: value.clone() for name, value in reader.module.state_dict().items()})
    decoder = load_trocr(str(tmp_path)).module.model.decoder
    tied = decoder.output_projection.weight is decoder.model.decoder.embed_tokens.weight
    assert tied is VisionEncoderDecoderConfig.from_pretrained(folder).decoder.tie_word_embeddings
    assert ("decoder.output_projection.weight" in load_file(tmp_path / "model.safetensors")) is not tied


def test_a_ctc_head_can_be_put_on_and_stays_away_where_there_is_none(tmp_path: Path) -> None:
    reader = small_trocr(tmp_path / "a")
    assert reader.ctc_codec is None and reader.module(*inputs_of(reader)).encoder_logits is None
    reader.add_ctc_head("cabca")
    assert reader.ctc_codec.tokens == ("", "a", "b", "c")
    reader.save(tmp_path / "b")
    assert (tmp_path / "b" / CTC_WEIGHTS).is_file() and (tmp_path / "b" / CTC_TOKENS).is_file()
    load_trocr(str(tmp_path / "a")).save(tmp_path / "b")
    assert load_trocr(str(tmp_path / "b")).ctc_codec is None


@torch.no_grad()
def test_the_files_of_the_published_models_load(tmp_path: Path) -> None:
    """Word lists instead of tokenizer.json, the old processor file, no pooler, a stray tensor of fairseq's."""
    reader = small_trocr(tmp_path, "large", image_size=(32, 32), patch_size=(16, 16))
    expected = reader.module(*inputs_of(reader)).logits
    labels = reader.codec.encode(TEXTS)
    trained = json.loads((tmp_path / "tokenizer.json").read_text())["model"]
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.json").write_text(json.dumps(trained["vocab"] | {"<mask>": len(reader.codec.tokens) - 1}))
    merges = [" ".join(merge) for merge in trained["merges"]]
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    tokenizer = {"tokenizer_class": "RobertaTokenizer", "model_max_length": 512, "add_prefix_space": False}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    extractor = {"do_normalize": True, "do_resize": True, "feature_extractor_type": "ViTFeatureExtractor",
                 "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2, "size": 32}  # fmt: skip
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(extractor))
    (tmp_path / "generation_config.json").unlink()
    weights = {k: v for k, v in load_file(tmp_path / "model.safetensors").items() if "pooler" not in k}
    assert "encoder.encoder.layer.0.attention.attention.query.weight" in weights
    weights["decoder.model.decoder.embed_positions._float_tensor"] = torch.zeros(1)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})

    hub = load_trocr(str(tmp_path))
    assert hub.codec.tokens == reader.codec.tokens
    assert np.array_equal(hub.codec.encode(TEXTS), labels)
    assert hub.pixels == reader.pixels
    assert torch.equal(hub.module(*inputs_of(hub)).logits, expected)


def test_a_sentencepiece_model_gives_the_tokens_in_the_published_order(tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    small_trocr_folder(tmp_path, "small")
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "texts.txt").write_text("\n".join(timetable_texts(200)), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "texts.txt"), model_prefix=str(tmp_path / "trained"), vocab_size=60,
        hard_vocab_limit=False, character_coverage=1.0, minloglevel=2,
    )  # fmt: skip
    (tmp_path / "trained.model").rename(tmp_path / "sentencepiece.bpe.model")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "XLMRobertaTokenizer"}))
    tokens = vocabulary(str(tmp_path))
    pieces = sentencepiece.SentencePieceProcessor(str(tmp_path / "sentencepiece.bpe.model"))
    assert tokens[:4] == ("<s>", "<pad>", "</s>", "<unk>")
    assert tokens[4:-1] == tuple(pieces.id_to_piece(i) for i in range(3, pieces.get_piece_size()))


def _break_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layernorm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _break_size(folder: Path) -> None:
    path = folder / "preprocessor_config.json"
    path.write_text(path.read_text().replace("160", "384"))


BREAKS = {
    "has no config.json": lambda folder: (folder / "config.json").unlink(),
    "not 'trocr'": lambda folder: (folder / "config.json").write_text('{"decoder": {"model_type": "bert"}}'),
    "pickles are not read": lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
    r"no weights for \['encoder.layernorm.weight'\]": _break_weights,
    r"resizes to \(32, 384\), but the encoder takes \(32, 160\)": _break_size,
}


@pytest.mark.parametrize("message", BREAKS)
def test_a_broken_folder_is_refused_by_name(message: str, tmp_path: Path) -> None:
    small_trocr_folder(tmp_path)
    BREAKS[message](tmp_path)
    with pytest.raises(ValueError, match=message):
        load_trocr(str(tmp_path))


def test_a_model_out_of_reach_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name in ("microsoft/trocr-large-printed", str(tmp_path / "no such folder")):
        with pytest.raises(ValueError, match="neither a local folder nor a hub model") as error:
            load_trocr(name)
        assert name in str(error.value)


def test_vocabularies_are_compared_without_weights(tmp_path: Path) -> None:
    texts = timetable_texts(200)
    large, base, small = (str(small_trocr_folder(tmp_path / like, like, texts)) for like in LIKES)
    for folder in (large, base, small):
        (Path(folder) / "model.safetensors").unlink()
    assert bridge_of("same", large, base) == "same" and bridge_of("auto", large, small) == "rehead"
    with pytest.raises(ValueError, match="not the same ones; leave it out, or choose one of rehead") as error:
        bridge_of("same", large, small)
    for part in (large, small, len(vocabulary(large))):
        assert str(part) in str(error.value)


def test_as_many_tokens_are_not_yet_the_same_tokens(tmp_path: Path) -> None:
    one = str(small_trocr_folder(tmp_path / "one", texts=["abab"] * 9, vocab_size=262))
    other = str(small_trocr_folder(tmp_path / "other", texts=["cdcd"] * 9, vocab_size=262))
    assert len(vocabulary(one)) == len(vocabulary(other)) == 262
    assert bridge_of("auto", one, other) == "rehead"


@pytest.mark.parametrize(
    ("sizes", "message"),
    [({"image_size": (32, 161)}, "image_size"), ({"decoder_width": 30, "num_heads": 4}, "decoder_width=30")],
)
def test_sizes_that_do_not_divide_are_refused(sizes: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        build_trocr(tmp_path, "base", TEXTS, **sizes)
