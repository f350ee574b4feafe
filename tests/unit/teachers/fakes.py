"""A service that does what a test says."""

from __future__ import annotations

from pathlib import Path

from tdtrain.data.storage import open_folder
from tdtrain.teachers.services.answers import Answers
from tdtrain.teachers.services.asking import ask
from tdtrain.teachers.services.desk import Desk
from tdtrain.teachers.services.service import Answer, Question, SpokenLine, Usage

QUESTION = Question(service="fake/1", prompt="Read this.", form="lines-1")


class Fake:
    """Does what a script says, an attempt a step: an exception is raised, anything else answered; then it answers."""

    def __init__(self, *script: Exception | str, question: Question = QUESTION) -> None:
        self.question, self.script, self.complaints = question, list(script), []

    def ask(self, image: bytes, complaint: str | None = None) -> Answer:
        self.complaints.append(complaint)
        step = self.script.pop(0) if self.script else image.decode()
        if isinstance(step, Exception):
            raise step
        return Answer(lines=(SpokenLine(text=step),), usage=Usage(input_tokens=100, output_tokens=10), raw="{}")


def asked(service: Fake, folder: Path, image: bytes = b"a", **options: object):
    slept: list[float] = []
    kept = ask(service, image, Answers(open_folder(folder)), sleep=slept.append, **({"desk": Desk()} | options))  # type: ignore[arg-type]
    return kept, slept
