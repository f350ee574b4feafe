"""What a worker is handed: one model's training, derived from a job's run. Workers validate it again."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tdtrain.compute import Compute
from tdtrain.options import Lora, Mix, Optimisation, Positive, Share, WithPlaces


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
    spelt_by: str | None = None
    """Folder or name of the teacher, whose tokenizer is asked where a bridge leads from it."""
    bridge: Literal["same", "align", "project", "next_character", "uld"] = "same"
    """How distributions over different tokens are compared; same: the student's are among the teacher's."""
    mix: Mix = Mix()
    on_policy: Share = 0.0
    hidden_weight: float = Field(default=0.0, ge=0)
    lora: Lora | None = None
    """Train adapters alone; None: all weights."""
    targets: Literal["soft", "sequence", "both"] = "both"
    min_confidence: Share = 0.9
    min_agreement: Share = 0.0
    max_teacher_wer: float | None = Field(default=None, ge=0)
    augment: bool = True
    views: int = Field(default=0, ge=0)
    """Augmented pictures of each line, as a stored teacher saw them; its control sees the same. 0: new ones."""
    max_evaluation_lines: Positive = 2000
    max_steps: Positive | None = None
    """Stop after so many steps; None: after `optimisation.epochs`."""
    optimisation: Optimisation = Optimisation()
    compute: Compute = Compute()


class LanguageRun(WithPlaces):
    """One language model's training on documents: what a worker is handed."""

    name: str
    """The name of its folder."""
    model: str
    """Built-in name, Hugging Face name or folder of the model to start from."""
    sequences: str
    """Folder of documents as tokens: train/ and validation/, see `tdtrain.data.sequences`."""
    corpus: str | None = None
    """Fingerprint of the packed corpus, for those who ask later what the model learnt from."""
    storage: str
    """Where the checkpoints go."""
    lora: Lora | None = None
    """Train adapters alone; None: all weights."""
    max_tokens: Positive = 4096
    """Tokens of a worker's forward pass, at most: a step is cut into as many as that takes."""
    gradient_checkpointing: bool = False
    """Compute each layer twice in place of keeping what it computed."""
    four_bit: bool = False
    """Keep the frozen base in 4 bits."""
    max_steps: Positive | None = None
    """Stop after so many steps; None: after `optimisation.epochs`."""
    optimisation: Optimisation = Optimisation()
    compute: Compute = Compute()
