"""PP-OCR: the imported weights are the published ones, and nothing on the way to or from disk changes what is read."""

from __future__ import annotations

import copy
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForTextRecognition, HGNetV2Config, PPOCRV5ServerRecConfig

from tdtrain.models.ctc_codec import CTCCodec
from tdtrain.models.ctc_decode import character_map
from tdtrain.models.line_pixels import LinePixels
from tdtrain.models.ppocr import PPOCRModule, PPOCRReader, batch_norms, load_ppocr
from tdtrain.models.ppocr_folder import write_folder
from tdtrain.models.ppocr_import import BUILT_IN, BuiltIn, _steps, import_ppocr, pair_weights, source_files, tiny_config
from tdtrain.models.ppocr_student import fresh_ppocr, trim_alphabet
from tdtrain.models.reader import IGNORED, read_images
from tests.models_small import draw_line

TEXTS = ("Mo 8:05 Mathe 204", "Di", "09:45-10:30", "Donnerstag Fran\u00e7ais 3B Raum 117", "\u010ce\u0161tina", "PE")
ALPHABET = sorted(set("".join(TEXTS)))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of its own: an old one would hide a conversion that broke."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module", params=BUILT_IN)
def name(request: pytest.FixtureRequest) -> BuiltIn:
    return request.param


@pytest.fixture(scope="module")
def reader(name: BuiltIn, cache: Path) -> PPOCRReader:
    return load_ppocr(str(import_ppocr(name, cache)))


@pytest.fixture(scope="module")
def tiny(cache: Path) -> PPOCRReader:
    return load_ppocr(str(import_ppocr("ppocrv6-tiny", cache)))


def pixel_values(reader: PPOCRReader, texts: tuple[str, ...] = TEXTS) -> Tensor:
    return reader.pixels.normalize(*batch(reader, texts).values(), torch.float32)


def batch(reader: PPOCRReader, texts: tuple[str, ...] = TEXTS) -> dict[str, Tensor]:
    images = [reader.pixels.resize(draw_line(text, height=40)) for text in texts]
    return {key: torch.from_numpy(value) for key, value in reader.pixels.collate(images).items()}


def _one_thread() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return options


@torch.inference_mode()
def logits(reader: PPOCRReader, values: Tensor) -> Tensor:
    return reader.module(values).logits


def test_the_import_gives_what_onnxruntime_gives(name: BuiltIn, reader: PPOCRReader) -> None:
    session = onnxruntime.InferenceSession(
        str(source_files(name)[0]), _one_thread(), providers=["CPUExecutionProvider"]
    )
    generator = torch.Generator().manual_seed(1)
    noise = [torch.rand(2, 3, 48, width, generator=generator) * 2 - 1 for width in (16, 72, 328)]
    exact = copy.deepcopy(reader.module).double()  # some processors' fp32 convolutions alone are off by 1e-4
    for values in [*noise, pixel_values(reader)]:
        with torch.inference_mode():
            ours = exact(values.double()).logits.softmax(-1).numpy()
        theirs = session.run(None, {session.get_inputs()[0].name: values.contiguous().numpy()})[0]
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() <= 1e-4
        assert (ours.argmax(-1) == theirs.argmax(-1)).all()


def test_it_reads_drawn_lines(reader: PPOCRReader) -> None:
    readings = read_images(reader, [draw_line(text, height=40) for text in TEXTS])
    assert [reading.text for reading in readings] == list(TEXTS)
    assert all(0.9 < reading.confidence <= 1 for reading in readings)


def test_padding_changes_no_reading(reader: PPOCRReader) -> None:
    alone = [reader.read(batch(reader, (text,)))[0] for text in TEXTS]
    together = reader.read(batch(reader, (*TEXTS, " ".join(TEXTS))))[: len(TEXTS)]
    assert [reading.text for reading in alone] == [reading.text for reading in together]
    for left, right in zip(alone, together, strict=True):
        assert left.confidence == pytest.approx(right.confidence, abs=0.05)


