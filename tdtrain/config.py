"""The run schemas: everything a job can be told, checked in one place before anything starts.

A job is one frozen run, such as `DistillRun`. From it come those of `tdtrain.train.runs`, one a model that is trained:
the student, its control and, if wanted, the teacher.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from tdtrain.compute import Compute, check_batch
from tdtrain.data.detect import Detector
from tdtrain.data.serialise import Serialisation
from tdtrain.options import (
    Corpus,
    Kept,
    Lora,
    Mix,
    ModelName,
    Optimisation,
    OptionalTeacher,
    Pages,
    Positive,
    TeacherCache,
    Teaching,
    WithPlaces,
)


class TrainingRun(WithPlaces):
    """What all jobs have that train a model."""

    output_dir: Path
    """Everything the job writes; the same command again resumes from it."""
    storage_path: str | None = None
    """Where checkpoints go when workers span several hosts: shared disk or s3://. Left out: output_dir."""
    tracking_uri: str | None = None
    """MLflow server. Left out: an sqlite file in output_dir."""
    register_model: ModelName | None = None
    """Register what was trained in MLflow under this name."""
    dry_run: bool = False
    """Print the resolved run and exit."""
    corpus: Pages = Pages()
    optimisation: Optimisation = Optimisation()
    compute: Compute = Compute()

    @property
    def models_at_once(self) -> int:
        """How many are trained side by side on Ray."""
        return 1

    @model_validator(mode="after")
    def _places(self) -> Self:
        check_batch(self.optimisation, self.compute)
        if "://" in str(self.output_dir) or ":/" in str(self.output_dir):
            raise ValueError(
                f"output_dir={self.output_dir} is no folder; give one (on a cluster, on a disk that all nodes share), "
                "and put checkpoints elsewhere with storage_path"
            )
        if self.storage_path and "://" in self.storage_path and not self.compute.num_workers:
            raise ValueError(
                f"storage_path={self.storage_path} needs Ray Train, but num_workers=0 trains in this process; "
                "give a local folder or num_workers=1"
            )
        return self


class ReaderRun(TrainingRun):
    """What all jobs have that train readers."""

    corpus: Corpus = Corpus()


class Pair(WithPlaces):
    """Who teaches whom."""

    teacher_model: str = "ppocrv6-small"
    """Built-in name, Hugging Face name or folder. Built in: ppocrv6-small, ppocrv6-tiny."""
    student_model: str = "mobile-stitched"
    """As the teacher; also mobile-stitched (PP-OCRv6 tiny's backbone, small's neck, the corpus's alphabet),
    mobile-pretrained (PP-OCRv6 tiny, the corpus's alphabet), mobile and nano (fresh)."""
    ctc_head: bool = False
    """Give a student that writes token by token (TrOCR) a CTC head over the corpus's characters on its encoder while
    it trains: it makes small encoders learn."""
    control: bool = True
    """Also train the same student without the teacher, to tell what the teacher was worth."""


class DistillRun(ReaderRun, Pair):  # pydantic takes the fields of the last base first
    """Distil a large reader into a small one."""

    output_dir: Path = Path("output/distill")
    """Everything the job writes; the same command again resumes from it."""
    teaching: Teaching = Teaching()
    mix: Mix = Mix()
    cache: TeacherCache = TeacherCache()

    @property
    def models_at_once(self) -> int:
        """The student and its control."""
        return 1 + self.control

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.compute.shard_teacher and self.teaching.teacher_signal != "live":
            raise ValueError(
                f"shard_teacher=True is for a live teacher, but teacher_signal={self.teaching.teacher_signal}; "
                "say --teacher_signal live, or leave it out"
            )
        for field in ("on_policy", "hidden_weight"):
            if (value := getattr(self.teaching, field)) and self.teaching.teacher_signal != "live":
                raise ValueError(
                    f"{field}={value} asks the teacher at every step, but teacher_signal="
                    f"{self.teaching.teacher_signal}; say --teacher_signal live, or leave it out"
                )
        if self.teaching.on_policy and self.teaching.vocabulary_bridge not in ("auto", "same", "rehead"):
            raise ValueError(
                f"on_policy={self.teaching.on_policy} has the teacher judge the student's own tokens, but "
                f"vocabulary_bridge={self.teaching.vocabulary_bridge} compares different ones; use rehead"
            )
        if self.teaching.on_policy and (not self.teaching.alpha or self.teaching.targets == "sequence"):
            raise ValueError(
                f"on_policy={self.teaching.on_policy} has the teacher judge what the student writes, and nothing else "
                f"is learnt in these steps, but alpha={self.teaching.alpha} with targets={self.teaching.targets} gives "
                "its distributions no weight; leave on_policy out, or raise alpha and use targets soft or both"
            )
        if self.cache.teacher_views and not self.corpus.augment:
            raise ValueError(
                f"teacher_views={self.cache.teacher_views} are augmented pictures, but augment=False; leave one out"
            )
        if self.corpus.dataset_path is None and not self.corpus.annotated_pages and self.control:
            raise ValueError(
                "control=True needs annotated pages to learn from, but annotated_pages=0; "
                "annotate some pages or say --no-control"
            )
        return self


