"""The TrOCR family against plain transformers and step-by-step references, on small models of the published classes."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import normalizers
from torch import Tensor
from torch.nn import functional
from transformers import (
    AutoTokenizer,
    TrOCRProcessor,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
)

from tdtrain.models.bridges import bridge_of
from tdtrain.models.reader import IGNORED, read_images
from tdtrain.models.trocr import CTC_TOKENS, CTC_WEIGHTS, TrOCRReader
from tdtrain.models.trocr_build import build_trocr
from tdtrain.models.trocr_inputs import vocabulary
from tdtrain.models.trocr_load import load_trocr
from tests.models_small import LIKES, draw_line, small_trocr, small_trocr_folder, timetable_texts

TEXTS = ["Mo 8:05 Mathe 204", "Di 17:30 Čeština 7", "Fr 9:00 Kunst 31"]
START, END, PAD = 2, 2, 1


@pytest.fixture(scope="module", params=LIKES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_trocr_folder(tmp_path_factory.mktemp(request.param) / "model", request.param, ctc=True, seed=3)


@pytest.fixture(scope="module")
def reader(folder: Path) -> TrOCRReader:
    return load_trocr(str(folder))


def original(folder: Path) -> VisionEncoderDecoderModel:
    """The folder's model as transformers makes it, with true sinusoids: not left on the meta device."""
    loaded = VisionEncoderDecoderModel.from_pretrained(folder)
    model = VisionEncoderDecoderModel(VisionEncoderDecoderConfig.from_pretrained(folder))
    model.load_state_dict(loaded.state_dict())
    return model.eval()


def batch_of(reader: TrOCRReader, texts: list[str] = TEXTS) -> dict[str, Tensor]:
    batch = reader.pixels.collate([reader.pixels.resize(draw_line(text)) for text in texts])
    return {name: torch.from_numpy(array) for name, array in batch.items()}


def inputs_of(reader: TrOCRReader, texts: list[str] = TEXTS) -> tuple[Tensor, Tensor]:
    batch = batch_of(reader, texts)
    dtype = next(reader.module.parameters()).dtype
    labels = torch.from_numpy(reader.codec.encode(texts))
    return reader.pixels.normalize(batch["pixels"], batch["widths"], dtype), labels


# The network


@torch.no_grad()
def test_logits_are_those_of_transformers_with_the_labels_shifted_once(folder: Path, reader: TrOCRReader) -> None:
    pixel_values, labels = inputs_of(reader)
    model = original(folder)
    ours = reader.module(pixel_values, labels).logits
    assert torch.equal(ours, model(pixel_values=pixel_values, labels=labels).logits)
    for line, label in enumerate(labels):
        written = [START]
        for position, token in enumerate(label[label != IGNORED].tolist()):
            inputs = torch.tensor([written])
            step = model(pixel_values=pixel_values[line : line + 1], decoder_input_ids=inputs).logits[0, -1]
            torch.testing.assert_close(ours[line, position], step, atol=1e-5, rtol=1e-5)
            written.append(token)


@torch.no_grad()
def test_a_label_is_seen_only_by_later_positions(reader: TrOCRReader) -> None:
    pixel_values, labels = inputs_of(reader)
    changed = labels.clone()
    changed[:, 3] = 5
    before, after = reader.module(pixel_values, labels).logits, reader.module(pixel_values, changed).logits
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4], after[:, 4])


@torch.no_grad()
def test_padding_changes_no_logit_at_a_label(reader: TrOCRReader) -> None:
    pixel_values, labels = inputs_of(reader)
    together = reader.module(pixel_values, labels).logits
    for line, label in enumerate(labels):
        real = label[label != IGNORED]
        alone = reader.module(pixel_values[line : line + 1], real[None]).logits[0]
        torch.testing.assert_close(together[line, : len(real)], alone, atol=1e-5, rtol=1e-5)


def test_without_labels_comes_the_first_token(reader: TrOCRReader) -> None:
    pixel_values, labels = inputs_of(reader)
    torch.testing.assert_close(
        reader.module(pixel_values).logits, reader.module(pixel_values, labels).logits[:, :1], atol=1e-5, rtol=1e-5
    )


@torch.no_grad()
def test_moving_and_casting_keep_the_positions(folder: Path) -> None:
    reader = load_trocr(str(folder))
    pixel_values, labels = inputs_of(reader)
    expected = reader.module(pixel_values, labels).logits
    double = copy.deepcopy(reader.module).double()(pixel_values.double(), labels).logits
    torch.testing.assert_close(double.float(), expected, atol=1e-5, rtol=1e-4)
    for module in (load_trocr(str(folder), torch.bfloat16).module, reader.module.to(torch.bfloat16)):
        half = module(pixel_values.bfloat16(), labels).logits
        assert half.dtype == torch.bfloat16
        torch.testing.assert_close(half.float(), expected, atol=0.05, rtol=0.05)
    assert reader.module.to("meta")(pixel_values.to("meta"), labels.to("meta")).logits.shape == expected.shape


