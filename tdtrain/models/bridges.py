"""Which bridge leads from a teacher's vocabulary to a student's: found out from their tokenizers, never assumed."""

from __future__ import annotations

from typing import Literal

from tdtrain.models.load import is_trocr
from tdtrain.models.students import BUILT
from tdtrain.models.trocr_inputs import vocabulary

Bridge = Literal["same", "rehead", "align", "project", "next_character", "uld", "text"]
Loss = Literal["same", "align", "project", "next_character", "uld"]


def loss_of(bridge: Bridge) -> Loss:
    """How distributions are compared: `same` where the student's tokens are, or were made, the teacher's."""
    return "same" if bridge in ("rehead", "text") else bridge  # type: ignore[return-value]


def bridge_of(asked: str, teacher: str, student: str) -> Bridge:
    """The bridge that a pair takes.

    Args:
        asked: see `Teaching.vocabulary_bridge`.
        teacher, student: names or folders; only their tokenizer files are read.

    Returns: `same` for pairs of CTC readers, which are compared character by character, and where auto meets equal
        vocabularies.
    Raises: ValueError where the bridge does not lead there.
    """
    if student in BUILT or not (is_trocr(teacher) and is_trocr(student)):
        if asked in ("auto", "same", "text"):
            return "text" if asked == "text" else "same"
        raise ValueError(
            f"vocabulary_bridge={asked} is for teachers and students that write token by token, and teacher_model "
            f"{teacher} and student_model {student} are not both such; leave it out"
        )
    equal = vocabulary(teacher) == vocabulary(student)
    if asked == "auto":
        return "same" if equal else "rehead"
    if asked == "same" and not equal:
        raise ValueError(
            f"vocabulary_bridge=same, but teacher_model {teacher} has {len(vocabulary(teacher)):,} tokens and "
            f"student_model {student} has {len(vocabulary(student)):,}, not the same ones; leave it out, or choose one "
            "of rehead, align, project, next_character, uld, text"
        )
    return asked  # type: ignore[return-value]
