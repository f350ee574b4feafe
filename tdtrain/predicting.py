"""The job that uses a model: images in, text or documents out, one file an image. What is there is not done again."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch

from tdtrain.config import PredictRun
from tdtrain.data.batches import decode
from tdtrain.data.corpus import FAILED, PageRef, first_line, images_of, load_page, write_failed
from tdtrain.data.known import NOTHING
from tdtrain.data.layout import PlacedLine
from tdtrain.data.lexicon import FILE as LEXICON
from tdtrain.data.lexicon import Lexicon
from tdtrain.data.pack_options import PackOptions
from tdtrain.data.page_lines import page_lines, whole_image
from tdtrain.data.serialise import serialise
from tdtrain.data.storage import Folder, absolute, open_folder
from tdtrain.data.timetable import Document
from tdtrain.evaluate.fields import parse_answer
from tdtrain.evaluate.test_split import load_on
from tdtrain.evaluate.write_pages import load_writer
from tdtrain.machine import give_back_memory
from tdtrain.models.causal import is_causal
from tdtrain.models.load import load_reader
from tdtrain.models.reader import read_images
from tdtrain.models.write import form_for, write_answers
from tdtrain.ray_map import Task, map_tasks
from tdtrain.train.progress import Display

IMAGES_PER_TASK = 8
WRITER = "writer.jsonl"
"""In the output folder: which model writes there."""
ENDS_BYTES = 1 << 20
CUT = ".json.cut"
"""Ends the names of documents that are not whole; those are tried again. No image's own file is named so."""


@dataclass(frozen=True)
class Predicted:
    """How many images have their file now, had it before, and have none; these are in failed.jsonl, with reasons."""

    done: int
    there: int
    failed: int


def predict(run: PredictRun) -> Predicted:
    """Reads or writes every image that has no file yet.

    Raises: ValueError where there is no image, or the model cannot be used.
    """
    source, out = open_folder(run.dataset_path), open_folder(run.output_dir)
    images, failed = images_of(source)
    predictor = _Predictor(_resolved(run))
    load_reader(predictor.run.reader or run.model)  # says what is wrong before any worker starts
    _claim(predictor.run, out)
    there = set(out.files(""))
    missing = {name: path for name, path in images.items() if f"{name}{predictor.ending}" not in there}
    tasks = list(_tasks(missing))
    if run.num_workers and tasks:
        from tdtrain.ray_start import connect
        from tdtrain.train.nodes import check_nodes

        connect()
        check_nodes({"output_dir": predictor.run.output_dir}, {"dataset_path": predictor.run.dataset_path})
    with Display(Path(run.output_dir).name) as display:
        counting = display.counting("predict", "images")
        done = written = 0
        arguments, cpus, gpus = (predictor.run,), run.cpus_per_worker, run.gpus_per_worker
        for outcome in map_tasks(_Predictor, arguments, tasks, run.num_workers, cpus, gpus):
            reasons = dict(zip(outcome["images"], outcome["reasons"], strict=True))
            failed |= {image: reason for image, reason in reasons.items() if reason}
            done += len(reasons)
            written += sum(not reason for reason in reasons.values())
            counting(done, len(missing))
        write_failed(out, failed)
        result = Predicted(written, len(images) - len(missing), len(failed))
        words = f"; {result.failed} failed, see {FAILED}" if failed else ""
        display.say(f"{result.done} images done, {result.there} were there{words}: {run.output_dir}")
    return result


def _claim(run: PredictRun, out: Folder) -> None:
    """Says in the output folder who writes there. Raises ValueError where that was somebody else."""
    told = run.model_dump(mode="json", include={"model", "reader", "serialisation", "detector", "lines"})
    told["weights"] = [_weights(place) for place in (run.model, run.reader) if place]
    if out.exists(WRITER) and (held := json.loads(out.read(WRITER))) != told:
        differing = ", ".join(key for key in told if held.get(key) != told[key])
        raise ValueError(
            f"output_dir={run.output_dir} holds what was predicted with other {differing}; give another folder, or "
            "delete it"
        )
    out.write(WRITER, json.dumps(told, indent=1).encode())


def _weights(name_or_folder: str) -> str:
    """Tells a model's folder from what it was before; the ends of large files stand for them."""
    place, seen = Path(name_or_folder), sha256()
    for path in sorted(place.iterdir()) if place.is_dir() else ():
        if path.is_file() and path.suffix in (".json", ".safetensors"):
            with path.open("rb") as file:
                seen.update(f"{path.name} {path.stat().st_size}".encode() + file.read(ENDS_BYTES))
                file.seek(max(0, path.stat().st_size - ENDS_BYTES))
                seen.update(file.read())
    return seen.hexdigest()


def _tasks(images: dict[str, str]) -> Iterator[Task]:
    names = sorted(images)
    for start in range(0, len(names), IMAGES_PER_TASK):
        some = names[start : start + IMAGES_PER_TASK]
        yield {"names": some, "images": [images[name] for name in some]}


