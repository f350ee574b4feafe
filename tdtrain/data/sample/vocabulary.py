"""The words timetables are made of, by language."""

from __future__ import annotations

import tomllib
from functools import lru_cache
from importlib.resources import files

from pydantic import BaseModel, ConfigDict

Words = tuple[str, ...]


class Language(BaseModel):
    """One language's words. `{}` in `year`, `valid` is where the year or the date goes.

    `dates` takes d, m, y and month; `times` takes H (0-23), h (1-12), M, AP and ap (AM/PM in both cases).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    days: Words
    days_short: Words
    months: Words
    subjects: Words
    subjects_short: Words
    surnames: Words
    honorifics: Words
    rooms: Words
    titles: Words
    class_word: str
    teacher_word: str
    room_word: str
    subject_word: str
    day_word: str
    time_word: str
    period_word: str
    terms: Words
    year: str
    valid: Words
    breaks: Words
    lunch: str
    notes: Words
    shift_titles: Words
    shift_word: str
    shifts: Words
    areas: Words
    departure_titles: Words
    stops: Words
    line_word: str
    platform_word: str
    destination_word: str
    service_days: Words
    dates: Words
    times: Words


@lru_cache(maxsize=1)
def languages() -> dict[str, Language]:
    """All languages by ISO 639-1 code, in the order of the word file."""
    raw = tomllib.loads(files(__package__).joinpath("vocabulary.toml").read_text(encoding="utf-8"))
    return {code: Language.model_validate(words) for code, words in raw.items()}


def alphabet(code: str) -> frozenset[str]:
    """Every character the language's pages may show, capitals and what the generator adds included."""
    words = languages()[code].model_dump()
    text = "".join(word for value in words.values() for word in ([value] if isinstance(value, str) else value))
    plain = "".join(map(chr, range(ord(" "), ord("~") + 1)))
    return frozenset(text + upper(text, code) + plain)


def upper(text: str, code: str) -> str:
    """Capitals as the language writes them: Turkish keeps the dot of i."""
    return (text.replace("i", "İ") if code == "tr" else text).upper()