def test_bf16_reads_the_same(reader: PPOCRReader, tmp_path: Path) -> None:
    reader.save(tmp_path)
    half = load_ppocr(str(tmp_path), torch.bfloat16)
    assert half.module.head.weight.dtype == torch.bfloat16
    assert [reading.text for reading in half.read(batch(half))] == list(TEXTS)


def test_plain_transformers_loads_the_saved_folder(reader: PPOCRReader, tmp_path: Path) -> None:
    reader.save(tmp_path)
    plain, report = AutoModelForTextRecognition.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    assert not plain.training
    values = pixel_values(reader)
    with torch.inference_mode():
        assert torch.equal(plain(values).last_hidden_state, logits(reader, values).softmax(-1))


def test_saving_and_loading_change_no_bit(tiny: PPOCRReader, tmp_path: Path) -> None:
    for start in (tiny, trim_alphabet(tiny, ALPHABET), fresh_ppocr("nano", ALPHABET)):
        folder = tmp_path / start.name.replace("/", "-")
        start.save(folder)
        again = load_ppocr(str(folder))
        assert again.codec == start.codec
        assert again.module.frozen_statistics == start.module.frozen_statistics
        assert torch.equal(logits(again, pixel_values(start)), logits(start, pixel_values(start)))


def test_given_weights_are_saved_in_place_of_the_modules_own(tiny: PPOCRReader, tmp_path: Path) -> None:
    state = {key: value.clone() for key, value in tiny.module.state_dict().items()}
    state["network.head.fc2.bias"] += 1
    tiny.save(tmp_path, state)
    assert torch.equal(load_ppocr(str(tmp_path)).module.head.bias, tiny.module.head.bias + 1)
    del state["network.head.fc2.bias"]
    with pytest.raises(ValueError, match=r"network\.head\.fc2\.bias"):
        tiny.save(tmp_path, state)


def test_folders_from_the_hub_are_read_with_and_without_blank_and_space(tmp_path: Path) -> None:
    backbone = HGNetV2Config(
        embedding_size=16,
        hidden_sizes=[16, 24, 32, 48],
        depths=[1, 1, 1, 1],
        stem_channels=[3, 8, 16],
        stem_strides=[2, 1, 1, 1, 1],
        stage_in_channels=[16, 16, 24, 32],
        stage_mid_channels=[8, 8, 8, 8],
        stage_out_channels=[16, 24, 32, 48],
        stage_num_blocks=[1, 1, 1, 1],
        stage_numb_of_layers=[2, 2, 2, 2],
        stage_downsample=[True] * 4,
        stage_downsample_strides=[[2, 1], [1, 2], [2, 1], [2, 1]],
        out_features=["stage4"],
    )
    config = PPOCRV5ServerRecConfig(backbone_config=backbone, head_out_channels=5, hidden_size=24, depth=1)
    network = AutoModelForTextRecognition.from_config(config).eval()
    start = PPOCRReader("v5", PPOCRModule(network, True), CTCCodec(("", "a", "\u3000", "\U0001f1e9\U0001f1ea", " ")))
    write_folder(tmp_path, network.config, network.state_dict(), start.codec)
    file = tmp_path / "preprocessor_config.json"
    processor = json.loads(file.read_text())
    values = torch.rand(1, 3, 48, 64)
    for characters in (processor["character_list"], processor["character_list"][1:-1]):
        file.write_text(json.dumps({**processor, "character_list": characters}))
        again = load_ppocr(str(tmp_path))
        assert again.codec == start.codec
        with torch.inference_mode():
            theirs = network(values).last_hidden_state
        assert torch.allclose(logits(again, values).softmax(-1), theirs, atol=1e-6)
    file.write_text(json.dumps({**processor, "character_list": ["a"]}))
    with pytest.raises(ValueError, match="has 1 entries and the head 5 outputs"):
        load_ppocr(str(tmp_path))


