"""Classes of tokens, against the strings of the tokens and what the tokenizers write for real texts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from tokenizers import decoders

from tdtrain.losses.bridge import class_kl, class_kl_candidates
from tdtrain.losses.signal import Candidates
from tdtrain.models.spans import align, token_ends
from tdtrain.models.trocr_inputs import TrOCRCodec
from tdtrain.models.vocabulary_map import ClassMap, next_character_classes, projection_classes
from tests.codecs_small import codec, handmade, texts

Maps = Callable[[TrOCRCodec, TrOCRCodec], ClassMap]
PAIRS = [("byte", "unigram"), ("unigram", "byte"), ("byte", "byte"), ("unigram", "unigram")]


def by_token(of: TrOCRCodec, classes: np.ndarray) -> dict[str, int]:
    return dict(zip(of.tokens, classes.tolist(), strict=True))


def said(of: TrOCRCodec, i: int) -> str | None:
    """The text of a token as the tokenizer has it; bytes of no whole character are replaced."""
    token = of.tokens[i]
    if i >= len(of.tokenizer) or token in of.tokenizer.all_special_tokens:
        return None
    return token.replace("▁", " ") if "▁" in of.tokens else decoders.ByteLevel().decode([token])


@pytest.mark.parametrize("first", [False, True])
def test_class_probabilities_are_what_a_loop_over_the_strings_gives(first: bool) -> None:
    byte, unigram = codec("byte"), codec("unigram")
    of = next_character_classes(byte, unigram)
    maps = (of.teacher_first, of.student_first) if first else (of.teacher, of.student)
    whole = {said(byte, i) for i in range(len(byte.tokens))}
    totals: list[dict[object, float]] = []
    sums: list[np.ndarray] = []
    for codec_, classes in zip((byte, unigram), maps, strict=True):
        probabilities = np.random.default_rng(0).dirichlet(np.ones(len(codec_.tokens)))
        loop: dict[object, float] = {}
        for i, probability in enumerate(probabilities):
            text = said(codec_, i)
            if text is None:
                label: object = "end" if i == codec_.end_id else None
            else:
                begins = text[1:] if first and text.startswith(" ") else text
                raw = begins[:1].encode()
                if begins[:1] == "\ufffd":  # the bytes themselves
                    token = codec_.tokens[i]
                    spelled = {c: b for b, c in enumerate(byte_alphabet())}
                    raw = bytes([spelled[token[1 if first and text.startswith(" ") else 0]]])
                label = raw if begins[:1] in whole else raw[:1] or None
            loop[label] = loop.get(label, 0.0) + probability
        totals.append(loop)
        sums.append(np.bincount(classes[classes >= 0], probabilities[classes >= 0], minlength=of.num_classes))
    shared = (totals[0].keys() & totals[1].keys()) - {None}
    for loop, got in zip(totals, sums, strict=True):
        assert sorted(loop[label] for label in shared) == pytest.approx(sorted(got[got > 0]))
        assert (got > 0).sum() == len(shared) > 30
    order = [np.array([loop[label] for label in shared]) for loop in totals]
    pairs = {(round(x, 12), round(y, 12)) for x, y in zip(*order, strict=True)}
    assert pairs == {(round(x, 12), round(y, 12)) for x, y in zip(*sums, strict=True) if x > 0}


def byte_alphabet() -> list[str]:
    """The character of each byte: that whose decoded bytes end a text of all others."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = iter(range(256, 512))
    return [chr(value) if value in printable else chr(next(hidden)) for value in range(256)]


@settings(max_examples=150)
@given(text=texts())
@pytest.mark.parametrize("kinds", PAIRS, ids="-".join)
def test_where_labels_meet_both_next_tokens_have_the_class_of_the_next_character(
    kinds: tuple[str, str], text: str
) -> None:
    teacher, student = (codec(kind, 400 - 60 * i) for i, kind in enumerate(kinds))
    of = next_character_classes(teacher, student)
    ids = [token_ends(each, text)[0] for each in (teacher, student)]
    bytes_of = byte_level(teacher, student)
    whole = set(text).intersection(*({said(each, i) for i in range(len(each.tokens))} for each in bytes_of))
    seen: dict[int, object] = {}
    for i, j in align(teacher, student, text).starts.tolist():
        begin = i == j == 0
        maps = (of.teacher_first, of.student_first) if begin else (of.teacher, of.student)
        classes = [int(classes[token]) for classes, token in zip(maps, (ids[0][i], ids[1][j]), strict=True)]
        told = [said(each, token) for each, token in zip((teacher, student), (ids[0][i], ids[1][j]), strict=True)]
        if begin and (" " in told or not text.strip()):
            continue  # open, what comes next
        characters = {each.removeprefix(" " if begin else "")[:1] if each else "end" for each in told}
        if "\ufffd" in characters and characters & whole:
            continue  # written in parts although it has a token: the approximation that the docstring tells of
        assert classes[0] == classes[1] >= 0
        if "\ufffd" not in characters:
            (character,) = characters
            label = character if character in whole | {"end"} else character.encode()[0]
            assert seen.setdefault(classes[0], label) == label
    assert len(set(seen.values())) == len(seen)


def byte_level(*codecs: TrOCRCodec) -> list[TrOCRCodec]:
    return [each for each in codecs if "▁" not in each.tokens]