def test_sinusoids_are_not_trained_and_learned_positions_are(folder: Path, reader: TrOCRReader, tmp_path: Path) -> None:
    sinusoidal = not VisionEncoderDecoderConfig.from_pretrained(folder).decoder.use_learned_position_embeddings
    reader.save(tmp_path)
    for each in (reader, load_trocr(str(tmp_path))):
        weight = each.module.model.decoder.model.decoder.embed_positions.weight
        assert weight.requires_grad is not sinusoidal


def test_every_trained_parameter_gets_a_gradient(folder: Path) -> None:
    reader = load_trocr(str(folder))
    output = reader.module(*inputs_of(reader))
    (output.logits.square().mean() + output.encoder_logits.square().mean()).backward()
    without = [name for name, value in reader.module.named_parameters() if value.requires_grad and value.grad is None]
    assert without == []


@torch.no_grad()
@pytest.mark.parametrize("like", LIKES)
def test_ctc_columns_are_the_mean_over_their_patches(like: str, tmp_path: Path) -> None:
    reader = small_trocr(tmp_path, like, ctc=True, image_size=(32, 96), patch_size=(16, 8))
    pixel_values, labels = inputs_of(reader)
    logits = reader.module(pixel_values, labels).encoder_logits
    assert logits.shape == (3, 12, len(reader.ctc_codec.tokens))
    patches = reader.module.model.encoder(pixel_values).last_hidden_state[:, 2 if like == "small" else 1 :]
    assert patches.shape[1] == 24
    for column in range(12):
        expected = reader.module.ctc_head((patches[:, column] + patches[:, 12 + column]) / 2)
        torch.testing.assert_close(logits[:, column], expected, atol=1e-5, rtol=1e-5)


# Pixels


@settings(max_examples=20)
@given(height=st.integers(1, 70), width=st.integers(1, 300), seed=st.integers(0, 9))
def test_pixels_are_those_of_the_trocr_processor(reader: TrOCRReader, height: int, width: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    batch = reader.pixels.collate([reader.pixels.resize(image)])
    ours = reader.pixels.normalize(*map(torch.from_numpy, batch.values()), torch.float32)
    theirs = reader.processor(Image.fromarray(image), return_tensors="pt").pixel_values
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)


def test_pixels_travel_and_refuse_what_is_no_rgb_line(reader: TrOCRReader) -> None:
    assert pickle.loads(pickle.dumps(reader.pixels)) == reader.pixels
    assert hash(reader.pixels) is not None
    for bad in (np.zeros((32, 32), np.uint8), np.zeros((32, 0, 3), np.uint8), np.zeros((8, 8, 3), np.float32)):
        with pytest.raises(ValueError, match="uint8 RGB"):
            reader.pixels.resize(bad)


# Codec


def test_labels_end_and_do_not_start(reader: TrOCRReader) -> None:
    labels = reader.codec.encode(TEXTS)
    assert labels.dtype == np.int64
    for label, text in zip(labels, TEXTS, strict=True):
        real = label[label != IGNORED]
        assert real[-1] == END
        assert not set(real[:-1]) & {0, 1, 2, 3}
        assert (label[len(real) :] == IGNORED).all()
        assert reader.codec.decode(label) == text
    assert reader.codec.encode([""]).tolist() == [[END]]
    assert reader.codec.encode([]).shape == (0, 0)


@settings(max_examples=60)
@given(st.lists(st.text(alphabet=sorted(set("".join(timetable_texts(200))) - {" "}), min_size=1, max_size=8)))
def test_texts_of_the_alphabet_come_back(reader: TrOCRReader, words: list[str]) -> None:
    text = " ".join(words[:3])
    assert reader.codec.unknown(text) == set()
    assert reader.codec.decode(reader.codec.encode([text])[0]) == text


@settings(max_examples=60)
@given(st.text(max_size=8))
def test_what_is_not_unknown_survives(reader: TrOCRReader, text: str) -> None:
    if not reader.codec.unknown(text):
        assert reader.codec.decode(reader.codec.encode([text])[0]).split() == text.split()


def test_unknown_characters_are_named(reader: TrOCRReader) -> None:
    byte_level = len(reader.codec.tokens) > 256
    assert reader.codec.unknown("8€\t▁") == (set() if byte_level else {"€", "\t", "▁"})
    if not byte_level:
        with pytest.raises(ValueError, match="€"):
            reader.codec.encode(["Mo", "8€"])


def test_characters_that_melt_into_others_are_unknown_together(tmp_path: Path) -> None:
    codec = small_trocr(tmp_path).codec
    codec.tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    assert codec.unknown("e") == codec.unknown("\u0301") == codec.unknown("é") == set()
    assert codec.unknown("Me\u0301") == {"e", "\u0301"}


