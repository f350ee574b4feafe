"""The TrOCR family against plain transformers and step-by-step references, on small models of the published classes."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import (
    VisionEncoderDecoderConfig,
)

from tdtrain.models.reader import IGNORED, read_images
from tdtrain.models.trocr import TrOCRReader
from tdtrain.models.trocr_load import load_trocr
from tests.models_small import LIKES, draw_line, small_trocr, timetable_texts
from tests.trocr_cases import END, START, batch_of, inputs_of, original

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