class Adapted(WithPlaces):
    """What is adapted."""

    model_name: str = "ppocrv6-small"
    """Built-in name, Hugging Face name or folder. Built in: ppocrv6-small, ppocrv6-tiny."""


class LoraOcrRun(ReaderRun, Adapted):
    """Adapt a reader to a corpus with low-rank adapters, which --alpha scales; with a teacher, distil it as well."""

    output_dir: Path = Path("output/lora_ocr")
    """Everything the job writes; the same command again resumes from it."""
    lora: Lora = Lora()
    teacher: OptionalTeacher = OptionalTeacher()
    optimisation: Optimisation = Optimisation(epochs=5, batch_size=8, learning_rate=3e-4)
    compute: Compute = Compute()


class LoraDocumentRun(TrainingRun):
    """Adapt a language model with low-rank adapters, which --alpha scales, to write what a page says as JSON."""

    model_name: str = "smollm2-135m"
    """Instruction-tuned causal language model: built-in name, Hugging Face name or folder. Built in: smollm2-135m."""
    reader: str = "ppocrv6-small"
    """Reads the pages' lines. Built-in name, Hugging Face name or folder. Built in: ppocrv6-small, ppocrv6-tiny."""
    output_dir: Path = Path("output/lora_document")
    """Everything the job writes; the same command again resumes from it."""
    serialisation: Serialisation = "blocks"
    """How a page's lines become one text; see `tdtrain.data.serialise`."""
    lexicon: bool = True
    """Mend what the reader misread by the words of the training pages' documents, and find their days and names in what
    tables have; see `tdtrain.data.lexicon`, `tdtrain.data.known`."""
    max_document_tokens: Positive | None = None
    """Longer documents, page and answer together, are left out of training, and counted. Left out: max_tokens."""
    max_tokens: Positive = 4096
    """Tokens of a worker's forward pass, at most: a step is cut into as many as that takes."""
    max_answer_tokens: Positive = 2048
    """An answer that has not ended by then is closed after its last whole block."""
    gradient_checkpointing: bool = False
    """Compute each layer twice in place of keeping what it computed."""
    four_bit: bool = False
    """Keep the frozen base in 4 bits (QLoRA, arXiv 2305.14314); needs bitsandbytes. Not under ZeRO-3."""
    plan: bool = False
    """Print how much memory each worker needs, by ZeRO stage and number of workers, and exit."""
    corpus: Pages = Pages(annotated_pages=300)
    lora: Lora = Lora(rank=32, alpha=64, target_modules=("q_proj", "k_proj", "v_proj", "o_proj"), lora_dropout=0.1)
    optimisation: Optimisation = Optimisation(epochs=3, batch_size=8, learning_rate=1e-3)
    compute: Compute = Compute()

    @model_validator(mode="after")
    def _tokens(self) -> Self:
        if (longest := self.max_document_tokens) and longest > self.max_tokens:
            raise ValueError(
                f"max_document_tokens={longest} is more than max_tokens={self.max_tokens}, which a document alone must "
                "not exceed; raise max_tokens"
            )
        if self.four_bit and self.compute.zero_stage == 3:
            raise ValueError(
                "four_bit=True packs weights in a form that zero_stage=3 cannot spread over workers; use "
                "zero_stage 0, 1 or 2, or leave four_bit out"
            )
        if self.four_bit and self.lora.dora:
            raise ValueError(
                "four_bit=True packs weights, and dora=True needs the lengths of their columns; leave one of them out"
            )
        if (size := self.optimisation.micro_batch_size) is not None:
            raise ValueError(
                f"micro_batch_size={size} counts lines, and documents are dealt out by their tokens; use max_tokens"
            )
        return self