def test_trimming_keeps_the_logits_of_what_it_keeps(reader: PPOCRReader) -> None:
    trimmed = trim_alphabet(reader, [*ALPHABET, "\u1ea1"])  # a Vietnamese letter that neither charset has
    assert trimmed.codec.tokens[0] == "" and trimmed.codec.tokens[-1] == " "
    assert set(trimmed.codec.tokens) == {"", " ", "\u1ea1", *ALPHABET}
    assert trimmed.module.network.config.head_out_channels == len(trimmed.codec.tokens)
    assert reader.module.head.out_features == len(reader.codec.tokens)
    values = pixel_values(reader)
    ids = character_map(reader.codec, trimmed.codec)
    assert ids[trimmed.codec.ids["\u1ea1"]] == -1 and (ids == -1).sum() == 1 and ids[0] == 0
    before, after = logits(reader, values), logits(trimmed, values)
    torch.testing.assert_close(after[..., ids >= 0], before[..., ids[ids >= 0]], rtol=1e-5, atol=1e-5)
    assert after.softmax(-1)[..., ids < 0].max() < 0.01
    assert [reading.text for reading in trimmed.read(batch(trimmed))] == list(TEXTS)


def test_every_character_of_the_student_has_its_place_in_the_teacher(tiny: PPOCRReader, cache: Path) -> None:
    teacher = load_ppocr(str(import_ppocr("ppocrv6-small", cache))).codec
    ids = character_map(teacher, tiny.codec)
    assert [teacher.tokens[i] for i in ids] == list(tiny.codec.tokens)


def test_students_are_small_and_repeatable(cache: Path) -> None:
    teacher = load_ppocr(str(import_ppocr("ppocrv6-small", cache)))
    budget = sum(p.numel() for p in teacher.module.parameters()) / 5
    alphabet = teacher.codec.tokens[1:151]
    for size in ("mobile", "nano"):
        student, same, other = (fresh_ppocr(size, alphabet, seed).module.state_dict() for seed in (0, 0, 1))
        assert sum(value.numel() for value in student.values()) < budget
        assert all(torch.equal(student[key], same[key]) for key in student)
        assert not torch.equal(student["network.head.fc2.weight"], other["network.head.fc2.weight"])
    with pytest.raises(ValueError, match="size='huge'"):
        fresh_ppocr("huge", alphabet)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\['ab'\]"):
        fresh_ppocr("nano", ["ab"])


def test_a_fresh_student_learns_and_its_saved_folder_is_no_longer_fresh(tmp_path: Path) -> None:
    texts = ("8:05", "Di", "204", "PE")
    student = fresh_ppocr("nano", ALPHABET)
    inputs, labels = batch(student, texts), torch.from_numpy(student.codec.encode(texts))
    values = student.pixels.normalize(*inputs.values(), torch.float32)
    lengths = (labels != IGNORED).sum(1)
    optimizer = torch.optim.AdamW(student.module.parameters(), lr=5e-3)
    student.module.train()
    losses = []
    for _ in range(20):
        output = student.module(values, labels=labels, widths=inputs["widths"])
        log_probs = output.logits.log_softmax(-1).transpose(0, 1)
        loss = torch.nn.functional.ctc_loss(log_probs, labels.clamp(min=0), output.frames, lengths)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.1 * losses[0]
    student.save(tmp_path)
    assert load_ppocr(str(tmp_path)).module.frozen_statistics


def test_statistics_stay_in_training_where_they_are_frozen_and_nowhere_else(tiny: PPOCRReader) -> None:
    for start, frozen in ((trim_alphabet(tiny, ALPHABET), True), (fresh_ppocr("nano", ALPHABET), False)):
        module = start.module.train()
        before = [norm.running_mean.clone() for norm in batch_norms(module)]
        module(pixel_values(start)).logits.square().mean().backward()
        same = [torch.equal(old, norm.running_mean) for old, norm in zip(before, batch_norms(module), strict=True)]
        assert same == [frozen] * len(same)
        assert all(norm.weight.grad.abs().sum() > 0 for norm in batch_norms(module))
        assert module.network.head.training
        start.read(batch(start))
        assert module.training and all(norm.training != frozen for norm in batch_norms(module))


