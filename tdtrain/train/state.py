"""What training leaves behind at each step: light, for every process of a run loads it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field


@dataclass
class Record:
    """One point of the curves. Losses in nats a position; what is None was not measured at this step.

    `rows`, `rows_crc`: how many lines or documents the step learnt from, and which, see `tdtrain.train.ledger`.
    """

    step: int
    epoch: float
    loss: float
    loss_soft: float
    loss_hard: float
    learning_rate: float
    grad_norm: float
    images_per_s: float
    loss_hidden: float = 0.0
    rows: int = 0
    rows_crc: int = 0
    validation_cer: float | None = None
    train_cer: float | None = None
    validation_loss: float | None = None

    @property
    def score(self) -> float | None:
        """What checkpoints are compared by, less is better: readers' CER, else the loss."""
        return self.validation_loss if self.validation_cer is None else self.validation_cer


@dataclass
class State:
    """How far a training run is: with the weights, all that is needed to go on as if nothing had happened."""

    step: int = 0
    best_score: float | None = None
    evaluations_without_gain: int = 0
    history: list[Record] = field(default_factory=list)

    def as_dict(self) -> dict:
        """For JSON; `from_dict` reads it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> State:
        """The inverse of `as_dict`."""
        return cls(**{**values, "history": [Record(**record) for record in values["history"]]})
