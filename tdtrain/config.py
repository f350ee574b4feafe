"""The run schemas: everything a job can be told, checked in one place before anything starts.

A job is one frozen `DistillRun`. From it come the `TrainRun`s, one a model that is trained: the student, its control
and, if wanted, the teacher. Workers receive a run as JSON and validate it again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]


class Frozen(BaseModel):
    """A part of a run: immutable, and refusing fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _without_credentials(cls, value: object, info: ValidationInfo) -> object:
        # A run is stored in checkpoints, reports and MLflow.
        if isinstance(value, str) and "://" in value and urlsplit(value).password is not None:
            raise ValueError(
                f"{info.field_name} holds a password; leave it out and set it in the environment "
                "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD)"
            )
        return value


class WithPlaces(Frozen):
    """A part of a run that names places. Its errors don't repeat what was given, which may hold a password."""

    model_config = ConfigDict(hide_input_in_errors=True)


class Corpus(WithPlaces):
    """Where the pages are, and how training sees them."""

    dataset_path: str | None = None
    """Folder of images/ and annotations/, or one that rayjobs/prepare.py packed. Left out: the sample corpus."""
    sample_pages: Positive = 300
    """Pages of the sample corpus, when no dataset_path is given."""
    annotated_pages: int = Field(default=20, ge=0)
    """How many pages of the sample corpus come with an annotation to learn from."""
    sample_seed: int = Field(default=0, ge=0)
    """Of the sample corpus: another one draws other pages."""
    augment: bool = True
    """Damage the student's pictures a little, differently in each epoch. Never in evaluation."""
    max_evaluation_lines: Positive = 2000
    """At most so many lines of the validation and of the test split are read, chosen by their hash."""


class Optimisation(Frozen):
    """How a model is trained."""

    epochs: float = Field(default=2.0, gt=0)
    """Passes over the training lines of the student. The control gets the same number of steps."""
    batch_size: Positive = 16
    """Lines per optimizer step, over all workers (the global batch)."""
    micro_batch_size: Positive | None = None
    """Lines per worker and forward pass, at most; smaller ones accumulate. Left out: batch_size / workers."""
    learning_rate: float = Field(default=3e-4, gt=0)
    """Peak learning rate of AdamW; a cosine takes it to zero after the warm-up."""
    warmup_share: Share = 0.05
    """Share of the steps in which the learning rate rises."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW's, on matrices and convolutions only."""
    max_grad_norm: float = Field(default=5.0, gt=0)
    """Gradients are clipped to this L2 norm."""
    evaluations: Positive | None = None
    """Times the validation split is read during training; each leaves a checkpoint. Left out: twice an epoch."""
    patience: Positive | None = None
    """Stop after so many evaluations without a better validation CER. Left out: never."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 where the GPU or CPU has instructions for it, else fp32. Losses are fp32 always; so are the weights
    that are trained, of which ZeRO 1-3 under bf16 exports the rounded ones."""
    seed: int = Field(default=0, ge=0)
    """Of the initial weights, the order of the data and the augmentation."""


class Mix(Frozen):
    """How far teacher and student are apart is a weighted sum of these (students that write token by token)."""

    forward_kl: float = Field(default=1.0, ge=0)
    """Weight of KL(teacher || student), Hinton's."""
    reverse_kl: float = Field(default=0.0, ge=0)
    """Weight of KL(student || teacher) (MiniLLM, arXiv 2306.08543)."""
    skew_kl: float = Field(default=0.0, ge=0)
    """Weight of KL(teacher || skew teacher + (1 - skew) student) (DistiLLM, arXiv 2402.03898)."""
    skew_reverse_kl: float = Field(default=0.0, ge=0)
    """Weight of KL(student || skew student + (1 - skew) teacher) (the same)."""
    jsd: float = Field(default=0.0, ge=0)
    """Weight of the generalised Jensen-Shannon divergence (GKD, arXiv 2306.13649)."""
    skew: float = Field(default=0.1, gt=0, lt=1)
    """Of the skew divergences."""
    beta: float = Field(default=0.5, gt=0, lt=1)
    """Of the Jensen-Shannon divergence: near 0 it is like the forward KL, near 1 like the reverse one."""

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not any((self.forward_kl, self.reverse_kl, self.skew_kl, self.skew_reverse_kl, self.jsd)):
            raise ValueError("all divergences have weight 0, so nothing would be taught; use alpha=0 for that")
        return self