def _resolved(run: PredictRun) -> PredictRun:
    """The run with all that was left out, and its folders in a spelling that other processes understand."""
    changes = {"dataset_path": absolute(run.dataset_path), "output_dir": absolute(run.output_dir)}
    if is_causal(run.model):
        held = Path(run.model) / "run.json"
        learnt = json.loads(held.read_text()) if held.exists() else {}
        for field in ("reader", "serialisation"):
            if (value := getattr(run, field) or learnt.get(field)) is None:
                raise ValueError(
                    f"model={run.model} does not say with which {field} it learnt to write documents; give --{field}, "
                    "or the folder merged/ that rayjobs/lora_document.py left"
                )
            changes[field] = value
    elif run.reader or run.serialisation:
        raise ValueError(f"reader and serialisation are for language models, and model={run.model} reads itself")
    return run.model_copy(update=changes)


class _Predictor:
    """Holds the models once it is called, in the process that calls it."""

    def __init__(self, run: PredictRun) -> None:
        self.run = run
        self.ending = ".txt" if run.reader is None else ".json"
        self._loaded = False

    def __call__(self, task: Task) -> Task:
        self._load()
        out = open_folder(self.run.output_dir)
        reasons = [""] * len(task["images"])
        pages: dict[int, list[PlacedLine]] = {}
        for place, image in enumerate(task["images"]):
            try:
                pages[place] = self._read(PageRef(image=image))
            except (OSError, ValueError) as error:  # one image's trouble is not that of the others
                reasons[place] = first_line(error)
        for place, content in self._contents(pages, list(task["images"]), reasons).items():
            name = task["names"][place]
            try:
                out.write(f"{name}{CUT if reasons[place] else self.ending}", content.encode())
                if self.ending == ".json" and not reasons[place]:
                    out.delete(f"{name}{CUT}")
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    raise
                reasons[place] = first_line(error)
        return {"images": list(task["images"]), "reasons": reasons}

    def _contents(
        self, pages: dict[int, list[PlacedLine]], images: Sequence[str], reasons: list[str]
    ) -> dict[int, str]:
        """What each image's file holds; says why where there is none, or none that is whole."""
        if self.ending == ".txt":
            return {place: "".join(f"{line.text}\n" for line in lines) for place, lines in pages.items()}
        assert self.run.serialisation is not None, "resolved before"
        mended = [self._lexicon.mended(lines) if self._lexicon else lines for lines in pages.values()]
        known = [self._lexicon.known(lines) if self._lexicon else NOTHING for lines in mended]
        texts = [serialise(lines, self.run.serialisation, own) for lines, own in zip(mended, known, strict=True)]
        form, most = form_for(self.run.serialisation), self.run.max_answer_tokens
        answers = write_answers(self._module, self._prompter, texts, most, form) if texts else []
        contents = {}
        for place, (answer, ended) in zip(pages, answers, strict=True):
            said, _ = parse_answer(answer)
            if not ended:
                reasons[place] = (
                    f"the answer went round in circles, or did not end within {self.run.max_answer_tokens} tokens; its "
                    f"whole blocks are in NAME{CUT}; raise max_answer_tokens, or train longer"
                )
            if said is None:
                reasons[place] = "the answer does not fit the schema"
                continue
            document = Document(image_path=images[place], **said.model_dump())
            contents[place] = document.model_dump_json(indent=1, exclude_none=True) + "\n"
        return contents

    def _read(self, ref: PageRef) -> list[PlacedLine]:
        """The lines of one image with their places. Raises ValueError where there are none."""
        options = PackOptions(use_boxes=False, detector=self.run.detector)
        page = load_page(open_folder(self.run.dataset_path), ref, options.max_pixels, options.min_side)
        if page.pixels is None:
            raise ValueError(page.problems[0].reason)
        lines = [whole_image(page, ref, "test")] if self.run.lines else page_lines(page, ref, "test", options)[0]
        readings = read_images(self._reader, [decode(line.image) for line in lines])
        give_back_memory()
        nowhere = (0.0, 0.0, float(page.pixels.shape[1]), 0.0, float(page.pixels.shape[1]), 1.0, 0.0, 1.0)
        found = [
            PlacedLine(reading.text, line.quad or nowhere)
            for line, reading in zip(lines, readings, strict=True)
            if reading.text
        ]
        if not found:
            raise ValueError("no text line was found on the page")
        return found

    def _load(self) -> None:
        if self._loaded:
            return
        torch.set_num_threads(max(1, int(self.run.cpus_per_worker)))
        device = "cuda" if self.run.gpus_per_worker and torch.cuda.is_available() else "cpu"
        self._reader = load_on(device, self.run.reader or self.run.model)
        if self.run.reader is not None:
            self._module, self._prompter = load_writer(self.run.model, device)
            words = Path(self.run.model) / LEXICON
            self._lexicon = Lexicon.read(words.read_bytes()) if words.exists() else None
        self._loaded = True
