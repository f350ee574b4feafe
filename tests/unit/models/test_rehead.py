"""Students with their teacher's tokens, against a mean in a loop and tokens looked at by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import pre_tokenizers
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoTokenizer, RobertaTokenizerFast, XLMRobertaTokenizer
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from tdtrain.models.reader import IGNORED, read_images
from tdtrain.models.rehead import old_pieces, rehead
from tdtrain.models.trim import trim
from tdtrain.models.trocr import TrOCRReader
from tdtrain.models.trocr_build import Like
from tdtrain.models.trocr_inputs import TrOCRCodec
from tdtrain.models.trocr_load import load_trocr
from tests.models_small import LIKES, draw_line, small_trocr, timetable_texts

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
CORPUS = timetable_texts(12, seed=1)
EMBEDDING, HEAD = "model.decoder.model.decoder.embed_tokens.weight", "model.decoder.output_projection.weight"
PAIRS: list[tuple[Like, Like]] = [("small", "large"), ("base", "small")]
"""Student and teacher: the published pair, and a tied head with the tokenizers changed over."""


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrOCRReader]:
    return {like: small_trocr(tmp_path_factory.mktemp(like), like, ctc=True, seed=3) for like in LIKES}


@pytest.fixture(scope="module", params=PAIRS, ids="-".join)
def pair(request: pytest.FixtureRequest, readers: dict[str, TrOCRReader]) -> tuple[TrOCRReader, TrOCRReader]:
    student, teacher = request.param
    return readers[student], readers[teacher]


def inputs_of(reader: TrOCRReader, texts: list[str] = CORPUS) -> tuple[Tensor, Tensor]:
    pixel_values = torch.randn(len(texts), 3, 32, 160, generator=torch.Generator().manual_seed(0))
    return pixel_values, torch.from_numpy(reader.codec.encode(texts))


def codec_of(tokenizer: PreTrainedTokenizerBase) -> TrOCRCodec:
    return TrOCRCodec(tokenizer, tuple(tokenizer.convert_ids_to_tokens(range(len(tokenizer)))), 64)


def slow_pieces(old: TrOCRCodec, new: TrOCRCodec, token: str) -> list[str]:
    """Tokens of the old tokenizer's model, which is not asked to begin words of its own accord."""
    model = old.tokenizer.backend_tokenizer.model
    if "▁" in old.tokens:
        text = new.tokenizer.convert_tokens_to_string(["x", token])[1:]
        return [] if "\ufffd" in text else [piece.value for piece in model.tokenize(text.replace(" ", "▁"))]
    spelled = old.tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(token.replace("▁", " "))
    return [piece.value for word, _ in spelled for piece in model.tokenize(word)]


def test_rows_are_the_mean_of_the_old_pieces_rows(pair: tuple[TrOCRReader, TrOCRReader]) -> None:
    student, teacher = pair
    changed = rehead(student, teacher.codec)
    ids = {token: i for i, token in enumerate(student.codec.tokens)}
    old, new = student.module.state_dict(), changed.module.state_dict()
    num_means = 0
    for i, token in enumerate(teacher.codec.tokens):
        if token in teacher.codec.tokenizer.all_special_tokens:
            pieces = [token]
        else:
            pieces = slow_pieces(student.codec, teacher.codec, token)
        known = [ids[piece] for piece in pieces if piece in ids] or list(range(len(ids)))
        num_means += 1 < len(known) < len(ids)
        for name in (EMBEDDING, HEAD):
            expected = sum((old[name][j].double() for j in known), torch.zeros(32, dtype=torch.float64)) / len(known)
            torch.testing.assert_close(new[name][i].double(), expected, atol=1e-7, rtol=1e-5)
    assert num_means > 20


