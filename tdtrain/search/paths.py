"""Which fields a space may name, and which of them change what trials share."""

from __future__ import annotations

from collections.abc import Sequence

from tdtrain.search.space import Axis

SHARED = (
    "teacher_model", "student_model", "ctc_head", "model_name", "reader", "serialisation", "lexicon", "corpus", "cache",
    "teaching.vocabulary_bridge", "teaching.trim_vocabulary", "teaching.adapt_teacher", "teaching.adapt_epochs",
    "teaching.adapt_learning_rate", "teaching.min_agreement", "teaching.min_confidence", "teacher.teacher_model",
    "optimisation.precision", "max_document_tokens", "max_tokens",
)  # fmt: skip
"""What corpus, teacher, labels and the model as it begins are made by. Trials share them, so they are made before."""
TRAINED = ("corpus.augment",)
SHAPING = ("lora.rank", "lora.target_modules", "lora.bias", "lora.dora")
"""What weights there are: those of one trial fit no other that differs in it."""
COUNTING = ("optimisation.epochs", "optimisation.batch_size")
"""What a step is, and how many there are: a trial goes on at the step of the one whose weights it has."""
OUTSIDE = (
    "output_dir", "storage_path", "tracking_uri", "register_model", "dry_run", "compute", "control", "plan",
    "max_answer_tokens", "corpus.max_evaluation_lines", "corpus.dataset_path", "optimisation.evaluations",
    "optimisation.patience", "optimisation.seed",
)  # fmt: skip
"""What changes where a model is trained or how it is measured, not what it learns."""


def is_shared(path: str) -> bool:
    """Whether a field changes what trials share."""
    return _among(path, SHARED) and not _among(path, TRAINED)


def check_paths(axes: Sequence[Axis], exploits: bool = False) -> None:
    """Raises ValueError for fields that cannot be searched, or not in a range.

    Args:
        exploits: trials go on from the weights of others.
    """
    for axis in axes:
        if exploits and (_among(axis.path, (*SHAPING, *COUNTING)) or is_shared(axis.path)):
            other = "are at another step" if _among(axis.path, COUNTING) else "have others"
            raise ValueError(
                f"scheduler=pbt has trials go on from each other's weights, and trials of other {axis.path} {other}; "
                "give a --space without it, or use another scheduler"
            )
        if _among(axis.path, OUTSIDE):
            raise ValueError(
                f"space names {axis.path}, which does not change what is learnt, but where, or how it is measured; "
                "give it as a flag of the job"
            )
        if is_shared(axis.path) and axis.kind != "choice":
            raise ValueError(
                f"space={axis} is a range of what all trials share and what is made before them; use "
                f"{axis.path}=choice(...)"
            )


def _among(path: str, fields: Sequence[str]) -> bool:
    return any(path == field or path.startswith(f"{field}.") for field in fields)
