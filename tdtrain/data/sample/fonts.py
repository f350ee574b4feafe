"""The fonts of the sample corpus: from Python packages, never the system's, so that pages are the same everywhere."""

from __future__ import annotations

import shutil
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import typst
from fontTools.ttLib import TTFont

from tdtrain.data.sample.vocabulary import alphabet, languages

SOURCES = (
    ("font_roboto", "files/Roboto-{}.ttf", ("Regular", "Bold", "Italic")),
    ("font_source_sans_pro", "files/SourceSansPro-{}.ttf", ("Regular", "Bold", "It")),
    ("font_source_serif_pro", "files/SourceSerifPro-{}.ttf", ("Regular", "Bold", "It")),
    ("font_lato", "files/Lato-{}.ttf", ("Regular", "Bold", "Italic")),
    ("font_manrope", "files/Manrope-{}.ttf", ("Regular", "Bold")),
    ("font_caladea", "files/Caladea-{}.ttf", ("Regular", "Bold", "Italic")),
    ("font_hanken_grotesk", "files/HankenGrotesk-{}.otf", ("Regular", "Bold", "Italic")),
    ("font_intuitive", "files/Intuitive.ttf", ("",)),
    ("font_fredoka_one", "files/FredokaOne-Regular.ttf", ("",)),
    ("matplotlib", "mpl-data/fonts/ttf/DejaVuSans{}.ttf", ("", "-Bold", "-Oblique")),
    ("matplotlib", "mpl-data/fonts/ttf/DejaVuSerif{}.ttf", ("", "-Bold", "-Italic")),
    ("matplotlib", "mpl-data/fonts/ttf/DejaVuSansMono{}.ttf", ("", "-Bold", "-Oblique")),
    ("matplotlib", "mpl-data/fonts/ttf/STIXGeneral{}.ttf", ("", "Bol", "Italic")),
)
"""Package, path in it and faces. Amatic SC is left out: it draws small letters as capitals, so no truth is exact."""


@dataclass(frozen=True)
class Family:
    """A font family: the languages whose characters all its faces have, and how much to enlarge it to look alike."""

    name: str
    languages: frozenset[str]
    scale: float


@dataclass(frozen=True)
class Library:
    """The fonts as the typesetter loads them, and the families to choose from, by name."""

    typeset: typst.Fonts
    families: tuple[Family, ...]
    folder: TemporaryDirectory[str]

    def for_language(self, language: str) -> tuple[Family, ...]:
        """The families that have every character a language's pages may show."""
        return tuple(family for family in self.families if language in family.languages)


@lru_cache(maxsize=4)
def load_fonts(own_folder: Path | None = None) -> Library:
    """The packaged fonts and those of a user's folder (.ttf, .otf), ready to typeset; loaded once a process.

    Raises:
        ValueError: a font package is missing, or `own_folder` holds no font.
    """
    paths = packaged_faces()
    if own_folder is not None:
        own = sorted(path for path in own_folder.rglob("*") if path.suffix.lower() in (".ttf", ".otf"))
        if not own:
            raise ValueError(f"fonts_folder={own_folder} holds no .ttf or .otf file; leave it out or name another")
        paths += own
    # Copied apart: the typesetter takes folders only, and the packages hold the same faces as .ttf and .otf.
    folder = TemporaryDirectory(prefix="tdtrain-fonts-")
    for number, path in enumerate(paths):
        shutil.copyfile(path, Path(folder.name) / f"{number:04}{path.suffix.lower()}")
    typeset = typst.Fonts(include_system_fonts=False, include_embedded_fonts=False, font_paths=[folder.name])
    faces: dict[str, list[Path]] = defaultdict(list)
    for face in typeset.fonts():
        if face.path is not None:
            faces[face.family].append(Path(face.path))
    return Library(typeset, tuple(_family(name, faces[name]) for name in sorted(faces)), folder)


def packaged_faces() -> list[Path]:
    """The files of all packaged fonts. Raises ValueError where a package is missing."""
    return [path for source in SOURCES for path in _packaged(*source)]


def characters_of(path: Path) -> set[int]:
    """The code points that a font file can draw."""
    with TTFont(path, lazy=True) as font:
        return set(font.getBestCmap() or {})


def _packaged(package: str, pattern: str, variants: tuple[str, ...]) -> list[Path]:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        name = package.replace("_", "-")
        raise ValueError(
            f"font package {name} is not installed, and the sample corpus needs it; run `pip install {name}`"
        )
    paths = [Path(spec.origin).parent / pattern.format(variant) for variant in variants]
    for path in paths:
        if not path.is_file():
            raise ValueError(f"font package {package} has no {path.name}; install the version of the constraints file")
    return paths


def _family(name: str, paths: list[Path]) -> Family:
    covered: set[int] | None = None
    for path in paths:
        with TTFont(path, lazy=True) as font:
            characters = set(font.getBestCmap() or {})
            covered = characters if covered is None else covered & characters
            x_height = getattr(font["OS/2"], "sxHeight", 0) / font["head"].unitsPerEm
    codes = (code for code in languages() if all(ord(char) in (covered or ()) for char in alphabet(code)))
    return Family(name, frozenset(codes), round(min(1.25, max(0.9, 0.52 / (x_height or 0.52))), 3))