class DistillDocumentRun(LoraDocumentRun):
    """Have a language model learn to write pages as JSON from the documents of a teacher behind an API, through
    low-rank adapters, which --alpha scales."""

    task: Literal["document"] = "document"
    """document: what this help is about. Left out: readers, see --help without it."""
    output_dir: Path = Path("output/distill_document")
    """Everything the job writes; the same command again resumes from it."""
    control: bool = True
    """Also train the same model, as many steps, on the pages that are annotated by hand alone, to tell what the teacher
    was worth."""

    @model_validator(mode="after")
    def _labelled(self) -> Self:
        if self.corpus.dataset_path is None:
            raise ValueError("task=document needs a dataset_path: the output_dir of rayjobs/label.py --task document")
        return self


class LabelRun(WithPlaces):
    """Have a teacher label a packed corpus."""

    task: Literal["lines"] = "lines"
    """lines: what a reader makes of each line. document: see --task document --help."""
    teacher_model: str = "ppocrv6-small"
    """Built-in name, Hugging Face name or folder."""
    dataset_path: str
    """Folder that rayjobs/prepare.py packed."""
    output_dir: str = "output/labels"
    """Folder (or s3://) of caches: --teacher_cache of rayjobs/distill.py. Caches of other teachers may lie there."""
    temperature: float = Field(default=1.0, gt=0)
    """Of the distribution that is kept (top_k and samples of teachers that write token by token)."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 where the GPU or CPU has instructions for it, else fp32."""
    kept: Kept = Kept()
    dry_run: bool = False
    """Print the resolved run and exit."""


class PredictRun(WithPlaces):
    """Have a model read or write every image of a folder."""

    model: str
    """Reader: text comes out. Or the language model that rayjobs/lora_document.py left in merged/: JSON comes out.
    Built-in name, Hugging Face name or folder."""
    dataset_path: str
    """Folder of images, or of images/ (or s3://); those below it as well."""
    output_dir: str = "output/predictions"
    """Folder (or s3://) for NAME.txt or NAME.json of each image; what is there is not done again."""
    reader: str | None = None
    """Reads the lines for a language model. Left out: the reader that it learnt with."""
    serialisation: Serialisation | None = None
    """How lines become one text for a language model. Left out: as it learnt them."""
    detector: Detector = "tiny"
    """Which PP-OCR detector finds the lines of a page."""
    lines: bool = False
    """Each image is one line already."""
    max_answer_tokens: Positive = 2048
    """A document that has not ended by then fails; NAME.json.cut holds its whole blocks."""
    num_workers: int = Field(default=2, ge=0)
    """Models that work side by side on Ray. 0: in this process."""
    cpus_per_worker: float = Field(default=1, gt=0)
    """CPUs each of them reserves; it also runs as many threads."""
    gpus_per_worker: float = Field(default=0, ge=0)
    """GPUs each of them reserves."""
    dry_run: bool = False
    """Print the resolved run and exit."""


class EvaluateRun(WithPlaces):
    """Score a reader on a corpus."""

    model: str
    """Built-in name, Hugging Face name or folder."""
    dataset_path: str
    """Folder of pages or of line images with annotations, or one that rayjobs/prepare.py packed."""
    output_dir: Path = Path("output/evaluate")
    """results.json and report.html go here."""
    baseline: str | None = None
    """Another reader to compare with."""
    splits: tuple[Literal["train", "validation", "test"], ...] | None = None
    """Which of the corpus's splits are read. Left out: all; of a corpus that one of the models learnt from, test."""
    max_evaluation_lines: Positive = 2000
    """At most so many lines of each split are read, chosen by their hash."""
    num_workers: int = Field(default=2, ge=0)
    """Readers that work side by side on Ray. 0: in this process."""
    gpus_per_worker: float = Field(default=0, ge=0)
    """GPUs each of them reserves."""
    tracking_uri: str | None = None
    """MLflow server. Left out: an sqlite file in output_dir."""
    dry_run: bool = False
    """Print the resolved run and exit."""
