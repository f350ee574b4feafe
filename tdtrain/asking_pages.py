"""The job that has a service write or read pages: images in, a corpus that can be learnt from out. Nothing is paid
twice."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tdtrain.ask_config import AskRun
from tdtrain.asked_services import QUESTION, at_most, expected, service_of, voters
from tdtrain.data.annotation import LABELLED_BY
from tdtrain.data.corpus import FAILED, images_of, scan_annotations, write_failed
from tdtrain.data.rows import content_id
from tdtrain.data.storage import Folder, absolute, open_folder
from tdtrain.gauges import gauge
from tdtrain.page_asker import LEFT, PageAsker, threads
from tdtrain.ray_map import Task, map_tasks
from tdtrain.teachers.services.answers import BATCHES, Answers, key_of, moment
from tdtrain.teachers.services.asking import UNSTORED, cost_of
from tdtrain.teachers.services.desk import AnyDesk, Counts, Desk
from tdtrain.teachers.services.label_page import LabelledPage
from tdtrain.teachers.services.prices import price_of
from tdtrain.teachers.services.service import NOTHING, Busy, Denied, Refused, Service, Usage
from tdtrain.train.progress import Display

ROUNDS = 4
"""Calls side by side that a task of one worker has, one after the other; fewer where each worker would have no second
task, and nobody would hear of pages until the end."""
SHOWN_PAGES = 24
"""Pages of which the report shows lines."""
_TEACHER = re.compile(rf'"{LABELLED_BY}"\s*:\s*"'.encode())


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

    Raises: ValueError where there is no image, or the service cannot be used, or answers nobody.
    """
    places = {"dataset_path": absolute(run.dataset_path), "output_dir": absolute(run.output_dir)}
    num_workers = min(run.num_workers, run.calls_at_once)
    run = run.model_copy(update=places | {"vote_with": tuple(map(absolute, run.vote_with)), "num_workers": num_workers})
    service = service_of(run)
    run = run.model_copy(update={"price": price_of(service.question.service, run.price, run.price_table)})
    if run.max_cost_usd is not None and run.price.is_free:
        raise ValueError(f"max_cost_usd={run.max_cost_usd:g}, and price_table={run.price_table} says it costs nothing")
    voters(run)
    source, out = open_folder(run.dataset_path), open_folder(run.output_dir)
    inside = f"{out.root}/".startswith(f"{source.root}/")
    if out.root == source.root or (inside and not source.files("images")):
        raise ValueError(f"output_dir={run.output_dir} lies in dataset_path; give a folder beside it")
    images, failed = images_of(source)
    own = _annotated(images, source, run.task)
    asked = {name: path for name, path in images.items() if run.check_annotated or name not in own}
    answers, again = Answers(out), moment() if run.ask_again else None
    keys = {path: key_of(service.question, source.read(path)) for path in asked.values()}
    unanswered = {path: key for path, key in keys.items() if answers.get(key) is None}
    to_ask = {path: key for path, key in unanswered.items() if answers.hopeless(key, again) is None}
    missing, given_up = len(unanswered), len(unanswered) - len(to_ask)
    if run.batches or not missing:  # nobody is asked about one page
        run = run.model_copy(update={"num_workers": 0})
    num = min(len(to_ask), run.max_pages or len(to_ask))
    estimate, tokens = cost_of(expected(run), run.price) * num, expected(run)
    with _one_way_at_a_time(run, out, answers), Display(Path(run.output_dir).name) as display:
        words = ""
        if num and run.task == "document":
            words = f"; asking about {num:,} may take {num * tokens.input_tokens:,} tokens and write "
            words += f"{num * tokens.output_tokens:,}"
        words += f"; that may cost {estimate:.2f} US dollars" if estimate else ""
        display.say(
            f"{len(images):,} pages, {missing:,} of them without an answer of {service.question.service}{words}"
            + (f"; {len(own):,} are annotated, and stay as they are" if own else "")
            + (f"; {given_up:,} were given up for good, `--ask_again` tries them again" if given_up else "")
        )
        if run.dry_run:
            return Asked(0, len(asked) - missing, 0, missing, Counts(), NOTHING)
        out.write(QUESTION, service.question.model_dump_json(indent=1).encode())
        if run.batches and missing:
            _in_batches(run, service, to_ask, source, display, again)
        desk = _desk(run)
        counting, ended = display.counting("ask", lambda: f"pages{money(desk)}"), 0
        reasons: dict[str, str] = {}
        pages: list[LabelledPage] = []
        paid = NOTHING
        tasks = list(_tasks(images, own, run))
        told = (run, desk, again, service.question.prompt)
        for outcome in map_tasks(PageAsker, told, tasks, run.num_workers, cpus=0.5):
            reasons |= dict(zip(outcome["images"], outcome["reasons"], strict=True))
            paid = sum((Usage(**one) for one in outcome["paid"]), paid)
            pages += [LabelledPage.model_validate_json(page) for page in outcome["pages"] if page]
            ended += len(outcome["images"])
            counting(ended, len(images))
            gauge("spend_usd", desk.counts().cost_usd, display.run, "ask")
        failed |= {image: why for image, why in reasons.items() if why and not why.startswith(LEFT)}
        left = sum(why.startswith(LEFT) for why in reasons.values())
        write_failed(out, failed)
        counts, cost = desk.counts(), cost_of(paid, run.price)
        done = sum(not why for why in reasons.values())
        result = Asked(done, len(asked) - missing, len(failed), left, counts, paid)
        where = f", see {FAILED}" if failed else ""
        display.say(
            f"{done} pages labelled, {result.there} of them answered before; {len(failed)} failed{where}; {left} left; "
            f"{counts.calls} calls{money(desk)}: {run.output_dir}"
        )
        if cost:
            display.say(f"all answers of these pages cost {cost:.4f} US dollars")
        if pages or failed:
            from tdtrain.report.labels import write_label_report  # matplotlib takes a second

            pages.sort(key=lambda page: page.image)
            shown = run.model_dump(mode="json", exclude={"service_url"})
            for words in write_label_report(out, pages, list(failed.values()), shown):
                display.say(words)
    if counts.denied and not run.batches:
        who = "" if counts.denied.startswith(UNSTORED) else f"service={run.service} answers nobody: "
        raise ValueError(f"{who}{counts.denied}; {left} pages were not asked about")
    return result