def test_a_special_token_in_a_text_is_spelled_out(tmp_path: Path) -> None:
    codec = small_trocr(tmp_path).codec
    label = codec.encode(["a</s>b<pad>"])[0]
    assert (label[:-1] > 3).all()
    assert codec.decode(label) == "a</s>b<pad>"


def test_a_text_the_model_cannot_finish_is_refused(reader: TrOCRReader) -> None:
    with pytest.raises(ValueError, match=r"at most 64.*max_new_tokens"):
        reader.codec.encode(["8:05 " * 60])


def test_tokens_are_as_many_as_logits_and_the_codec_travels(reader: TrOCRReader) -> None:
    assert len(reader.codec.tokens) == reader.module(*inputs_of(reader)).logits.shape[-1]
    assert reader.codec.tokens[:4] == ("<s>", "<pad>", "</s>", "<unk>")
    again = pickle.loads(pickle.dumps(reader.codec))
    assert again.tokens == reader.codec.tokens
    assert np.array_equal(again.encode(TEXTS), reader.codec.encode(TEXTS))


# Reading


@torch.no_grad()
def test_reading_is_the_argmax_of_the_teacher_forced_logits(folder: Path) -> None:
    reader = load_trocr(str(folder))
    # Large random weights write another line for each image, and a loud end token ends some before others.
    generator = torch.Generator().manual_seed(0)
    for parameter in reader.module.model.parameters():
        if parameter.ndim > 1:
            parameter.normal_(generator=generator)
    head = reader.module.model.decoder.output_projection.weight.mul_(0.3)
    head[END] *= 2.5
    images = [draw_line(text) for text in timetable_texts(12, seed=5)]
    readings = read_images(reader, images, batch_size=5)
    assert len({reading.text for reading in readings}) > 5
    for image, reading in zip(images, readings, strict=True):
        batch = reader.pixels.collate([reader.pixels.resize(image)])
        pixel_values = reader.pixels.normalize(*map(torch.from_numpy, batch.values()), torch.float32)
        written: list[int] = []
        probabilities: list[float] = []
        while len(written) < reader.max_target_tokens and END not in written:
            labels = torch.tensor([[*written, IGNORED]])
            probability, token = reader.module(pixel_values, labels).logits[0, -1].softmax(-1).max(-1)
            written.append(int(token))
            probabilities.append(float(probability))
        assert reading.text == reader.codec.decode(written)
        assert reading.confidence == pytest.approx(np.mean(probabilities), abs=1e-4)


def test_reading_in_training_mode_has_no_dropout_and_leaves_the_mode(reader: TrOCRReader) -> None:
    batch = batch_of(reader)
    expected = reader.read(batch)
    reader.module.train()
    try:
        assert reader.read(batch) == expected
        assert all(module.training for module in reader.module.modules())
    finally:
        reader.module.eval()


def test_beams_and_the_default_length_of_a_hub_folder_are_not_heeded(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    hub = {"max_length": 20, "num_beams": 4, "no_repeat_ngram_size": 3, "length_penalty": 2.0, "eos_token_id": 2}
    (tmp_path / "generation_config.json").write_text(json.dumps(hub))
    reader, expected = load_trocr(str(tmp_path)), load_trocr(str(folder))
    assert reader.max_target_tokens == 64
    assert reader.read(batch_of(reader)) == expected.read(batch_of(expected))


# Folders


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


# Learning


@pytest.mark.slow
@pytest.mark.parametrize("like", LIKES)
def test_a_small_one_learns_32_lines_by_heart(like: str, tmp_path: Path) -> None:
    """CE and CTC as they are meant to be used; with a wrong shift or start token it cannot read what it learned."""
    texts = timetable_texts(32)
    torch.manual_seed(0)
    reader = small_trocr(
        tmp_path, like, ctc=True, encoder_width=64, decoder_width=64, num_heads=4, dropout=0.0, vocab_size=300
    )
    pixel_values, labels = inputs_of(reader, texts)
    characters = torch.from_numpy(reader.ctc_codec.encode(texts))
    lengths = (characters != IGNORED).sum(dim=1)
    columns = torch.full((32,), reader.module.num_columns)
    parameters = [parameter for parameter in reader.module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.0)
    reader.module.train()
    for step in range(600):
        output = reader.module(pixel_values, labels)
        log_probabilities = output.encoder_logits.log_softmax(-1).transpose(0, 1)
        loss = functional.cross_entropy(output.logits.transpose(1, 2), labels, ignore_index=IGNORED)
        loss = loss + functional.ctc_loss(log_probabilities, characters.clamp(min=0), columns, lengths)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % 20 == 19 and [reading.text for reading in reader.read(batch_of(reader, texts))] == texts:
            return
    pytest.fail(f"{like} did not learn 32 lines in 600 steps; the loss is {loss.item():.3f}")
