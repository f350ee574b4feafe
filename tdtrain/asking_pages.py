"""The job that has a service write or read pages: images in, a corpus that can be learnt from out. Nothing is paid
twice."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tdtrain.config import AskRun
from tdtrain.data.corpus import FAILED, images_of, write_failed
from tdtrain.data.storage import absolute, open_folder
from tdtrain.ray_map import Task, map_tasks
from tdtrain.teachers.services.answers import Answers, key_of
from tdtrain.teachers.services.asking import GivenUp, ask, cost_of
from tdtrain.teachers.services.desk import AnyDesk, Counts, Desk, Spent
from tdtrain.teachers.services.service import NOTHING, Service, Usage
from tdtrain.teachers.services.targets import boxes_file, document_file
from tdtrain.train.progress import Display

ROUNDS = 4
"""Calls side by side that a task of one worker has, one after the other."""


@dataclass(frozen=True)
class Asked:
    """How many pages have their labels now; how many of them were answered before, failed, or are left."""

    done: int
    there: int
    failed: int
    left: int
    counts: Counts
    """Of this job alone."""
    paid: Usage
    """For all labels that there are, whichever job asked."""


def ask_pages(run: AskRun) -> Asked:
    """Asks about every page that has no answer yet, and writes the labels of each that has one, with its image.

    Raises: ValueError where there is no image, or the service cannot be used.
    """
    run = run.model_copy(update={"dataset_path": absolute(run.dataset_path), "output_dir": absolute(run.output_dir)})
    service = service_of(run)
    source = open_folder(run.dataset_path)
    images, failed = images_of(source)
    out, answers = open_folder(run.output_dir), Answers(open_folder(run.output_dir))
    missing = {
        name: path for name, path in images.items() if not answers.get(key_of(service.question, source.read(path)))
    }
    estimate = cost_of(_expected(run), run.price) * len(missing)
    with Display() as display:
        words = f"; they may cost {estimate:.2f} US dollars" if estimate else ""
        display.say(
            f"{len(images):,} pages, {len(missing):,} of them without an answer of {service.question.service}{words}"
        )
        if run.dry_run:
            return Asked(0, len(images) - len(missing), 0, len(missing), Counts(), NOTHING)
        rate = None if run.service == "local" else run.calls_per_second
        desk: AnyDesk = Desk(rate, run.max_pages, run.max_cost_usd)
        if run.num_workers and missing:
            from tdtrain.ray_start import connect  # Ray only where it is used
            from tdtrain.teachers.services.desk_on_ray import SharedDesk

            connect()
            askers = max(run.calls_at_once, run.num_workers)
            desk = SharedDesk(rate, run.max_pages, run.max_cost_usd, askers)
        counting, ended = display.counting("ask", "pages"), 0
        reasons: dict[str, str] = {}
        paid = NOTHING
        tasks = list(_tasks(images, run))
        for outcome in map_tasks(_Asker, (run, desk), tasks, run.num_workers if missing else 0, cpus=0.5):
            reasons |= dict(zip(outcome["images"], outcome["reasons"], strict=True))
            paid = sum((Usage(**one) for one in outcome["paid"]), paid)
            ended += len(outcome["images"])
            counting(ended, len(images))
        failed |= {image: why for image, why in reasons.items() if why and not why.startswith(_LEFT)}
        left = sum(why.startswith(_LEFT) for why in reasons.values())
        write_failed(out, failed)
        counts, cost = desk.counts(), cost_of(paid, run.price)
        done = sum(not why for why in reasons.values())
        result = Asked(done, len(images) - len(missing), len(failed), left, counts, paid)
        where = f", see {FAILED}" if failed else ""
        money = f", {counts.cost_usd:.4f} US dollars" if counts.cost_usd else ""
        display.say(
            f"{done} pages labelled, {result.there} of them answered before; {len(failed)} failed{where}; {left} left; "
            f"{counts.calls} calls{money}: {run.output_dir}"
        )
        if cost:
            display.say(f"all answers of these pages cost {cost:.4f} US dollars")
    return result


def service_of(run: AskRun) -> Service:
    """The service that a run names. Raises ValueError where its package or its key is missing."""
    model, url = run.service_model or "", run.service_url
    try:  # each is a package of its own
        if run.service == "local":
            from tdtrain.teachers.services.local import LocalReader

            return LocalReader(model)
        if run.service == "paddleocr":
            from tdtrain.teachers.services.paddle_served import PaddleServed

            return PaddleServed(model, url or "")
        if run.service == "google-vision":
            from tdtrain.teachers.services.google_vision import GoogleVision

            return GoogleVision(model, url)
        if run.service == "claude":
            from tdtrain.teachers.services.claude import Claude

            return Claude(model, url)
        from tdtrain.teachers.services.openai_compatible import OpenAiCompatible
    except ImportError as error:
        raise ValueError(f"service={run.service} needs its SDK; run `pip install 'tdtrain[services]'`") from error
    return OpenAiCompatible(model, url)


_LEFT = "left: "


class _Asker:
    """Asks about the pages of a task, several at once."""

    def __init__(self, run: AskRun, desk: AnyDesk) -> None:
        self._run, self._desk = run, desk
        self._service = service_of(run)
        self._threads = max(1, run.calls_at_once // max(run.num_workers, 1))

    def __call__(self, task: Task) -> Task:
        with ThreadPoolExecutor(self._threads) as pool:
            found = list(pool.map(self._one, task["names"], task["images"]))
        reasons, paid = [reason for reason, _ in found], [usage.model_dump() for _, usage in found]
        return {"images": list(task["images"]), "reasons": reasons, "paid": paid}

    def _one(self, name: str, path: str) -> tuple[str, Usage]:
        """Why there are no labels, empty where there are; and what they took."""
        run = self._run
        answers, out = Answers(open_folder(run.output_dir)), open_folder(run.output_dir)
        source = open_folder(run.dataset_path)
        image = source.read(path)
        try:
            kept = ask(self._service, image, answers, self._desk, run.price, _expected(run))
        except GivenUp as error:
            return str(error), error.paid
        except Spent as error:
            return f"{_LEFT}{error}", NOTHING
        there = f"images/{path.removeprefix('images/')}"
        if run.task == "document":
            target, content = f"annotations/{name}.json", document_file(kept.answer, there)
        else:
            target, content = f"boxes/{name}.json", boxes_file(kept.answer, run.min_confidence)
        out.bring(there, source, path)
        if content is None:
            return f"the answer holds no {run.task}", kept.paid
        if not out.exists(target) or out.read(target) != content:
            out.write(target, content)
        return "", kept.paid


def _tasks(images: dict[str, str], run: AskRun) -> Iterator[Task]:
    names, size = sorted(images), ROUNDS * max(1, run.calls_at_once // max(run.num_workers, 1))
    for start in range(0, len(names), size):
        some = names[start : start + size]
        yield {"names": some, "images": [images[name] for name in some]}


def _expected(run: AskRun) -> Usage:
    return Usage(input_tokens=run.expected_tokens[0], output_tokens=run.expected_tokens[1])
