"""Having language models write pages: longest first, in batches, side by side on Ray Data or in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from tdtrain.models.causal import CausalModule, Prompter, load_causal
from tdtrain.models.write import Form, write_answers
from tdtrain.precision import use_bf16
from tdtrain.ray_map import Task, map_tasks

BATCH = 8


@dataclass(frozen=True)
class Written:
    """One page's answer, its share of the time that its batch took, seconds, and whether it ended by itself."""

    answer: str
    seconds: float
    ended: bool


def write_pages(
    models: Mapping[str, str],
    pages: Mapping[str, Sequence[str]],
    max_new_tokens: Mapping[str, int],
    form: Form,
    *,
    num_actors: int = 0,
    cpus_per_actor: float = 1,
    gpus_per_actor: float = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, list[Written]]:
    """What each writer makes of its pages, in their order.

    Args:
        models: name or folder of the model, by writer.
        pages: as text, by writer.
        max_new_tokens: an answer is cut there, by writer.
        form: of the answers.
        num_actors: at work at once on the cluster that Ray is connected to; 0: in this process.
        progress: told of batches done and batches in all.
    """
    tasks = [
        {**task, "limit": max_new_tokens[writer], "form": form}
        for writer, model in models.items()
        for task in _tasks(writer, model, pages[writer])
    ]
    written: dict[str, list[Written]] = {writer: [Written("", 0.0, False)] * len(pages[writer]) for writer in models}
    on_gpu = torch.cuda.is_available() if not num_actors else gpus_per_actor > 0
    threads = cpus_per_actor if num_actors else torch.get_num_threads()
    arguments = (threads, "cuda" if on_gpu else "cpu")
    answered = map_tasks(_Writer, arguments, tasks, num_actors, cpus_per_actor, gpus_per_actor)
    for done, found in enumerate(answered):
        progress(done, len(tasks))
        for place, (answer, ended) in zip(found["places"], found["answers"], strict=True):
            written[found["writer"]][place] = Written(answer, found["seconds"] / len(found["places"]), ended)
    progress(len(tasks), len(tasks))
    return written


def load_writer(name: str, device: str) -> tuple[CausalModule, Prompter]:
    """A language model that only writes, on a device, in bf16 where that is quick."""
    module, prompter = load_causal(name, torch.bfloat16 if use_bf16("auto", device) else torch.float32)
    return module.to(device), prompter


def _tasks(writer: str, model: str, pages: Sequence[str]) -> list[Task]:
    longest_first = sorted(range(len(pages)), key=lambda place: -len(pages[place]))
    batches = [longest_first[start : start + BATCH] for start in range(0, len(pages), BATCH)]
    return [
        {"writer": writer, "model": model, "places": batch, "pages": [pages[place] for place in batch]}
        for batch in batches
    ]


class _Writer:
    """Holds one model at a time."""

    def __init__(self, threads: float, device: str) -> None:
        torch.set_num_threads(max(1, int(threads)))
        self._device = device
        self._held: tuple[str, CausalModule, Prompter] | None = None

    def __call__(self, task: Task) -> Task:
        module, prompter = self._model(task["model"])
        started = time.perf_counter()
        answers = write_answers(module, prompter, list(task["pages"]), task["limit"], task["form"])
        seconds = time.perf_counter() - started
        return {"writer": task["writer"], "places": list(task["places"]), "answers": answers, "seconds": seconds}

    def _model(self, name: str) -> tuple[CausalModule, Prompter]:
        if self._held is None or self._held[0] != name:
            self._held = None  # two would not fit
            self._held = (name, *load_writer(name, self._device))
        return self._held[1:]