def test_characters_without_a_token_are_one_class_with_their_parts() -> None:
    byte, unigram = handmade("byte"), handmade("unigram")
    of = next_character_classes(byte, unigram)
    teacher, student = by_token(byte, of.teacher), by_token(unigram, of.student)
    assert teacher["â"] == student["–"] >= 0  # its first byte: there is no token for the dash
    assert teacher["Ã¼"] == student["ü"] >= 0
    assert teacher["Ã"] == -1  # no character of the student's needs it
    assert teacher["Ġ8"] == teacher["Ġ"] == student["▁"] == student["▁8"] == student["▁12:3"]
    assert teacher["12"] == teacher["1"] == student["13:15"]
    assert teacher["</s>"] == student["</s>"] >= 0
    assert {each[token] for each in (teacher, student) for token in ("<s>", "<pad>", "<unk>", "<unused 0>")} == {-1}
    assert teacher["9"] == -1 and len({*teacher.values(), *student.values()}) == of.num_classes + 1
    first = by_token(byte, of.teacher_first), by_token(unigram, of.student_first)
    assert first[0]["Ġ8"] == first[0]["8"] == first[1]["▁8"] == first[1]["8"] >= 0
    assert first[0]["Ġ"] == first[1]["▁"] == -1
    assert first[1]["▁12:3"] == first[0]["12"] and first[1]["▁ü"] == first[0]["Ã¼"]


def test_numerals_are_projected_on_what_the_teacher_writes_first() -> None:
    byte, unigram = handmade("byte"), handmade("unigram")
    of = projection_classes(byte, unigram)
    ids = {token: i for i, token in enumerate(byte.tokens)}
    teacher, student = by_token(byte, of.teacher), by_token(unigram, of.student)
    assert student["▁8"] == ids["Ġ8"] and student["8"] == ids["8"]  # the same text
    assert student["▁12:3"] == ids["Ġ"] and student["13:15"] == ids["13"] and student[":0"] == ids[":"]
    assert student["–"] == ids["â"] and student["▁"] == ids["Ġ"] and student["</s>"] == ids["</s>"]
    assert {token: teacher[token] for token in ("05", "12", "15", "30")} == {
        "05": ids["0"],  # no token of the student's leads to 05, which it writes 0, 5
        "12": ids["1"],
        "15": ids["1"],
        "30": ids["3"],
    }
    assert teacher["13"] == ids["13"] and teacher["9"] == teacher["<pad>"] == student["<unk>"] == -1
    teacher, student = by_token(byte, of.teacher_first), by_token(unigram, of.student_first)
    assert student["▁8"] == student["8"] == teacher["Ġ8"] == teacher["8"] == ids["8"]
    assert student["▁12:3"] == teacher["12"] == ids["12"] and student["▁"] == teacher["Ġ"] == -1


def test_numerals_are_projected_the_other_way_too() -> None:
    unigram, byte = handmade("unigram"), handmade("byte")
    of = projection_classes(unigram, byte)
    ids = {token: i for i, token in enumerate(unigram.tokens)}
    teacher, student = by_token(unigram, of.teacher), by_token(byte, of.student)
    assert student["12"] == ids["1"] and student["05"] == ids["0"] and student["Ġ8"] == ids["▁8"]
    assert teacher["13:15"] == ids["1"] and teacher["▁12:3"] == ids["▁"] and student["9"] == -1
    assert student["95"] == -1  # the teacher knows no 9, and the 5 is not what it would write first
    teacher, student = by_token(unigram, of.teacher_first), by_token(byte, of.student_first)
    assert student["8"] == student["Ġ8"] == teacher["8"] == ids["▁8"]
    assert student["5"] == teacher["5"] == ids["5"]  # the teacher writes it behind a bare space
    assert student["12"] == ids["1"] and teacher["▁12:3"] == ids["1"]


@pytest.mark.parametrize("maps", [next_character_classes, projection_classes])
@pytest.mark.parametrize("kinds", PAIRS, ids="-".join)
def test_every_class_has_tokens_on_both_sides_and_no_divergence_is_infinite(maps: Maps, kinds: tuple[str, str]) -> None:
    teacher, student = (codec(kind, 400 - 60 * i) for i, kind in enumerate(kinds))
    of = maps(teacher, student)
    for theirs, ours in ((of.teacher, of.student), (of.teacher_first, of.student_first)):
        assert len(theirs) == len(teacher.tokens) and len(ours) == len(student.tokens)
        assert theirs.dtype == ours.dtype == np.int64
        assert set(theirs.tolist()) | {-1} == set(ours.tolist()) | {-1} <= set(range(-1, of.num_classes))
        assert theirs[teacher.end_id] == ours[student.end_id] >= 0
        logits, said_ = torch.randn(7, len(ours), requires_grad=True), torch.randn(7, len(theirs)) * 5
        classes = torch.from_numpy(ours), torch.from_numpy(theirs)
        values, kept = said_.log_softmax(-1).topk(9)
        tail = (1 - values.exp().sum(-1)).log()
        loss = class_kl(logits, classes[0], said_, classes[1], of.num_classes, 2.0) + class_kl_candidates(
            logits, classes[0], Candidates(kept, values, tail), classes[1], of.num_classes, 1.0
        )
        (gradient,) = torch.autograd.grad(loss, logits)
        assert loss.isfinite() and loss > 0 and gradient.isfinite().all()


@pytest.mark.parametrize("kind", ["byte", "unigram"])
def test_a_vocabulary_is_projected_on_itself_token_by_token(kind: str) -> None:
    of = projection_classes(codec(kind), codec(kind))
    known = of.student >= 0
    assert np.array_equal(of.teacher, of.student) and np.array_equal(of.teacher_first, of.student_first)
    assert np.array_equal(of.student[known], np.flatnonzero(known))
    silent = [token for token, kept in zip(codec(kind).tokens, known, strict=True) if not kept]
    assert silent == ["<s>", "<pad>", "<unk>", "<mask>", "<unused 0>", "<unused 1>"]
