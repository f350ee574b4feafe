"""The service that a job names, those that it votes with, and what a call of it may use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tdtrain.ask_config import AskRun
from tdtrain.data.storage import open_folder
from tdtrain.teachers.services.answers import Answers
from tdtrain.teachers.services.document import ANSWER_TOKENS
from tdtrain.teachers.services.service import Question, Service, Usage

QUESTION = "question.json"
"""In the folder of answers: what the job asked last. Other jobs find its answers by it."""


def voters(run: AskRun) -> Mapping[str, tuple[Question, Answers]]:
    """What other jobs asked, and their answers, by their folder.

    Raises: ValueError where a folder is not of such a job.
    """
    found = {}
    for path in run.vote_with:
        folder = open_folder(path)
        if not folder.exists(QUESTION):
            raise ValueError(f"vote_with={path} is no output_dir of rayjobs/label.py --task {run.task}")
        question = Question.model_validate_json(folder.read(QUESTION))
        if question.form.startswith("lines") != (run.task == "text"):
            what = "documents" if run.task == "text" else "lines"
            raise ValueError(f"vote_with={path} holds {what} of {question.service}; task={run.task} needs the others")
        found[path] = (question, Answers(folder))
    return found


def service_of(run: AskRun, prompt: str | None = None) -> Service:
    """The service that a run names. Raises ValueError where its package or its key is missing.

    Args:
        prompt: what the run's file of that name says, where that file need not be.
    """
    model, url = run.service_model or "", run.service_url
    if prompt is None and run.prompt is not None:
        prompt = run.prompt.read_text(encoding="utf-8")
    asks: dict[str, Any] = {"timeout_s": run.timeout_s} | ({"key": "none"} if run.dry_run else {})
    told = {"prompt": prompt, "max_tokens": run.max_answer_tokens}
    how: dict[str, Any] = asks | {name: value for name, value in told.items() if value is not None}
    try:  # each is a package of its own
        if run.service == "local":
            from tdtrain.teachers.services.local import LocalReader

            return LocalReader(model)
        if run.service == "paddleocr":
            from tdtrain.teachers.services.paddle_served import PaddleServed

            return PaddleServed(model, url or "", run.timeout_s)
        if run.service == "google-vision":
            from tdtrain.teachers.services.google_vision import GoogleVision

            return GoogleVision(model, url, **asks)
        if run.service == "claude":
            from tdtrain.teachers.services.claude import Claude

            return Claude(model, url, **how)
        from tdtrain.teachers.services.openai_compatible import OpenAiCompatible
    except ImportError as error:
        raise ValueError(f"service={run.service} needs its SDK; run `pip install --editable '.[services]'`") from error
    return OpenAiCompatible(model, url, **how)


def expected(run: AskRun) -> Usage:
    """What a call is thought to use."""
    return _used(run, run.expected_tokens[1])


def at_most(run: AskRun) -> Usage:
    """What is set aside for a call: an answer as long as it may be."""
    longest = run.max_answer_tokens or ANSWER_TOKENS.get(run.service or "", 0)
    return _used(run, max(longest, run.expected_tokens[1]))


def _used(run: AskRun, written: int) -> Usage:
    usage = Usage(input_tokens=run.expected_tokens[0], output_tokens=written)
    return usage.in_batch() if run.batches else usage