@contextmanager
def _one_way_at_a_time(run: AskRun, out: Folder, answers: Answers) -> Iterator[None]:
    """While pages are asked about one by one, nobody hands the same ones in as a batch. Raises ValueError where
    somebody does, or has."""
    try:
        with answers.together(BATCHES) if not (run.batches or run.dry_run) else nullcontext():
            if not run.batches and out.files(BATCHES):
                raise ValueError(
                    f"output_dir={run.output_dir} has pages out in batches ({', '.join(out.files(BATCHES))}); collect "
                    "them with batches=True and the service_model that they name, or delete those files and pay again"
                )
            yield
    except BlockingIOError:
        raise ValueError(
            f"output_dir={run.output_dir}: another job hands its pages in as batches; wait for it"
        ) from None


def _annotated(images: dict[str, str], source: Folder, task: str) -> dict[str, list[str]]:
    """The annotations that somebody wrote of images, by name: what the task would write, or a page's text."""
    texts, documents, boxes, _ = scan_annotations(source)
    parts = (documents,) if task == "document" else (boxes, texts)
    found = {name: [part[name] for part in parts if name in part] for name in images}
    own = {name: [path for path in paths if not _by_machine(source, path)] for name, paths in found.items()}
    return {name: paths for name, paths in own.items() if paths}


def _by_machine(source: Folder, path: str) -> bool:
    return path.lower().endswith(".json") and _TEACHER.search(source.read(path)) is not None


def money(desk: AnyDesk) -> str:
    """What was spent, in words; empty where nothing was."""
    cost = desk.counts().cost_usd
    return f", {cost:.4f} US dollars" if cost else ""


def _in_batches(
    run: AskRun, service: Service, to_ask: dict[str, str], source: Folder, display: Display, again: str | None
) -> None:
    """Has pages answered (their keys by their paths), as many as the budget allows."""
    from tdtrain.teachers.services.batches import Batches, Budget, pending
    from tdtrain.teachers.services.claude import Claude

    assert isinstance(service, Claude), "of other services the config has none"
    pages = {key: partial(source.read, path) for path, key in to_ask.items()}
    budget = Budget(run.price, at_most(run), run.max_pages, run.max_cost_usd)
    if to_ask and budget.pages(NOTHING) == 0 and not pending(open_folder(run.output_dir)):
        raise ValueError(
            f"max_cost_usd={run.max_cost_usd:g} is less than one page may cost, {cost_of(budget.most, run.price):.4f}; "
            "raise it, or lower max_answer_tokens"
        )
    try:
        Batches(service, open_folder(run.output_dir), budget).ask(pages, display.counting("batch", "pages"), again)
    except (Busy, Refused, Denied) as error:
        raise ValueError(f"service={run.service} takes no batch: {error}; run again to go on") from error


def _desk(run: AskRun) -> AnyDesk:
    shared = None if run.service == "local" else f"{run.service} at {run.service_url or 'its own address'}"
    rate = run.calls_per_second if shared else None
    if not run.num_workers:
        desk = Desk(rate, run.max_pages, run.max_cost_usd)
        if run.batches:
            desk.close("it was in no batch, or its batch did not get to it; run again")
        return desk
    from tdtrain.ray_start import connect  # Ray only where it is used
    from tdtrain.teachers.services.desk_on_ray import SharedDesk
    from tdtrain.train.nodes import check_nodes

    connect()
    others = {f"vote_with[{number}]": folder for number, folder in enumerate(run.vote_with)}
    check_nodes({"output_dir": run.output_dir}, {"dataset_path": run.dataset_path, **others})
    return SharedDesk(shared, rate, run.max_pages, run.max_cost_usd, run.calls_at_once)


def _tasks(images: dict[str, str], own: dict[str, list[str]], run: AskRun) -> Iterator[Task]:
    names, side = sorted(images), threads(run) * run.together
    size = side * min(ROUNDS, max(1, len(names) // (2 * side * max(1, run.num_workers))))
    shown = set(sorted(names, key=content_id)[:SHOWN_PAGES])
    for start in range(0, len(names), size):
        some = names[start : start + size]
        yield {
            "names": some,
            "images": [images[name] for name in some],
            "show": [name in shown for name in some],
            "own": [own.get(name, []) for name in some],
        }