def test_two_that_import_at_once_get_the_same_whole_folder(tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        folders = set(pool.map(lambda _: import_ppocr("ppocrv6-tiny", tmp_path), range(3)))
    assert list(tmp_path.iterdir()) == list(folders)
    assert read_images(load_ppocr(str(folders.pop())), [draw_line("PE", height=40)])[0].text == "PE"


def test_weights_that_do_not_fit_are_refused() -> None:
    import onnx

    steps = list(_steps(onnx.load(source_files("ppocrv6-tiny")[0]).graph))
    for config, complaint in (
        (tiny_config(6906, stages=(48, 48, 96, 128)), "has shape"),
        (tiny_config(6905), r"head\.fc2\.weight has shape"),
    ):
        network = AutoModelForTextRecognition.from_config(config).eval()
        with pytest.raises(ValueError, match=complaint):
            pair_weights("ppocrv6-tiny", steps, network)
    network = AutoModelForTextRecognition.from_config(tiny_config(6906)).eval()
    with pytest.raises(ValueError, match="layers that the model lacks"):
        pair_weights("ppocrv6-tiny", [*steps, steps[-1]], network)
    with pytest.raises(ValueError, match=r"head\.fc2 is a linear and the ONNX file has nothing there"):
        pair_weights("ppocrv6-tiny", steps[:-1], network)


def test_names_that_lead_nowhere_are_refused() -> None:
    with pytest.raises(ValueError, match="ppocrv6-small"):
        load_ppocr("nobody/no-such-model")


@given(st.integers(1, 400), st.integers(1, 100))
def test_lines_keep_their_aspect_and_frames_cover_them(width: int, height: int) -> None:
    pixels = LinePixels(max_width=800)
    image = pixels.resize(np.zeros((height, width, 3), np.uint8))
    assert image.shape == (48, pixels.resized_width(width, height), 3)
    assert abs(image.shape[1] - 48 * width / height) < 1 or image.shape[1] == 800
    assert (pixels.frames(np.array([image.shape[1]])) * 8 - image.shape[1])[0] in range(8)


@settings(max_examples=15)
@given(st.lists(st.integers(1, 120), min_size=1, max_size=3))
def test_the_module_gives_the_frames_that_the_pixels_promise(widths: list[int]) -> None:
    student = fresh_ppocr("nano", "ab")
    arrays = student.pixels.collate([np.full((48, width, 3), 255, np.uint8) for width in widths])
    pixels, sizes = torch.from_numpy(arrays["pixels"]), torch.from_numpy(arrays["widths"])
    output = student.module(student.pixels.normalize(pixels, sizes, torch.float32), widths=sizes)
    assert output.frames.tolist() == student.pixels.frames(arrays["widths"]).tolist()
    assert output.logits.shape[1] == max(*output.frames.tolist(), 2)  # 16 pixels at least


def test_pixels_are_blue_green_red_around_zero_and_padding_is_zero() -> None:
    red = np.zeros((48, 9, 3), np.uint8)
    red[..., 0], red[..., 1] = 255, 51
    arrays = LinePixels().collate([red, np.zeros((48, 20, 3), np.uint8)])
    assert arrays["pixels"].shape == (2, 48, 24, 3) and arrays["widths"].tolist() == [9, 20]
    pixels, widths = torch.from_numpy(arrays["pixels"]), torch.from_numpy(arrays["widths"])
    values = LinePixels().normalize(pixels, widths, torch.float32)
    assert values.shape == (2, 3, 48, 24)
    torch.testing.assert_close(values[0, :, 0, 8], torch.tensor([-1.0, -0.6, 1.0]))
    assert (values[0, :, :, 9:] == 0).all() and (values[1, :, :, 20:] == 0).all() and (values[1, :, :, :20] == -1).all()
    with pytest.raises(ValueError, match="uint8"):
        LinePixels().resize(np.zeros((48, 9), np.uint8))