class Teaching(Frozen):
    """What the student learns from the teacher (Hinton et al. 2015, arXiv 1503.02531)."""

    temperature: float = Field(default=1.0, gt=0)
    """Softens both distributions before they are compared."""
    alpha: Share = 0.5
    """Weight of the teacher's distribution; 1 - alpha is the weight of the text. 0: no soft targets."""
    vocabulary_bridge: Literal["auto", "same", "rehead", "align", "project", "next_character", "uld", "text"] = "auto"
    """How a teacher that writes other tokens than the student teaches it. same: they write the same ones. rehead: the
    student gets the teacher's tokenizer. align: likelihoods of aligned chunks (ALM). project: the student's
    distribution on the teacher's tokens (X-Token). next_character: both distributions of the next character. uld:
    sorted probabilities. text: the teacher's readings alone. auto: same where it can be, else rehead."""
    trim_vocabulary: bool = False
    """Cut the student's vocabulary to the tokens that the corpus uses: half of TrOCR-small's weights are vocabulary."""
    min_agreement: Share = 0.0
    """Lines of which the teacher reads a worse picture differently, beyond this share of the characters, are not learnt
    from where nobody annotated them. 0: it is not asked twice."""
    targets: Literal["soft", "sequence", "both"] = "both"
    """soft: its distributions. sequence: its reading is the text of lines nobody annotated. both: both."""
    min_confidence: Share = 0.9
    """Lines that the teacher reads with less confidence are not learnt from."""
    teacher_signal: Literal["auto", "stored", "live"] = "auto"
    """stored: one pass over the corpus, whose result is kept. live: a forward pass every step. auto: stored."""
    on_policy: Share = 0.0
    """Share of the steps in which the student's own reading is what the teacher judges (GKD, arXiv 2306.13649)."""
    hidden_weight: float = Field(default=0.0, ge=0)
    """Weight of matching the encoders' hidden states through a learnt projector. With alpha=0: that alone."""
    adapt_teacher: bool = True
    """Fine-tune the teacher on the annotated pages before it teaches."""
    adapt_epochs: float = Field(default=2, gt=0)
    """Passes over the annotated lines when the teacher is adapted."""
    adapt_learning_rate: float = Field(default=5e-5, gt=0)
    """Peak learning rate when the teacher is adapted."""


class Kept(WithPlaces):
    """What is kept of a stored teacher, and who asks it."""

    cache_as: Literal["top_k", "samples", "hidden"] = "top_k"
    """top_k: the likeliest tokens a position, and the mass of the others. samples: draws, unbiased (Random Sampling KD,
    arXiv 2503.16870). hidden: hidden states: exact, and of use at any temperature. CTC frames: top_k."""
    cache_k: Positive | None = None
    """Tokens kept or drawn a position. Left out: 32, of CTC frames 8."""
    teacher_views: int = Field(default=0, ge=0)
    """0: the teacher sees each line as it is. v: v augmented pictures of it, and the student sees the same ones."""
    teacher_actors: Positive | None = None
    """Teachers that label side by side. Left out: one a worker, at least two without GPUs."""
    teacher_gpus: float | None = Field(default=None, ge=0)
    """GPUs each of them reserves. Left out: as many as a worker."""


class TeacherCache(Kept):
    """A stored teacher, as a distillation has it."""

    teacher_cache: str | None = None
    """Folder (or s3://) of caches, to be shared between runs. Left out: labels/ in output_dir."""


class Compute(Frozen):
    """Which machines do it."""

    num_workers: int = Field(default=1, ge=0)
    """Ray Train workers. 0: in this process, without Ray Train."""
    cpus_per_worker: float = Field(default=1, gt=0)
    """CPUs each worker reserves; it also runs as many threads."""
    gpus_per_worker: float | None = Field(default=None, ge=0)
    """GPUs each worker reserves. Left out: one where the cluster has one for each worker, else none."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """0: plain data parallelism. 1-3: DeepSpeed shards optimizer, gradients, parameters."""
    offload: bool = False
    """DeepSpeed keeps optimizer state (and under ZeRO-3 parameters) in host memory; zero_stage 1 to 3."""
    shard_teacher: bool = False
    """Spread a live teacher's weights over the workers (ZeRO-3), for one that does not fit beside the student."""
    placement: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = "PACK"
    """How Ray places the workers on nodes."""
    max_failures: int = Field(default=3, ge=0)
    """Worker failures after which the job gives up; before, it resumes from the last checkpoint."""

    @property
    def gpus(self) -> float:
        """`gpus_per_worker`, none where it was left out and nobody has looked yet; see `with_gpus`."""
        return self.gpus_per_worker or 0.0

    def with_gpus(self, in_cluster: float) -> Self:
        """The same with `gpus_per_worker` decided."""
        if self.gpus_per_worker is not None:
            return self
        return self.model_copy(update={"gpus_per_worker": float(in_cluster >= max(1, self.num_workers))})

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.offload and not self.zero_stage:
            raise ValueError("offload=True needs DeepSpeed, but zero_stage=0 is plain torch; use zero_stage 1, 2 or 3")
        return self


