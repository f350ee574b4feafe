"""The parts that runs are made of: what a job can be told, by theme. `tdtrain.config` has the runs.

Everything is frozen, refuses fields it does not know, and is checked before anything starts.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

_SECRET = re.compile(r"(^|&)[^=]*(key|token|secret|password)[^=]*=", re.IGNORECASE)
"""In the query of an address."""
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
ModelName = Annotated[str, Field(min_length=1, pattern=r"^[^/:]+$")]
"""Of a model in MLflow's registry."""


def node_labels(field: str, label: str | None) -> dict[str, str]:
    """A label as Ray selects nodes by it. Raises ValueError where it is none."""
    if label is None:
        return {}
    if not all(label.partition("=")):
        raise ValueError(f"{field}={label} is no KEY=VALUE, such as ray.io/market-type=spot")
    return dict([label.split("=", 1)])


class Frozen(BaseModel):
    """A part of a run: immutable, and refusing fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _without_credentials(cls, value: object, info: ValidationInfo) -> object:
        # A run is stored in checkpoints, reports and MLflow.
        places = value if isinstance(value, tuple | list) else (value,)
        parts = [urlsplit(one) for one in places if isinstance(one, str) and "://" in one]
        if info.field_name == "service_url" and any(one.username for one in parts):
            raise ValueError("service_url holds a user or a key; leave it out and set the key in the environment")
        if any(one.password is not None for one in parts):
            raise ValueError(
                f"{info.field_name} holds a password; leave it out and set it in the environment "
                "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD)"
            )
        if any(_SECRET.search(one.query) for one in parts):
            raise ValueError(f"{info.field_name} holds a key; leave it out and set it in the environment")
        return value


class WithPlaces(Frozen):
    """A part of a run that names places. Its errors don't repeat what was given, which may hold a password."""

    model_config = ConfigDict(hide_input_in_errors=True)


class Pages(WithPlaces):
    """Where the pages are."""

    dataset_path: str | None = None
    """Folder of images/ and annotations/, or one that rayjobs/prepare.py packed. Left out: the sample corpus."""
    sample_pages: Positive = 300
    """Pages of the sample corpus, when no dataset_path is given."""
    annotated_pages: int = Field(default=20, ge=0)
    """How many pages of the sample corpus come with an annotation to learn from, those of the test split aside."""
    sample_seed: int = Field(default=0, ge=0)
    """Of the sample corpus: another one draws other pages."""


class Corpus(Pages):
    """Where the pages are, and how training sees their lines."""

    augment: bool = True
    """Damage the student's pictures a little, differently in each epoch. Never in evaluation."""
    max_evaluation_lines: Positive = 2000
    """At most so many lines of the validation and of the test split are read, chosen by their hash."""


class Optimisation(Frozen):
    """How a model is trained."""

    epochs: float = Field(default=2.0, gt=0)
    """Passes over the training lines or documents. A control gets the same number of steps."""
    batch_size: Positive = 16
    """Lines or documents per optimizer step, over all workers (the global batch)."""
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
    """Stop after so many evaluations without a better validation CER, or loss. Left out: never."""
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
    max_teacher_wer: float | None = Field(default=None, ge=0)
    """Annotated lines that the teacher reads with a higher word error rate are not learnt from (Distil-Whisper, arXiv
    2311.00430, sec. 3: 0.1). Left out: all are."""
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


class OptionalTeacher(WithPlaces):
    """A larger reader that teaches where there is one, as in `Teaching`; it is stored."""

    teacher_model: str | None = None
    """Distil this reader (built-in name, Hugging Face name or folder) into the adapters. Left out: annotations only."""
    distil_alpha: Share = 0.5
    """Weight of the teacher's distribution; 1 - distil_alpha is the weight of the text."""
    temperature: float = Field(default=1.0, gt=0)
    """Softens both distributions before they are compared."""
    targets: Literal["soft", "sequence", "both"] = "both"
    """soft: its distributions. sequence: its reading is the text of lines nobody annotated. both: both."""
    min_confidence: Share = 0.9
    """Lines that the teacher reads with less confidence are not learnt from."""


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
    teacher_label: str | None = None
    """KEY=VALUE: they run only on nodes with this Ray label, such as pool=teacher. Left out: on any."""

    @property
    def labels(self) -> dict[str, str]:
        """`teacher_label`, as Ray selects nodes by it; empty where any node will do."""
        return node_labels("teacher_label", self.teacher_label)

    @model_validator(mode="after")
    def _labelled(self) -> Self:
        node_labels("teacher_label", self.teacher_label)
        return self


class TeacherCache(Kept):
    """A stored teacher, as a distillation has it."""

    teacher_cache: str | None = None
    """Folder (or s3://) of caches, to be shared between runs. Left out: labels/ in output_dir."""


class Lora(Frozen):
    """Low-rank adapters: W + (alpha / rank) B A, of which only A and B are trained (arXiv 2106.09685)."""

    rank: Positive = 16
    """Of the product B A."""
    alpha: float = Field(default=32.0, gt=0)
    """Scales the product by alpha / rank."""
    alpha_over_rank: float | None = Field(default=None, gt=0)
    """alpha as so many times the rank, in its place: what to search where ranks differ."""
    target_modules: tuple[str, ...] = ("query", "key", "value")
    """Layers that get an adapter, by any part of their names, in either spelling (query is q_proj, and part of a fused
    qkv); all: every linear layer and 1x1 convolution but the head."""
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Of what goes into A."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank) (rsLoRA, arXiv 2312.03732)."""
    dora: bool = False
    """Train the columns' lengths apart from their directions (DoRA, arXiv 2402.09353)."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Which biases are trained as well: none, all of the model's, those of the adapted layers."""
    lora_plus_ratio: float = Field(default=1.0, ge=1)
    """The learning rate of B over that of A (LoRA+, arXiv 2402.12354, where 16 is advised)."""

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.target_modules:
            raise ValueError("target_modules is empty, so nothing would be trained; name layers, or all")
        return self

    @property
    def scaled_by(self) -> float:
        """alpha, however it was given."""
        return self.alpha if self.alpha_over_rank is None else self.alpha_over_rank * self.rank


class Price(Frozen):
    """What a service takes, US dollars."""

    per_page: float = Field(default=0.0, ge=0)
    """For each page that it is asked about."""
    per_million_input_tokens: float = Field(default=0.0, ge=0)
    """For a million tokens that it reads, the picture's own among them."""
    per_million_output_tokens: float = Field(default=0.0, ge=0)
    """For a million tokens that it writes."""
    batch_share: Share = 0.5
    """Share of these prices that tokens of batches cost."""

    @property
    def is_free(self) -> bool:
        """Whether nothing costs anything."""
        return not (self.per_page or self.per_million_input_tokens or self.per_million_output_tokens)
