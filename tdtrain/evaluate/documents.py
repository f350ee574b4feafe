"""Writers of documents on the test pages of one corpus: language models, rules, and both on text without errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tdtrain.data.documents import PageText
from tdtrain.data.serialise import Serialisation, serialise
from tdtrain.data.timetable import Timetable
from tdtrain.evaluate.fields import PageCounts, count
from tdtrain.evaluate.rules import parse_page
from tdtrain.evaluate.score_documents import (
    DocumentComparison,
    DocumentScores,
    compare_documents,
    score_documents,
)
from tdtrain.evaluate.write_pages import write_pages
from tdtrain.models.write import form_for
from tdtrain.ray_map import Task, map_tasks

FEW = 16
"""Answers up to here are counted before processes that would do it have started."""
COMPARED = (
    ("student", "student_undistilled"),
    ("student", "baseline"),
    ("student", "rules"),
    ("student_true_text", "student"),
)


@dataclass(frozen=True)
class DocumentEvaluation:
    """What was written, by whom, and how well. Answers are in the order of the pages."""

    pages: list[PageText]
    answers: dict[str, list[str]]
    scores: dict[str, DocumentScores]
    comparisons: list[DocumentComparison]


def evaluate_documents(
    models: Mapping[str, str],
    pages: Sequence[PageText],
    perfect: Sequence[PageText],
    way: Serialisation,
    max_new_tokens: Mapping[str, int],
    actors: int,
    cpus: float,
    gpus: float,
    progress: Callable[[int, int], None],
    otherwise: Mapping[str, Sequence[PageText]] | None = None,
) -> DocumentEvaluation:
    """Has models and rules write the pages, and the student once more from text without errors.

    Args:
        models: name or folder by role; `student` is among them.
        pages: annotated pages, their lines as a reader has them.
        perfect: the same pages, their lines as they are annotated; none where nobody annotated lines.
        max_new_tokens: an answer is cut there, by role.
        actors: writers side by side on Ray; 0: in this process.
        cpus, gpus: of each.
        otherwise: the same pages as some roles have them, mended by other words.
    """
    read, true = ([serialise(page.lines, way, page.known) for page in some] for some in (pages, perfect))
    texts = dict.fromkeys(models, read) | ({"student_true_text": true} if perfect else {})
    for role in (otherwise or {}).keys() & models.keys():
        texts[role] = [serialise(page.lines, way, page.known) for page in (otherwise or {})[role]]
    of = {role: role.removesuffix("_true_text") for role in texts}
    written = write_pages(
        {role: models[writer] for role, writer in of.items()},
        texts,
        {role: max_new_tokens[writer] for role, writer in of.items()},
        form_for(way),
        num_actors=actors,
        cpus_per_actor=cpus,
        gpus_per_actor=gpus,
        progress=progress,
    )
    answers = {role: [one.answer for one in own] for role, own in written.items()}
    answers["rules"] = [parse_page(page.lines, page.known).canonical() for page in pages]
    if perfect:
        answers["rules_true_text"] = [parse_page(page.lines, page.known).canonical() for page in perfect]
    truths = [page.truth for page in pages if page.truth is not None]
    pairs = [(truth, answer) for own in answers.values() for truth, answer in zip(truths, own, strict=True)]
    counted = iter(count_pages(pairs, actors))
    counts = {role: [next(counted) for _ in truths] for role in answers}
    ids, layouts = [page.page_id for page in pages], [page.layout for page in pages]
    scores = {
        role: score_documents(
            own,
            ids,
            layouts,
            [one.seconds for one in written[role]] if role in written else None,
            [one.ended for one in written[role]] if role in written else None,
            Path(models.get(role, models["student"])).name if role in written else "rules",
        )
        for role, own in counts.items()
    }
    compared = [compare_documents(a, b, counts[a], counts[b], ids) for a, b in COMPARED if a in counts and b in counts]
    return DocumentEvaluation(list(pages), answers, scores, compared)


def count_pages(pairs: Sequence[tuple[Timetable, str]], actors: int) -> list[PageCounts]:
    """`count` of each (truth, answer), in order; many are counted side by side, for the tree edits of a page of forty
    blocks take seconds."""
    tasks = [
        {"place": place, "truth": truth.canonical(), "answer": answer} for place, (truth, answer) in enumerate(pairs)
    ]
    by_place = {
        row.pop("place"): PageCounts(**row) for row in map_tasks(_Counter, (), tasks, actors if len(tasks) > FEW else 0)
    }
    return [by_place[place] for place in range(len(pairs))]


class _Counter:
    def __call__(self, task: Task) -> Task:
        counts = count(Timetable.model_validate_json(task["truth"]), task["answer"])
        return {"place": task["place"], **asdict(counts)}
