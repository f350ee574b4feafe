"""A teacher's pass, in a module that processes import in no time once they have what it imports."""

from __future__ import annotations

from tdtrain.teachers.cache import Keep
from tdtrain.teachers.label_pass import label, plan_labels


def one_pass(teacher: str, corpus: str, folder: str) -> None:
    """Labels a corpus, eight tokens a position."""
    label(plan_labels(teacher, corpus, folder, "fp32", Keep(k=8)), 0, lambda done, total: None)
