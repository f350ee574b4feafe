"""How a corpus is packed."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tdtrain.data.detect import Detector


class PackOptions(BaseModel):
    """The options of packing. Every field is part of the fingerprint."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    detector: Detector = "tiny"
    """Which PP-OCR detector finds the lines of pages without boxes: tiny is fast, small is larger."""
    detector_side: int = Field(default=1280, ge=320, le=4096)
    """Pages are scaled down to this longest side for detection, pixels."""
    use_boxes: bool = True
    """Take lines from boxes/NAME.json where it is there. False: detect them on every page."""
    corpus_kind: Literal["auto", "pages", "lines"] = "auto"
    """Whether an image is a page or one line. auto: lines where the images are low, wide and have one-line texts."""
    max_quarantine_share: float = Field(default=0.1, ge=0, le=1)
    """Share of files that may be unusable before packing stops."""
    max_distance: float = Field(default=0.4, gt=0, le=1)
    """Largest normalised edit distance between a rough reading and the annotation line it is matched to. Of 668 lines
    of damaged pages 0.5 placed 640 rightly and 5 wrongly, 0.4 622 and 1, 0.3 609 and none."""
    margin: float = Field(default=0.08, ge=0, le=1)
    """Paper kept around an exact box, as a share of its height; detected boxes have some already."""
    validation_share: float = Field(default=0.1, ge=0, lt=1)
    """Share of pages in the validation split."""
    test_share: float = Field(default=0.1, ge=0, lt=1)
    """Share of pages in the test split."""
    max_pixels: int = Field(default=64_000_000, gt=0)
    """Larger images are set aside before they are decoded."""
    min_side: int = Field(default=8, gt=0)
    """Images with a smaller side are set aside, pixels."""

    @model_validator(mode="after")
    def _something_to_train_on(self) -> PackOptions:
        if self.validation_share + self.test_share >= 1:
            raise ValueError(
                f"validation_share={self.validation_share} + test_share={self.test_share} leave nothing to train on; "
                "use shares that sum to less than 1"
            )
        return self
