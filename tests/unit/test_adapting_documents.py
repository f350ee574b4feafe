"""A language model learns documents that a teacher wrote, and is measured by those that somebody did."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tdtrain.adapting_documents import adapt_to_documents
from tdtrain.config import DistillDocumentRun
from tdtrain.data.sample.corpus import write_sample
from tdtrain.data.sequences import load_sequences
from tdtrain.report.document_words import NAMES
from tdtrain.train.checkpoint import progress
from tests.models_small import small_llama_folder

BY_HAND = 8


def labelled_corpus(root: Path) -> Path:
    """Twelve pages of which only the documents are annotated, four of them by a teacher."""
    write_sample(root, 12, None, seed=3, workers=0)
    for path in (*root.glob("annotations/*.txt"), *root.glob("boxes/*.json")):
        path.unlink()
    for path in sorted(root.glob("annotations/*.json"))[BY_HAND:]:
        path.write_text(json.dumps(json.loads(path.read_text()) | {"labelled_by": "claude/m"}))
    return root


def ids(folder: Path) -> set[str]:
    return {str(one["ids"][0]) for one in load_sequences(str(folder), 100)}


@pytest.mark.slow
def test_a_teachers_documents_are_learnt_and_compared_with_annotations_alone(tmp_path: Path) -> None:
    corpus, out = labelled_corpus(tmp_path / "asked"), tmp_path / "out"
    run = DistillDocumentRun.model_validate(
        {
            "output_dir": out,
            "model_name": str(small_llama_folder(tmp_path / "llama")),
            "reader": "ppocrv6-tiny",
            "corpus": {"dataset_path": str(corpus)},
            "max_answer_tokens": 16,
            "compute": {"num_workers": 0},
            "optimisation": {"epochs": 1, "batch_size": 2, "evaluations": 1},
        }
    )
    results = adapt_to_documents(run)
    assert results is not None
    assert set(results.writers) - {"student_true_text", "rules_true_text"} == {
        "student", "student_undistilled", "baseline", "rules"
    }  # fmt: skip
    assert ("student", "student_undistilled") in {(found.a, found.b) for found in results.comparisons}
    alone, everything = ids(out / "control/sequences/train"), ids(out / "sequences/train")
    assert alone < everything and len(everything) - len(alone) <= 4
    assert progress(out / "adapter").step == progress(out / "control/adapter").step == -(-len(everything) // 2)
    words = [(out / place / "merged/lexicon.json").read_text() for place in (".", "control")]
    assert words[0] != words[1] and len(words[1]) < len(words[0])  # the control has none of the teacher's
    assert NAMES["student_undistilled"] in (out / "report.html").read_text()
    for path in corpus.glob("annotations/*.json"):
        path.write_text(path.read_text().replace(', "labelled_by": "claude/m"', ""))
    with pytest.raises(ValueError, match=r"pages that a teacher annotated, and dataset_path=.* has none; label it"):
        adapt_to_documents(run.model_copy(update={"output_dir": tmp_path / "again"}))