def test_a_word_start_stays_one_and_a_continuation_too() -> None:
    merges = [("Ġ", "8"), ("D", "o"), ("Ġ", "Do"), ("Ã", "§"), ("8", ":"), ("8:", "~")]
    tokens = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, merges)]
    byte_level = codec_of(RobertaTokenizerFast(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    scores = {"▁": -2.0, "8": -3.0, "▁8": -3.0, "D": -4.0, "o": -4.0, "▁D": -4.0, ":": -4.0, "ç": -5.0, "éo": -6.0}
    unigram = codec_of(XLMRobertaTokenizer(vocab=[*((token, 0.0) for token in SPECIAL), *scores.items()]))

    said = [[unigram.tokens[i] for i in ids] for ids in old_pieces(unigram, byte_level)]
    shown = dict(zip(byte_level.tokens, said, strict=True))
    assert (shown["Ġ8"], shown["8"], shown["Ġ"]) == (["▁8"], ["8"], ["▁"])
    assert (shown["ĠDo"], shown["Do"], shown["Ã§"]) == (["▁D", "o"], ["D", "o"], ["ç"])
    # Half of a ç, and a character that the unigram tokenizer does not know, alone and beside others.
    assert (shown["Ã"], shown["~"], shown["8:~"]) == ([], [], ["8", ":"])
    assert all(shown[token] == [token] for token in (*SPECIAL, "<mask>"))

    said = [[byte_level.tokens[i] for i in ids] for ids in old_pieces(byte_level, unigram)]
    back = dict(zip(unigram.tokens, said, strict=True))
    assert (back["▁8"], back["8"], back["▁"]) == (["Ġ8"], ["8"], ["Ġ"])
    assert (back["▁D"], back["ç"], back["éo"]) == (["Ġ", "D"], ["Ã§"], ["Ã", "©", "o"])
    assert all(back[token] == [token] for token in (*SPECIAL, "<mask>"))
    # Of one kind, half a character is itself.
    assert old_pieces(byte_level, byte_level) == [[i] for i in range(len(byte_level.tokens))]


def test_how_the_tokenizer_was_last_called_changes_nothing(readers: dict[str, TrOCRReader]) -> None:
    small, large = readers["small"].codec, readers["large"].codec
    expected = old_pieces(small, large)
    small.tokenizer(["Mo", "Mo 8:05 Mathe"], padding=True, truncation=True, max_length=2)
    assert old_pieces(small, large) == expected


@torch.no_grad()
def test_logits_without_a_token_are_as_the_average_one(readers: dict[str, TrOCRReader]) -> None:
    teacher = readers["large"].codec
    padded = TrOCRCodec(teacher.tokenizer, (*teacher.tokens, "<unused 400>"), teacher.max_target_tokens)
    for like in ("small", "base"):
        changed = rehead(readers[like], padded).module.model.decoder
        for rows, old in (
            (changed.output_projection.weight, readers[like].module.head.weight),
            (changed.model.decoder.embed_tokens.weight, readers[like].module.state_dict()[EMBEDDING]),
        ):
            torch.testing.assert_close(rows[-1], old.mean(dim=0))


@torch.no_grad()
def test_it_writes_the_teachers_labels_and_all_else_stays(
    pair: tuple[TrOCRReader, TrOCRReader], tmp_path: Path
) -> None:
    student, teacher = pair
    before = {name: value.clone() for name, value in student.module.state_dict().items()}
    changed = rehead(student, teacher.codec)
    pixel_values, labels = inputs_of(changed)
    assert changed.codec.tokens == teacher.codec.tokens
    assert np.array_equal(labels, teacher.codec.encode(CORPUS))
    assert not np.array_equal(labels, student.codec.encode(CORPUS))
    output = changed.module(pixel_values, labels)
    assert output.logits.shape == (*labels.shape, len(teacher.codec.tokens))
    assert output.logits.isfinite().all()
    assert torch.equal(output.encoder_logits, student.module(*inputs_of(student)).encoder_logits)
    after, own = changed.module.state_dict(), student.module.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in before.items())
    rest = before.keys() - {EMBEDDING, HEAD}
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in rest)
    decoder = changed.module.model.decoder
    tied = decoder.output_projection.weight is decoder.model.decoder.embed_tokens.weight
    assert tied is student.module.model.config.decoder.tie_word_embeddings
    changed.save(tmp_path)
    again = load_trocr(str(tmp_path))
    assert torch.equal(again.module(pixel_values, labels).logits, output.logits)
    assert AutoTokenizer.from_pretrained(tmp_path)(CORPUS).input_ids == teacher.codec.tokenizer(CORPUS).input_ids
    images = [draw_line(text) for text in CORPUS]
    assert read_images(again, images) == read_images(changed, images)


