"""The card that goes with a trained model: what it reads, how well, and how it was made."""

from __future__ import annotations

from pathlib import Path

from tdtrain.report.results import Results, Role
from tdtrain.report.words import percent

LOADING = {
    "vision-encoder-decoder": (
        "from transformers import AutoTokenizer, AutoImageProcessor, VisionEncoderDecoderModel\n\n"
        'model = VisionEncoderDecoderModel.from_pretrained("{folder}")'
    ),
    "pp-ocr": (
        "from transformers import AutoModelForTextRecognition\n\n"
        'model = AutoModelForTextRecognition.from_pretrained("{folder}")'
    ),
}


def write_model_card(folder: Path, results: Results, role: Role) -> None:
    """Writes README.md, in the form the Hugging Face hub shows, into a model's folder."""
    scores = results.readers[role]
    family = "vision-encoder-decoder" if (folder / "generation_config.json").exists() else "pp-ocr"
    teacher = results.run.get("teacher_model", "")
    rows = "\n".join(
        f"| {name} | {percent(other.cer)} | {percent(other.accuracy)} | "
        f"{'' if other.ms_per_line_p50 is None else f'{other.ms_per_line_p50:.1f}'} | {other.num_parameters:,} |"
        for name, other in results.readers.items()
    )
    text = f"""---
library_name: transformers
pipeline_tag: image-to-text
tags: [ocr, timetables, distillation]
---

# {folder.name}

Reads one line of a timetable: the picture of a text line in, its text out. Trained with tdtrain
{results.versions.get("tdtrain", "")}{f" from the teacher {teacher}" if teacher else ""}.

| reader | CER | exact lines | ms a line | parameters |
|---|---|---|---|---|
{rows}

Measured on {scores.num_lines} lines of {scores.num_pages} test pages that no model learnt from.

```python
{LOADING[family].format(folder=folder.name)}
```

It was made for the alphabet and the kind of page of its corpus; on anything else, measure first. The run that made it
is in `run.json`.
"""
    (folder / "README.md").write_text(text, encoding="utf-8")
