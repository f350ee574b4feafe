"""Live and stored teachers: frozen, compared character by character, refused where nothing can be compared."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tdtrain.admission import check_models
from tdtrain.config import DistillRun
from tdtrain.data.rows import content_id
from tdtrain.data.soft import Memory, soft_arrays
from tdtrain.models.load import load_reader
from tdtrain.models.ppocr import load_ppocr
from tdtrain.models.ppocr_student import fresh_ppocr, trim_alphabet
from tdtrain.models.reader import Reader
from tdtrain.teachers.cache import DEFAULT_K, Keep
from tdtrain.teachers.label_lines import label_lines
from tdtrain.teachers.label_pass import plan_labels
from tdtrain.teachers.live import LiveTeacher, check_pair
from tests.corpora import packed_lines
from tests.models_small import draw_line, small_trocr, small_trocr_folder

CPU = torch.device("cpu")
LETTERS = "0123456789:-aehimort"


def batch_of(reader: Reader, texts: list[str]) -> dict[str, torch.Tensor]:
    arrays = reader.pixels.collate([reader.pixels.resize(draw_line(text)) for text in texts])
    arrays |= {"labels": reader.codec.encode(texts), "frames": reader.pixels.frames(arrays["widths"])}
    return {key: torch.from_numpy(value) for key, value in arrays.items()}


def test_a_live_ctc_teacher_speaks_the_student_s_alphabet() -> None:
    student = fresh_ppocr("nano", [*LETTERS, "Ж"])
    teacher = LiveTeacher(load_ppocr("ppocrv6-tiny"), student, CPU)
    batch = batch_of(student, ["8:05 mathe", "10:15"])
    logits = teacher(batch).distribution
    assert logits.shape[-1] == len(student.codec.tokens)
    assert torch.isinf(logits[..., student.codec.ids["Ж"]]).all()  # a letter the teacher does not know
    known = [i for token, i in student.codec.ids.items() if token != "Ж"]
    assert torch.isfinite(logits[..., known]).all()
    best = "".join(student.codec.tokens[i] for i in torch.unique_consecutive(logits[1].argmax(-1)).tolist())
    assert best.startswith("10:15")


def test_the_teacher_is_frozen() -> None:
    reader = load_ppocr("ppocrv6-tiny")
    LiveTeacher(reader, fresh_ppocr("nano", LETTERS), CPU)
    assert not any(p.requires_grad for p in reader.module.parameters()) and not reader.module.training


def test_each_answer_of_a_sharded_teacher_is_one_forward_pass(tmp_path: Path) -> None:
    """DeepSpeed records what runs until the next one begins; without one its record grew with every step."""
    passes: list[int] = []

    def shard(module: torch.nn.Module) -> torch.nn.Module:
        module.register_forward_pre_hook(lambda *inputs: passes.append(1))
        return module

    reader = small_trocr(tmp_path / "teacher", "large")
    batch = batch_of(reader, ["8:05 Mathe"])
    plain = LiveTeacher(load_reader(reader.name), reader, CPU)(batch)
    teacher = LiveTeacher(load_reader(reader.name), reader, CPU, shard=shard)
    first = teacher(batch)
    assert torch.equal(first.distribution.hidden, plain.distribution.hidden)  # type: ignore[union-attr]
    assert len(passes) == 2  # the first batch is checked
    teacher(batch)
    assert len(passes) == 3
    encoder = LiveTeacher(load_reader(reader.name), reader, CPU, shard=shard, asked="encoder")
    assert torch.equal(encoder(batch).encoder, plain.encoder)  # type: ignore[arg-type]
    assert len(passes) == 4


def test_a_teacher_that_is_not_itself_is_found_out() -> None:
    student = fresh_ppocr("nano", LETTERS)
    reader = load_ppocr("ppocrv6-tiny")
    teacher = LiveTeacher(reader, student, CPU)
    with torch.no_grad():
        reader.module.head.weight.mul_(0.1)
    with pytest.raises(ValueError, match="its weights or its input are not what it was trained with"):
        teacher(batch_of(student, ["8:05 mathe"]))


def test_pairs_that_cannot_be_compared_are_refused_with_the_way_out(tmp_path: Path) -> None:
    ctc = fresh_ppocr("nano", LETTERS)
    large, small = small_trocr(tmp_path / "large", "large"), small_trocr(tmp_path / "small", "small")
    with pytest.raises(ValueError, match=r"have nothing in common.*--targets sequence"):
        check_pair(large, ctc)
    with pytest.raises(ValueError, match=r"not the same ones; use --vocabulary_bridge rehead"):
        check_pair(large, small)
    check_pair(large, small_trocr(tmp_path / "base", "base"))


def test_stored_candidates_are_the_teacher_s_own_frames() -> None:
    teacher = load_ppocr("ppocrv6-tiny")
    student = trim_alphabet(teacher, LETTERS)
    import cv2

    pictures = [cv2.imencode(".png", draw_line(text))[1].tobytes() for text in ("8:05", "10:15 mathe", "7")]
    rows = label_lines(teacher, ["a", "b", "c"], pictures, [None] * 3, Keep(k=DEFAULT_K["ctc"])).to_pylist()
    assert [row["id"] for row in rows] == ["a", "b", "c"] and rows[1]["text"] == "10:15 mathe"
    own = {token: i for i, token in enumerate(student.codec.tokens)}
    to_student = np.asarray([own.get(token, -1) for token in teacher.codec.tokens])
    frames = np.asarray([row["num_positions"] for row in rows])
    batch = soft_arrays(rows, frames, Memory(to_student))
    assert batch["soft_ids"].shape == (3, frames.max(), DEFAULT_K["ctc"]) and batch["taught"].all()
    mass = np.exp(batch["soft_logprobs"]).sum(-1)
    assert (mass[1] > 0.95).mean() > 0.9 and (mass <= 1.01).all()
    with pytest.raises(ValueError, match="different numbers of positions"):
        soft_arrays(rows, frames + 1, Memory(to_student))


def test_a_micro_batch_of_which_the_teacher_knows_nothing_has_the_arrays_of_others() -> None:
    rows, positions = [None, {"num_positions": 0}], np.asarray([3, 2])
    tokens = soft_arrays(rows, positions, Memory(np.arange(5), tail=True))
    assert {name: value.shape for name, value in tokens.items()} == {
        "taught": (2,), "soft_ids": (2, 3, 1), "soft_logprobs": (2, 3, 1), "soft_tail": (2, 3), "soft_told": (2, 3)
    }  # fmt: skip
    hidden = soft_arrays(rows, positions, Memory(np.arange(5), width=4))
    assert set(hidden) == {"taught", "soft_hidden"} and hidden["soft_hidden"].shape == (2, 3, 4)
    assert not hidden["taught"].any() and not tokens["taught"].any()


def test_labels_are_known_by_all_that_changes_them(tmp_path: Path) -> None:
    lines = packed_lines(tmp_path, num=24)
    tiny = plan_labels("ppocrv6-tiny", lines, str(tmp_path / "labels"))
    again = plan_labels("ppocrv6-tiny", lines, str(tmp_path / "elsewhere"))
    assert tiny.fingerprint == again.fingerprint
    changed = load_ppocr("ppocrv6-tiny")
    with torch.no_grad():
        changed.module.head.bias[5] += 1e-3
    changed.save(tmp_path / "changed")
    assert plan_labels(str(tmp_path / "changed"), lines, str(tmp_path)).fingerprint != tiny.fingerprint
    assert load_reader(str(tmp_path / "changed")).codec == changed.codec
    assert content_id("a", "b") != content_id("ab") != content_id("a", None)
    written = small_trocr_folder(tmp_path / "written", "large")
    of_all = [plan_labels(str(written), lines, str(tmp_path)).fingerprint for _ in range(2)]
    settings = written / "generation_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"max_new_tokens": 7}))
    of_all.append(plan_labels(str(written), lines, str(tmp_path)).fingerprint)
    assert of_all[0] == of_all[1] != of_all[2]


def test_a_live_teacher_of_other_pictures_is_refused_before_training_whatever_the_bridge(tmp_path: Path) -> None:
    large = str(small_trocr_folder(tmp_path / "large", "large", image_size=(32, 96)))
    small = str(small_trocr_folder(tmp_path / "small", "small"))
    for bridge in ("rehead", "align"):
        teaching = {"teacher_signal": "live", "vocabulary_bridge": bridge}
        with pytest.raises(ValueError, match=r"take different pictures .* use --teacher_signal stored"):
            check_models(DistillRun(teacher_model=large, student_model=small, teaching=teaching))
        check_models(DistillRun(teacher_model=large, student_model=small, teaching={"vocabulary_bridge": bridge}))
