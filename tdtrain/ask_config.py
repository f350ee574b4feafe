"""What a service is asked about every page of a folder: the fields of rayjobs/label.py without a teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from tdtrain.options import Positive, Price, Share, WithPlaces

MODELS = {"google-vision": "builtin/stable", "paddleocr": "served", "local": "ppocrv6-small"}
"""Of services that read, where none is named."""


class AskRun(WithPlaces):
    """Have a service write or read every page of a folder."""

    task: Literal["document", "text"] = "document"
    """document: the timetable as JSON. text: the lines with their places."""
    service: Literal["openai", "claude", "google-vision", "paddleocr", "local"] | None = None
    """Documents are written by openai (the default: any endpoint of its chat completions, such as vLLM) or claude.
    Text is read by local (the default: a reader of yours), paddleocr (served by PaddleX) or google-vision.
    Keys: OPENAI_API_KEY, if there is one; ANTHROPIC_API_KEY; GOOGLE_API_KEY or GOOGLE_APPLICATION_CREDENTIALS."""
    service_model: str | None = None
    """As the service calls it; for local a built-in name, Hugging Face name or folder.
    Left out: ppocrv6-small of local, builtin/stable of google-vision."""
    service_url: str | None = None
    """Of the endpoint, such as http://localhost:8000/v1. Left out: the vendor's own."""
    prompt: Path | None = None
    """Text file with what to ask in place of the built-in prompt; the answer has to fit the same schema (document)."""
    max_answer_tokens: Positive | None = None
    """Of one document; a longer one fails. Left out: 4,096 of openai, 8,192 of claude."""
    timeout_s: float = Field(default=300.0, gt=0)
    """An answer that is not whole by then is none; it may be paid all the same."""
    min_confidence: Share = 0.8
    """Lines that the service is less sure of keep their place and lose their text (text)."""
    vote_with: tuple[str, ...] = ()
    """Output folders of other services that were asked about the same pages. Text: where they find the same line, the
    one with the most confidence behind it wins; its confidence is the sum of theirs over the number of all. Documents:
    see min_agreement."""
    max_wer: Share = 0.0
    """Up to which word error rate two texts are the same in a vote; dashes, quotes and times may be spelt differently
    anyway (text)."""
    min_agreement: Share = 0.0
    """Pages are dropped whose time blocks agree less with those of vote_with: their F1, a mean over these services, 0
    of one without an answer (document)."""
    dataset_path: str
    """Folder of images, or of images/ (or s3://); those below it as well."""
    output_dir: str = "output/asked"
    """Folder (or s3://) for a corpus: images/, with annotations/NAME.json (document) or boxes/NAME.json (text) of each;
    and answers/, which other jobs may share."""
    calls_per_second: float | None = Field(default=1.0, gt=0)
    """Calls that may begin in any second, of all workers together, and of other jobs on the cluster that ask the same
    service: the lowest of their limits holds for all."""
    calls_at_once: Positive = 8
    """Calls that wait for an answer side by side, of all workers together, and of other jobs, as above."""
    pages_per_call: int | None = Field(default=None, ge=1, le=16)
    """Pages that go in one call; those that it leaves unanswered are asked about one by one. Left out: 16 of
    google-vision, 1 of others, which take no more."""
    batches: bool = False
    """Hand all pages in at once, as Message Batches: answered within a day, for less (claude)."""
    check_annotated: bool = False
    """Also ask about pages that are annotated by hand, to say how right the service is; they keep their annotation."""
    ask_again: bool = False
    """Also ask about pages that were given up for good: refused, or answered three times so that it cannot be used."""
    max_pages: Positive | None = None
    """Ask about so many pages that have no answer yet, then stop."""
    max_cost_usd: float | None = Field(default=None, gt=0)
    """Stop before the service has taken more; needs a price. Batches keep to it in rounds, fewer with a lower
    max_answer_tokens."""
    price: Price = Price()
    price_table: Path | None = None
    """TOML in place of price: a table for each service and model, such as ["claude/MODEL"], with the same fields."""
    expected_tokens: tuple[int, int] = (1_500, 1_000)
    """Of a page and its answer, for the estimate. For each call under way as much of the budget is set aside as an
    answer of max_answer_tokens costs, or as the dearest call so far did."""
    num_workers: int = Field(default=2, ge=0)
    """That ask side by side on Ray. 0: in this process."""
    dry_run: bool = False
    """Print the resolved run, the pages that have no answer and what they may cost, and exit."""

    @property
    def together(self) -> int:
        """`pages_per_call`."""
        return self.pages_per_call or 1

    @model_validator(mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("service") is None:
            given = given | {"service": "local" if given.get("task") == "text" else "openai"}
        if isinstance(given, dict) and given.get("service_model") is None:
            given = given | {"service_model": MODELS.get(given["service"])}
        if isinstance(given, dict) and given.get("pages_per_call") is None:
            given = given | {"pages_per_call": 16 if given["service"] == "google-vision" else 1}
        return given

    @model_validator(mode="after")
    def _fits(self) -> Self:
        reads = self.service in MODELS
        if reads != (self.task == "text"):
            there = ", ".join(MODELS) if self.task == "text" else "openai, claude"
            raise ValueError(f"service={self.service} does not do task={self.task}; use one of {there}")
        if self.service_model is None:
            raise ValueError(f"service={self.service} needs a service_model, as the service calls it")
        if self.service == "paddleocr" and self.service_url is None:
            raise ValueError("service=paddleocr needs the service_url of its server, such as http://localhost:8080")
        if self.prompt is not None and not self.prompt.is_file():
            raise ValueError(f"prompt={self.prompt} is no file; give one that holds the words")
        text = ("min_confidence", "max_wer")
        document = ("prompt", "max_answer_tokens", "min_agreement")
        fields = AskRun.model_fields
        for name in text if self.task == "document" else document:
            if (value := getattr(self, name)) != fields[name].default:
                raise ValueError(f"{name}={value} does nothing with task={self.task}; leave it out")
        for name in ("max_wer", "min_agreement"):
            if getattr(self, name) and not self.vote_with:
                raise ValueError(f"{name}={getattr(self, name):g} is of votes; give vote_with, or leave it out")
        if self.together > 1 and self.service != "google-vision":
            raise ValueError(f"pages_per_call={self.pages_per_call} is for service=google-vision; leave it out")
        if self.batches and self.service != "claude":
            raise ValueError(f"batches=True is for service=claude, and this is service={self.service}")
        return self

    @model_validator(mode="after")
    def _budget(self) -> Self:
        if self.max_cost_usd is not None and self.price.is_free and self.price_table is None:
            raise ValueError(
                f"max_cost_usd={self.max_cost_usd:g} needs a price; give per_page, per_million_input_tokens or "
                "per_million_output_tokens, as the service bills, or a price_table"
            )
        return self
