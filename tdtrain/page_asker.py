"""What a worker does about one page: asks for its answer, has others vote on it, and writes what can be learnt from."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from tdtrain.ask_config import AskRun
from tdtrain.asked_services import at_most, service_of, voters
from tdtrain.data.storage import Folder, open_folder
from tdtrain.ray_map import Task
from tdtrain.teachers.services.answers import Answers, Kept, key_of
from tdtrain.teachers.services.asking import GivenUp, Patience, Unstored, ask
from tdtrain.teachers.services.desk import AnyDesk, Closed
from tdtrain.teachers.services.label_page import (
    LabelledPage,
    check_document,
    check_lines,
    look_at,
    look_at_document,
    show,
    show_document,
)
from tdtrain.teachers.services.service import NOTHING, SpokenLine, Usage
from tdtrain.teachers.services.targets import boxes_file, document_file
from tdtrain.teachers.services.together import TakesSeveral, ask_together
from tdtrain.teachers.services.vote import vote

LEFT = "left: "
"""How a reason begins where a page was not asked about."""


class Outcome(NamedTuple):
    """Of one page: why it has no labels (empty where it has), what its answer took, what became of its lines."""

    reason: str
    paid: Usage
    page: LabelledPage | None = None


class PageAsker:
    """Asks about the pages of a task, several at once."""

    def __init__(self, run: AskRun, desk: AnyDesk, again: str | None, prompt: str | None = None) -> None:
        self._run, self._desk, self._again = run, desk, again
        self._service = service_of(run, prompt)
        self._voters = voters(run)
        self._threads = threads(run)
        self._opened: set[str] = set()
        # A reader of one's own takes as long as it takes.
        self._patience = Patience(deadline_s=math.inf if run.service == "local" else run.timeout_s)

    def __call__(self, task: Task) -> Task:
        pages = list(zip(task["names"], task["images"], task["show"], task["own"], strict=True))
        with ThreadPoolExecutor(self._threads) as pool:
            size = self._run.together
            parts = pool.map(self._several, [pages[start : start + size] for start in range(0, len(pages), size)])
            found = [outcome for part in parts for outcome in part]
        return {
            "images": list(task["images"]),
            "reasons": [outcome.reason for outcome in found],
            "paid": [outcome.paid.model_dump() for outcome in found],
            "pages": ["" if outcome.page is None else outcome.page.model_dump_json() for outcome in found],
        }

    def _several(self, pages: Sequence[tuple[str, str, bool, Sequence[str]]]) -> list[Outcome]:
        """Pages that may be asked about in one call."""
        if len(pages) > 1:
            with contextlib.suppress(Exception):  # each page's own trouble is said where it is asked about alone
                self._together([path for _, path, _, own in pages if self._run.check_annotated or not len(own)])
        return [self._safely(*page) for page in pages]

    def _together(self, paths: Sequence[str]) -> None:
        assert isinstance(self._service, TakesSeveral), "of others the config asks about one at a time"
        run, source = self._run, open_folder(self._run.dataset_path)
        images = []
        for path in paths:
            with contextlib.suppress(OSError):  # whoever asks about it alone says so
                images.append(source.read(path))
        ask_together(
            self._service, images, Answers(open_folder(run.output_dir)), self._desk, run.price, at_most(run),
            self._patience, self._opened, self._again,
        )  # fmt: skip

    def _safely(self, name: str, path: str, to_show: bool, own: Sequence[str]) -> Outcome:
        """One page's trouble is not that of the others."""
        try:
            return self._one(name, path, to_show, own)
        except Unstored as error:
            return Outcome(f"{LEFT}{error}", NOTHING)
        except Exception as error:  # a file that is damaged or gone, an answer nobody thought of
            return Outcome(f"{type(error).__name__}: {error}", NOTHING)

    def _one(self, name: str, path: str, to_show: bool, own: Sequence[str]) -> Outcome:
        run, out, source = self._run, open_folder(self._run.output_dir), open_folder(self._run.dataset_path)
        there = f"images/{path.removeprefix('images/')}"
        if len(own):  # somebody annotated it
            if (boxes := f"boxes/{name}.json") not in own and out.exists(boxes):
                out.delete(boxes)  # of a teacher, before somebody annotated it
            for file, theirs in ((there, path), *((annotation, annotation) for annotation in own)):
                out.bring(file, source, theirs)
            if not run.check_annotated:
                return Outcome("", NOTHING)
            return self._checked(there, source.read(path), {one: source.read(one) for one in own}, out)
        image = source.read(path)
        try:
            kept = self._ask(image, out)
        except GivenUp as error:
            if error.for_good:
                self._forget(out, name)
            return Outcome(str(error), error.paid)
        except Closed as error:
            return Outcome(f"{LEFT}{error}", NOTHING)
        out.bring(there, source, path)
        if run.task == "document":
            return self._document(out, name, there, image, kept, to_show)
        said = self._said(kept, image)
        elected = vote(list(said.values()), run.max_wer)
        page = look_at(there, said, elected, run.min_confidence)
        if to_show:
            page = show(page, image, said, elected, run.min_confidence)
        return self._write(out, name, self._boxes(elected), kept, page)

    def _document(self, out: Folder, name: str, there: str, image: bytes, kept: Kept, to_show: bool) -> Outcome:
        document = kept.answer.document
        content = document_file(kept.answer, there, self._service.question.service)
        if document is None or content is None:
            return self._write(out, name, None, kept, None)
        others = {
            f"{asked.service} ({folder})": answers.get(key_of(asked, image))
            for folder, (asked, answers) in self._voters.items()
        }
        page = look_at_document(there, document, {who: said.answer if said else None for who, said in others.items()})
        if to_show:
            page = show_document(page, image, self._service.question.service, document)
        if page.agreement() < self._run.min_agreement:
            self._forget(out, name)
            page = page.model_copy(update={"dropped": {"teachers differ": page.lines}})
            return Outcome(f"teachers agree on less than min_agreement={self._run.min_agreement:g}", kept.paid, page)
        return self._write(out, name, content, kept, page)

    def _ask(self, image: bytes, out: Folder) -> Kept:
        run = self._run
        opened = bool(self._opened) and key_of(self._service.question, image) in self._opened
        told = (self._service, image, Answers(out), self._desk, run.price, at_most(run), self._patience, self._again)
        return ask(*told, opened)

    def _checked(self, image: str, content: bytes, own: Mapping[str, bytes], out: Folder) -> Outcome:
        """How right the service is about a page that somebody annotated."""
        try:
            kept = self._ask(content, out)
        except Closed:
            return Outcome("", NOTHING)
        except GivenUp as error:
            if not error.for_good:  # the service was away, which says nothing of how right it is
                return Outcome("", error.paid)
            answer, paid = None, error.paid
        else:
            answer, paid = kept.answer, kept.paid
        if self._run.task == "document":
            (document,) = own.values()
            right = check_document(document, answer)
        else:
            right = check_lines(own, answer)
        return Outcome("", paid, LabelledPage(image=image, right=right))

    def _boxes(self, elected: Sequence[SpokenLine]) -> bytes | None:
        return boxes_file(elected, self._run.min_confidence, self._service.question.service)

    def _said(self, kept: Kept, image: bytes) -> dict[str, tuple[SpokenLine, ...]]:
        """The lines of all teachers that have answered, by their names; the one that was asked comes first."""
        others = {folder: answers.get(key_of(asked, image)) for folder, (asked, answers) in self._voters.items()}
        return {self._service.question.service: kept.answer.lines} | {
            f"{found.question.service} ({folder})": found.answer.lines
            for folder, found in others.items()
            if found is not None
        }

    def _target(self, name: str) -> str:
        return f"{'annotations' if self._run.task == 'document' else 'boxes'}/{name}.json"

    def _forget(self, out: Folder, name: str) -> None:
        """Deletes labels that came of another question: a folder teaches what the last one's answers say."""
        if out.exists(target := self._target(name)):
            out.delete(target)

    def _write(self, out: Folder, name: str, content: bytes | None, kept: Kept, page: LabelledPage | None) -> Outcome:
        if content is None:
            self._forget(out, name)
            return Outcome(f"the answer holds no {self._run.task}", kept.paid, page)
        target = self._target(name)
        if not out.exists(target) or out.read(target) != content:
            out.write(target, content)
        return Outcome("", kept.paid, page)


def threads(run: AskRun) -> int:
    """Calls that each worker has under way at once."""
    return 1 if run.service == "local" else max(1, run.calls_at_once // max(run.num_workers, 1))
