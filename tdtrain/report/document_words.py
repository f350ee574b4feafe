"""What a run on documents showed, in plain words: also where rules do as well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tdtrain.evaluate.score_documents import DocumentComparison, DocumentScores
from tdtrain.report.words import FEW_PAGES, SIGNIFICANT_P, p_words, percent

NAMES = {
    "student": "Adapted model",
    "student_undistilled": "By hand alone",
    "baseline": "Base model",
    "rules": "Rules",
    "student_true_text": "Adapted, true text",
    "rules_true_text": "Rules, true text",
}


def verdict(
    writers: Mapping[str, DocumentScores],
    comparisons: Sequence[DocumentComparison],
    left_out: Mapping[str, Mapping[str, int]],
) -> list[str]:
    """The run's result as sentences: a headline, the figures behind it, cautions, and last what to do next.

    What to do next, the first rule that holds: an answer that does not fit the schema was cut, so allow longer ones;
    rules are better, so train longer or use them; text without errors gives 10 points more, so adapt the reader first;
    else use the model.
    """
    student, rules = writers["student"], writers["rules"]
    said = [f"The adapted model writes the time blocks with an F1 of {percent(student.block_f1)}."]
    said.append(
        f"A block is right where its day, name, start and end are. The base model has "
        f"{percent(_f1(writers, 'baseline'))}, rules have {percent(rules.block_f1)}"
        + (
            f", and the adapted model on text without errors {percent(_f1(writers, 'student_true_text'))}."
            if "student_true_text" in writers
            else "."
        )
    )
    control = next((found for found in comparisons if (found.a, found.b) == ("student", "student_undistilled")), None)
    if control is not None:
        words = "changed nothing that is shown"
        if control.p_value < SIGNIFICANT_P:
            words = f"made it {'better' if control.difference > 0 else 'worse'}"
        alone = percent(_f1(writers, "student_undistilled"))
        said.append(
            f"Having learnt from the pages annotated by hand alone, the same model has {alone}: the teacher's pages "
            f"{words} ({p_words(control.p_value)})."
        )
    against = next((found for found in comparisons if (found.a, found.b) == ("student", "rules")), None)
    if against is not None:
        shown = against.p_value < SIGNIFICANT_P
        who = "better" if against.difference > 0 else "worse"
        words = f"it is {who} than rules" if shown else "no difference from rules is shown"
        said.append(f"On these {student.num_pages} pages {words} ({p_words(against.p_value)}).")
    if student.num_pages < FEW_PAGES:
        said.append(f"Only {student.num_pages} test pages: little can be told apart.")
    gone = sum(number for reasons in left_out.values() for number in reasons.values())
    if gone:
        said.append(f"{gone:,} pages were too long to learn from, and were left out.")
    said.append(f"Next: {_next(writers, against)}")
    return said


def _next(writers: Mapping[str, DocumentScores], against: DocumentComparison | None) -> str:
    student = writers["student"]
    if student.ended < 1:
        return (
            f"{percent(1 - student.ended)} of the answers did not end, and were closed after their last whole block; "
            "train longer (epochs) or on longer documents (max_document_tokens), or raise max_answer_tokens."
        )
    if against is not None and against.difference < 0:
        return "train longer (epochs) or on more annotated pages; until then rules write these pages better."
    if _f1(writers, "student_true_text") > student.block_f1 + 0.1:
        return "adapt the reader to these pages first (rayjobs/lora_ocr.py), and give it as --reader."
    return "have it write your pages with rayjobs/predict.py."


def _f1(writers: Mapping[str, DocumentScores], role: str) -> float:
    return writers[role].block_f1 if role in writers else 0.0