@torch.no_grad()
@pytest.mark.parametrize("like", LIKES)
def test_its_own_tokenizer_leaves_every_bit(like: Like, readers: dict[str, TrOCRReader]) -> None:
    student = readers[like]
    for dtype in (torch.float32, torch.bfloat16):
        same = load_trocr(student.name, dtype)
        changed = rehead(same, student.codec)
        after = changed.module.state_dict()
        assert all(torch.equal(value, after[name]) for name, value in same.module.state_dict().items())
        assert changed.max_target_tokens == student.max_target_tokens


@torch.no_grad()
def test_a_bias_of_the_head_is_averaged_too(readers: dict[str, TrOCRReader], tmp_path: Path) -> None:
    student = small_trocr(tmp_path, "small")
    student.module.head.bias = nn.Parameter(torch.arange(float(len(student.codec.tokens))))
    changed = rehead(student, readers["large"].codec)
    for bias, ids in zip(changed.module.head.bias, old_pieces(student.codec, changed.codec), strict=True):
        expected = np.mean(ids or range(len(student.codec.tokens)))
        assert bias.item() == pytest.approx(expected, rel=1e-6)


@torch.no_grad()
def test_reheaded_and_trimmed_it_is_compared_with_its_trimmed_teacher(pair: tuple[TrOCRReader, TrOCRReader]) -> None:
    student, teacher = pair
    pupil, master = trim(rehead(student, teacher.codec), CORPUS), trim(teacher, CORPUS)
    assert pupil.codec.tokens == master.codec.tokens != teacher.codec.tokens
    pixel_values, labels = inputs_of(master)
    assert np.array_equal(labels, pupil.codec.encode(CORPUS))
    ours, theirs = (each.module(pixel_values, labels).logits[labels != IGNORED] for each in (pupil, master))
    kl = functional.kl_div(ours.log_softmax(-1), theirs.log_softmax(-1), log_target=True, reduction="none").sum(-1)
    assert kl.isfinite().all() and (kl >= 0).all()


def test_the_limit_is_the_teachers_within_the_students_positions(
    readers: dict[str, TrOCRReader], tmp_path: Path
) -> None:
    teacher = readers["large"].codec
    short = small_trocr(tmp_path, "small", max_target_tokens=24)
    changed = rehead(short, teacher)
    assert changed.max_target_tokens == changed.module.model.generation_config.max_new_tokens == 24
    assert rehead(readers["small"], teacher).max_target_tokens == 64
    shy = TrOCRCodec(teacher.tokenizer, teacher.tokens, 40)
    changed = rehead(readers["small"], shy)
    assert changed.max_target_tokens == changed.module.model.generation_config.max_new_tokens == 40
    assert readers["small"].module.model.generation_config.max_new_tokens == 64


def test_special_tokens_elsewhere_are_refused(readers: dict[str, TrOCRReader]) -> None:
    tokens = ["<pad>", "<s>", "</s>", "<unk>", "a"]
    tokenizer = RobertaTokenizerFast(vocab={token: i for i, token in enumerate(tokens)}, merges=[])
    with pytest.raises(ValueError, match=r"bos_token_id is 0 in .* and 1 in the teacher"):
        rehead(readers["small"], TrOCRCodec(tokenizer, (*tokens, "<mask>"), 64))
