"""How pages vary in looks."""

from __future__ import annotations

from random import Random

from tdtrain.data.sample.sheet import Style

PASTELS = ("#fde2e2", "#e2f0d9", "#ddebf7", "#fff2cc", "#e4dfec", "#fce4d6", "#d9f2f0", "#f2f2f2")
HEADER_FILLS = (
    (None, "#000000"),
    ("#e6e6e6", "#000000"),
    ("#d0d0d0", "#111111"),
    ("#dbe5f1", "#1f3864"),
    ("#fbe4d5", "#3b2a1a"),
    ("#2f4b7c", "#ffffff"),
    ("#444444", "#ffffff"),
    ("#3a6b4c", "#ffffff"),
)


def make_style(rng: Random, font: str, scale: float) -> Style:
    """A style drawn at random. `scale` evens out fonts that look smaller than others at the same size."""
    fill, header_ink = rng.choice(HEADER_FILLS)
    tints: tuple[str, ...] = tuple(rng.sample(PASTELS, rng.randint(2, len(PASTELS)))) if rng.random() < 0.25 else ()
    roomy = rng.random() < 0.5
    return Style(
        font=font,
        size=round(rng.uniform(7.5, 10.5) * scale, 2),
        ink=rng.choice(["#000000", "#000000", "#111111", "#2b2b2b", "#1c2a4a"]),
        paper=rng.choice(["#ffffff", "#ffffff", "#ffffff", "#fbf8f0", "#f4f4f2"]),
        rules=rng.choice(["all", "all", "all", "horizontal", "horizontal", "vertical", "outer", "none"]),
        rule=rng.choice([0.4, 0.6, 0.8, 1.2]),
        rule_ink=rng.choice(["#000000", "#000000", "#555555", "#999999", "#c0c0c0"]),
        header_fill=fill,
        header_ink=header_ink,
        header_bold=rng.random() < 0.7,
        stripe=rng.choice(["#f3f3f3", "#eaf1f8"]) if not tints and rng.random() < 0.25 else None,
        tints=tints,
        align=rng.choice(["left", "center", "center"]),
        valign=rng.choice(["top", "horizon", "horizon"]),
        inset_x=rng.uniform(3.0, 7.0),
        inset_y=rng.uniform(4.0, 8.0) if roomy else rng.uniform(2.5, 4.0),
        leading=rng.uniform(1.0, 3.0),
        margin=rng.uniform(24, 60),
        min_width=rng.choice([480, 560, 640, 720]),
        head_align=rng.choice(["left", "center", "spread"]),
        title_size=rng.uniform(1.3, 2.0),
        emphasis=rng.choice(["none", "none", "bold", "italic"]),
    )
