"""From the tokens of two vocabularies to classes that both can speak of, so that their probabilities are comparable.

Where two labels of one text meet (`tdtrain.models.spans`), both models say what comes next, each in its own tokens. A
class is something that either says of the next characters; its probability is the sum over its tokens.

Shapes: V_t tokens of the teacher, V_s of the student.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tdtrain.models.rehead import old_pieces
from tdtrain.models.spans import SPACE, is_byte_level, token_bytes
from tdtrain.models.trocr_inputs import TrOCRCodec

EXCLUDED = -1
END = b""
"""What the end token says of the next characters: there are none."""
LONGEST = 4
"""Bytes of a character in UTF-8."""


@dataclass(frozen=True)
class ClassMap:
    """The class of each token, int64. EXCLUDED (-1) are those that the other vocabulary has no words for.

    The distributions are compared given that none of the excluded is written, see `tdtrain.losses.bridge.class_kl`.
    Every class has tokens on both sides, so that no divergence is infinite.

    At the first position of a text SentencePiece writes a space that is none, and byte-level BPE does not; there,
    a token's leading space is dropped on both sides, and a token that is nothing else is excluded.

    Attributes:
        teacher, student: V_t and V_s, within a text.
        teacher_first, student_first: at its first position.
        num_classes: of either.
    """

    teacher: np.ndarray
    student: np.ndarray
    teacher_first: np.ndarray
    student_first: np.ndarray
    num_classes: int


def next_character_classes(teacher: TrOCRCodec, student: TrOCRCodec) -> ClassMap:
    """The class of a token is the first character that it adds to a text. The end token is one; other specials none.

    Byte-level tokens may begin with a part of a character. Characters that one of the vocabularies has no token for
    are written in such parts, and are one class with the tokens that begin with their first byte, on both sides.
    That a character with a token of its own is written in parts, as a merge with its neighbour may have it, is rare,
    and not heeded.

    Raises: ValueError for a tokenizer of another kind.
    """
    whole = [set(token_bytes(codec)) for codec in (teacher, student) if is_byte_level(codec)]

    def key(text: bytes | None) -> bytes | None:
        if not text:
            return text
        character = next((text[:n] for n in range(1, LONGEST + 1) if _is_text(text[:n])), None)
        return character if character and all(character in tokens for tokens in whole) else text[:1]

    within, first = ([[key(text) for text in side] for side in _texts(teacher, student, at)] for at in (False, True))
    shared = [(set(theirs) & set(ours)) - {None} for theirs, ours in (within, first)]
    number = {each: i for i, each in enumerate(sorted(set[bytes | None]().union(*shared)))}  # type: ignore[type-var]
    theirs, ours, theirs_first, ours_first = (
        np.array([number[each] if each in both else EXCLUDED for each in side], dtype=np.int64)
        for sides, both in zip((within, first), shared, strict=True)
        for side in sides
    )
    return ClassMap(theirs, ours, theirs_first, ours_first, len(number))


def projection_classes(teacher: TrOCRCodec, student: TrOCRCodec) -> ClassMap:
    """The class of a student's token is the teacher's token of the same text, else the first one of those it takes.

    A teacher's token that no token of the student's leads to, such as `05` where the student has only digits, has the
    class of the first token that the student writes for it. The end tokens are one class; other specials, and parts of
    characters that the student has no token for, are excluded.

    Source: the projection matrix W of X-Token, Sreenivas et al. 2026, arXiv 2605.21699, section 3.2, and its reverse
        pass. There, W spreads a token over all tokens of the other side that spell it, with weights that fall tenfold,
        for distributions that are averaged over a chunk. Here distributions are compared where both texts are equally
        far, and there a teacher writes the first of them; so a row has one entry, and W becomes classes.
    Raises: ValueError for a tokenizer of another kind.
    """
    within, first = (_project(teacher, student, at) for at in (False, True))
    return ClassMap(*within, *first, len(teacher.tokens))


def _project(teacher: TrOCRCodec, student: TrOCRCodec, first: bool) -> tuple[np.ndarray, np.ndarray]:
    theirs, ours = _texts(teacher, student, first)
    # At the first position ` 8` and `8` say the same; a class is the one that the teacher writes there.
    begins = not is_byte_level(teacher)
    spaced = [(text or b"").startswith(SPACE) for text in token_bytes(teacher)]
    own = {text: i for i, text in enumerate(theirs) if text and (not first or spaced[i] is begins)}
    own[END] = teacher.end_id

    def classes(texts: list[bytes | None], pieces: list[int]) -> list[int]:
        return [EXCLUDED if text is None else own.get(text, piece) for text, piece in zip(texts, pieces, strict=True)]

    of_teacher = classes(theirs, _first_pieces(teacher, teacher, theirs, theirs, first))
    nearest = classes(ours, _first_pieces(teacher, student, theirs, ours, first))
    of_student = [EXCLUDED if token == EXCLUDED else of_teacher[token] for token in nearest]
    reached = set(of_student)
    for i, piece in enumerate(_first_pieces(student, teacher, ours, theirs, first)):
        if of_teacher[i] not in reached:
            of_teacher[i] = EXCLUDED if piece == EXCLUDED else of_student[piece]
    return np.array(of_teacher, dtype=np.int64), np.array(of_student, dtype=np.int64)


def _first_pieces(
    old: TrOCRCodec, new: TrOCRCodec, old_texts: list[bytes | None], new_texts: list[bytes | None], first: bool
) -> list[int]:
    """For each new token, the first of the old ones that spell it, a bare space of a text's beginning left out."""
    rows = (
        old.ids([text.decode() if text and _is_text(text) else "" for text in new_texts])
        if first
        else old_pieces(old, new)
    )
    pieces = [next((piece for piece in row if old_texts[piece]), EXCLUDED) for row in rows]
    # A piece of another text stands behind a character that the old tokenizer does not know.
    return [
        piece if piece != EXCLUDED and (text or b"").startswith(old_texts[piece] or b"") else EXCLUDED
        for piece, text in zip(pieces, new_texts, strict=True)
    ]


def _texts(teacher: TrOCRCodec, student: TrOCRCodec, first: bool) -> tuple[list[bytes | None], list[bytes | None]]:
    """What each token adds to a text: END for the end token, None where it says nothing of it."""
    sides = []
    for codec in (teacher, student):
        side = [text.removeprefix(SPACE) if first and text else text for text in token_bytes(codec)]
        side = [text or None for text in side]
        side[codec.end_id] = END
        sides.append(side)
    return sides[0], sides[1]


def _is_text(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