class DistillRun(WithPlaces):
    """Distil a large reader into a small one."""

    teacher_model: str = "ppocrv6-small"
    """Built-in name, Hugging Face name or folder. Built in: ppocrv6-small, ppocrv6-tiny."""
    student_model: str = "mobile-stitched"
    """As the teacher; also mobile-stitched (PP-OCRv6 tiny's backbone, small's neck, the corpus's alphabet),
    mobile-pretrained (PP-OCRv6 tiny, the corpus's alphabet), mobile and nano (fresh)."""
    ctc_head: bool = False
    """Give a student that writes token by token (TrOCR) a CTC head over the corpus's characters on its encoder while
    it trains: it makes small encoders learn."""
    output_dir: Path = Path("output/distill")
    """Everything the job writes; the same command again resumes from it."""
    storage_path: str | None = None
    """Where checkpoints go when workers span several hosts: shared disk or s3://. Left out: output_dir."""
    control: bool = True
    """Also train the same student without the teacher, to tell what the teacher was worth."""
    tracking_uri: str | None = None
    """MLflow server. Left out: an sqlite file in output_dir."""
    register_model: str | None = None
    """Register the student in MLflow under this name."""
    dry_run: bool = False
    """Print the resolved run and exit."""
    corpus: Corpus = Corpus()
    optimisation: Optimisation = Optimisation()
    teaching: Teaching = Teaching()
    mix: Mix = Mix()
    cache: TeacherCache = TeacherCache()
    compute: Compute = Compute()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
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


class TrainRun(WithPlaces):
    """One model's training: what a worker is handed."""

    name: str
    """student, control or teacher; also the name of its folder."""
    model: str
    """Folder of the model to start from."""
    lines: str
    """Folder of the packed corpus."""
    corpus: str | None = None
    """Fingerprint of the packed corpus, for those who ask later what the model learnt from."""
    labels: str | None = None
    """Folder of the teacher's labels of it; None: annotations only."""
    streamed: bool = False
    """The labels may still be in the making while the student trains."""
    teacher: str | None = None
    """Folder of a live teacher; None: none, or a stored one."""
    storage: str
    """Where the checkpoints go."""
    temperature: float = Field(default=1.0, gt=0)
    alpha: Share = 0.0
    bridge: Literal["same", "align", "project", "next_character", "uld"] = "same"
    """How distributions over different tokens are compared; same: the student's are among the teacher's."""
    mix: Mix = Mix()
    on_policy: Share = 0.0
    hidden_weight: float = Field(default=0.0, ge=0)
    targets: Literal["soft", "sequence", "both"] = "both"
    min_confidence: Share = 0.9
    min_agreement: Share = 0.0
    augment: bool = True
    max_evaluation_lines: Positive = 2000
    max_steps: Positive | None = None
    """Stop after so many steps; None: after `optimisation.epochs`."""
    optimisation: Optimisation = Optimisation()
    compute: Compute = Compute()


def check_batch(optimisation: Optimisation, compute: Compute) -> None:
    """Raises ValueError where the global batch does not divide into the workers' micro batches."""
    workers = max(compute.num_workers, 1)
    size, micro = optimisation.batch_size, optimisation.micro_batch_size
    unit = workers * micro if micro and workers * micro <= size else workers
    if size % unit:
        low, high = size // unit * unit, -(-size // unit) * unit
        ways = " or ".join(str(way) for way in (low, high) if way)
        raise ValueError(
            f"optimisation.batch_size={size} is not divisible by workers x micro batch "
            f"({workers} x {unit // workers} = {unit}); use {ways}"
        )


def evaluation_steps(optimisation: Optimisation, total_steps: int) -> frozenset[int]:
    """The steps after which the validation split is read, evenly spread; the last one is always among them."""
    times = optimisation.evaluations or max(1, round(2 * optimisation.epochs))
    return frozenset(max(1, round(total_steps * (i + 1) / times)) for i in range(times))


def micro_batches(optimisation: Optimisation, compute: Compute) -> int:
    """Forward passes per worker and optimizer step (gradient accumulation)."""
    workers = max(compute.num_workers, 1)
    per_worker = optimisation.batch_size // workers
    return max(1, -(-per_worker // (optimisation.micro_batch_size or per_worker)))


class LabelRun(WithPlaces):
    """Have a teacher label a packed corpus."""

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
