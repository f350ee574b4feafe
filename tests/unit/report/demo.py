"""A made-up run with plausible figures: rendered lines, readers that err by chance at given rates, real scoring."""

from __future__ import annotations

import io
import random
from functools import cache
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from tdtrain.data.card import Card, SplitCount, Spread
from tdtrain.data.rows import Line, content_id
from tdtrain.evaluate.score import compare, score_lines
from tdtrain.evaluate.timing import Timing
from tdtrain.models.reader import Reading
from tdtrain.report.results import CurvePoint, Results, build_results

SUBJECTS = ("Mathematik", "Deutsch", "Español", "Français", "Physik", "Přírodopis", "Geschichte", "Kunst", "Sport")
DAYS = ("Montag", "Dienstag", "Mittwoch", "Donnerstag", "Freitag")
FONT = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSerif.ttf"
DAMAGE = {"clean": 0.3, "blur": 1.2, "low resolution": 2.0, "phone": 0.9, "shadow": 0.6}
RATES: dict[str, float] = {
    "teacher": 0.010,
    "student_before": 0.065,
    "student_undistilled": 0.029,
    "student": 0.012,
}
FACTS: dict[str, tuple[str, int, float]] = {
    "teacher": ("PP-OCRv6 small, adapted", 5_310_000, 44.1),
    "teacher_before": ("PP-OCRv6 small", 5_310_000, 44.2),
    "student_before": ("mobile, own alphabet", 560_000, 9.1),
    "student_undistilled": ("mobile, own alphabet", 560_000, 9.2),
    "student": ("mobile, own alphabet", 560_000, 9.0),
    "baseline": ("PP-OCRv6 tiny", 1_120_000, 11.3),
}


def demo_lines(pages: int = 30, per_page: int = 14, seed: int = 0) -> list[Line]:
    rng = random.Random(seed)
    lines = []
    for page in range(pages):
        damage = rng.choice(list(DAMAGE))
        for place in range(per_page):
            hour = rng.randint(7, 16)
            field, text = rng.choice(
                [
                    (
                        "time",
                        f"{hour:02}:{rng.choice((0, 15, 30, 45)):02} – {hour + 1:02}:{rng.choice((0, 15, 30)):02}",
                    ),
                    ("subject", rng.choice(SUBJECTS)),
                    ("lesson", f"{rng.choice(SUBJECTS)} {rng.choice('ABCR')}{rng.randint(1, 40)} {hour:02}:45"),
                    ("day", rng.choice(DAYS)),
                ]
            )
            picture = _picture(text, damage)
            lines.append(
                Line(
                    id=content_id(str(page), str(place)),
                    page_id=f"page-{page}",
                    image=picture,
                    width=1,
                    height=1,
                    text=text,
                    split="test",
                    source=f"images/timetable_{page:03}.png",
                    tags={"damage": damage, "field": field},
                )
            )
    return lines


@cache
def _picture(text: str, damage: str) -> bytes:
    font = ImageFont.truetype(FONT, 30)
    image = Image.new("RGB", (int(font.getlength(text)) + 16, 48), "#f3efe4")
    ImageDraw.Draw(image).text((8, 4), text, font=font, fill="#2b2926")
    if damage in ("low resolution", "blur"):
        small = image.resize((image.width // 3, image.height // 3))
        image = (
            (small if damage == "low resolution" else image).resize(image.size).filter(ImageFilter.GaussianBlur(1.4))
        )
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def demo_readings(lines: list[Line], rates: dict[str, float], seed: int = 1) -> dict[str, list[Reading]]:
    return {
        role: [Reading(_misread(line.text or "", rate * DAMAGE[line.tags["damage"]], rng), 0.9) for line in lines]
        for role, rate in rates.items()
        for rng in [random.Random(f"{seed}{role}")]
    }


def _misread(text: str, rate: float, rng: random.Random) -> str:
    said = ""
    for character in text:
        if rng.random() >= rate:
            said += character
        else:
            said += rng.choice([rng.choice("0O1lIB8aeéu "), "", character + rng.choice(".-1i")])
    return said


def demo_results(lines: list[Line], readings: dict[str, list[Reading]]) -> Results:
    scores = {}
    for role, found in readings.items():
        model, parameters, ms = FACTS[role]
        timing = Timing(
            ms_per_line_p50=ms,
            ms_per_line_p95=1.6 * ms,
            ms_per_line_batched_p50=0.6 * ms,
            ms_per_line_batched_p95=0.7 * ms,
            num_lines=100,
            batch_size=32,
            num_threads=1,
            device="cpu",
        )
        scores[role] = score_lines(
            lines, found, timing, num_parameters=parameters, size_mb=parameters * 4 / 1e6, model=model
        )
    pairs = [("student", other) for other in ("student_undistilled", "student_before", "teacher", "baseline")]
    comparisons = [compare(lines, readings, a, b) for a, b in pairs if a in readings and b in readings]
    return build_results(
        scores,
        comparisons,
        run={
            "teacher_model": "ppocrv6-small",
            "student_model": "mobile",
            "optimisation": {"epochs": 4.0, "batch_size": 32, "learning_rate": 1e-3},
            "teaching": {"temperature": 1.0, "alpha": 0.5, "targets": "both"},
        },
        timings_s={"prepare": 41, "adapt_teacher": 95, "teach": 180, "control": 170, "evaluate": 66},
        curves="curves.jsonl",
        command="python rayjobs/distill.py --output_dir output/distill",
    )


def demo_curves() -> list[CurvePoint]:
    rng = random.Random(2)
    found = []
    for run, floor, overfit in (("student", 0.06, 0.001), ("control", 0.03, 0.016)):
        for step in range(0, 801, 20):
            fall = 2 ** (-step / 90)
            measured = step and step % 100 == 0
            loss = floor + 3.0 * fall * rng.uniform(0.9, 1.1)
            found.append(
                CurvePoint(
                    run=run,
                    step=step,
                    epoch=step / 200,
                    loss=loss,
                    loss_soft=0.6 * loss if run == "student" else None,
                    loss_hard=0.4 * loss if run == "student" else loss,
                    learning_rate=1e-3 * (1 - step / 800),
                    validation_cer=0.011 + overfit + 0.6 * fall if measured else None,
                    train_cer=0.009 - overfit / 3 + 0.55 * fall if measured else None,
                    images_per_s=260.0,
                )
            )
    return found


def demo_card() -> Card:
    spread = Spread(smallest=18, p5=22, p50=31, p95=52, largest=88)
    return Card(
        corpus_kind="pages",
        splits={
            "train": SplitCount(pages=240, annotated_pages=20, lines=9120, annotated_lines=760),
            "validation": SplitCount(pages=30, annotated_pages=30, lines=1110, annotated_lines=1110),
            "test": SplitCount(pages=30, annotated_pages=30, lines=420, annotated_lines=420),
        },
        documents=300,
        characters=25_310,
        charset={c: 1 for c in "ABCDEFGHIJKLMNOPRSTUVWZabcdefghijklmnopqrstuvwyz0123456789:.–čéířšž"},
        page_widths=spread,
        page_heights=spread,
        line_heights=spread,
        quarantined={"line": 7, "page": 1},
        reasons=("images/scan_7.png: the file is empty (0 bytes)",),
        warnings=("300 images are below the 1000 recommended to fine-tune (5000 to distil)",),
    )
