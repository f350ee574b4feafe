"""What a search can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from tdtrain.options import ModelName, Positive, WithPlaces

JobName = Literal["distill", "lora_ocr", "lora_document"]
Objective = Literal["score", "parameters", "ms_per_line"]
GUIDE: dict[JobName, tuple[str, ...]] = {
    "distill": (
        "teaching.temperature=log(1.0, 10.0)",
        "teaching.alpha=uniform(0.1, 0.9)",
        "optimisation.learning_rate=log(5e-5, 2e-3)",
    ),
    "lora_ocr": (
        "lora.rank=choice(8, 16, 32, 64)",
        "lora.alpha_over_rank=uniform(1.0, 4.0)",
        "lora.lora_dropout=uniform(0.0, 0.2)",
        'lora.target_modules=choice(["query", "key", "value"], ["all"])',
        "optimisation.learning_rate=log(1e-4, 3e-3)",
    ),
    "lora_document": (
        "lora.rank=choice(8, 16, 32, 64)",
        "lora.alpha_over_rank=uniform(1.0, 4.0)",
        "lora.lora_dropout=uniform(0.0, 0.2)",
        'lora.target_modules=choice(["q_proj", "v_proj"], ["q_proj", "k_proj", "v_proj", "o_proj"])',
        "optimisation.learning_rate=log(1e-4, 3e-3)",
    ),
}
"""Where no space is given: around what is usual, temperatures of 5 to 10 and below among it."""


class SearchRun(WithPlaces):
    """Search the values of a job's fields under which its model reads best. The job's own flags follow after --."""

    job: JobName = "distill"
    """Which job is searched."""
    space: tuple[str, ...] = ()
    """Fields by their dotted paths: PATH=uniform(LOW, HIGH), PATH=log(LOW, HIGH) or PATH=choice(A, B, ...), such as
    teaching.temperature=log(1.0, 10.0). Left out: temperature, alpha and learning rate of distill; rank, alpha over it,
    dropout, layers and learning rate of LoRA."""
    num_trials: Positive = 16
    """How many combinations are tried; of a grid, which tries all with all, how many points each range is cut into."""
    searcher: Literal["tpe", "nsga2", "random", "grid"] = "tpe"
    """Who picks them: Optuna's TPE, for one objective or several; its NSGA-II, for several; chance; a grid, which
    tries all."""
    scheduler: Literal["asha", "hyperband", "median", "pbt", "none"] = "asha"
    """Who stops the hopeless early. pbt: trials go on from the weights of better ones, with values changed a little."""
    objectives: tuple[Objective, ...] = ("score",)
    """What is to be small: score (CER on the validation split, of documents the loss), parameters (that are trained),
    ms_per_line. Several: the result is the front of those that no other beats in all."""
    reduction: int = Field(default=3, ge=2)
    """asha and hyperband keep one of so many trials at each rung."""
    grace: Positive = 1
    """Evaluations that no trial is stopped before (asha, median); of pbt, between two changes."""
    trials_at_once: Positive | None = None
    """Left out: as many as there is room for."""
    fit_best: bool = False
    """Then train the best with fresh seeds, and the job as it was given, and compare both on the test split."""
    fit_seeds: Positive = 3
    """How many, of fit_best."""
    search_seed: int = Field(default=0, ge=0)
    """Of the searcher."""
    output_dir: Path = Path("output/tune")
    """Everything the search writes; the same command again resumes it."""
    resume: bool = False
    """Refuse to begin a search where output_dir holds none to go on with."""
    study: str | None = None
    """Name of the Optuna study. Left out: the name of output_dir."""
    study_storage: str | None = None
    """Optuna storage of the study, such as postgresql://host/studies. Left out: study.db in output_dir."""
    tracking_uri: str | None = None
    """MLflow server. Left out: an sqlite file in output_dir."""
    register_model: ModelName | None = None
    """Register the best model in MLflow under this name."""
    dry_run: bool = False
    """Print search, space and job, and exit."""

    @property
    def axes(self) -> tuple[str, ...]:
        """The space, where none was given the job's own."""
        return self.space or GUIDE[self.job]

    @property
    def study_name(self) -> str:
        """Of the Optuna study."""
        return self.study or self.output_dir.name

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(set(self.objectives)) < max(1, len(self.objectives)) or not self.objectives:
            raise ValueError(f"objectives={' '.join(self.objectives)} names one twice, or none")
        if len(self.objectives) > 1 and self.scheduler != "none":
            raise ValueError(
                f"scheduler={self.scheduler} stops trials by one objective, and there are {len(self.objectives)}; "
                "use scheduler=none"
            )
        if self.scheduler != "none" and self.objectives != ("score",):
            raise ValueError(
                f"scheduler={self.scheduler} goes by the score of trials under way, and objectives="
                f"{self.objectives[0]} does not change; use scheduler=none"
            )
        if self.scheduler in ("hyperband", "none") and self.grace > 1:
            raise ValueError(f"grace={self.grace} does nothing with scheduler={self.scheduler}; leave it out")
        if self.searcher == "nsga2" and len(self.objectives) < 2:
            raise ValueError("searcher=nsga2 is for several objectives; name them, or use searcher=tpe")
        if self.scheduler == "pbt" and self.searcher not in ("random", "tpe"):
            raise ValueError(f"scheduler=pbt changes values itself, which searcher={self.searcher} does not follow")
        if self.job == "lora_document" and "ms_per_line" in self.objectives:
            raise ValueError(
                "objectives=ms_per_line is of readers, and job=lora_document writes documents; leave it out"
            )
        return self
