"""The two times that a text names, whatever its language."""

from __future__ import annotations

import re
import unicodedata

Times = tuple[str, str]
NUMBER = re.compile(r"^\s*(\d{1,2})\s*(?:[.,:]?(?:\s|$)|[.,:](?=\d{1,2}\s?[:.h]\s?\d\d))")
"""A number that stands alone, or before a text; readers lose the space between, as in `1.8.00-8.45`."""
_ANY = r"([01]?\d|2[0-4])\s?[:.,h1/-]{0,2}\s?([0-5]\d)"
_MISREAD, _CLEAR = re.compile(rf"{_ANY}[-–~./:\s]{{1,5}}{_ANY}"), re.compile(r"\d\s?[:.h]\s?\d\d(?!\d)")
"""Two times with little between hours and minutes, one of them clear: `1305-13.50`, `13.10-13155`, `9-:15 / 10:00`; no
`2024-2025`."""
_TIME = re.compile(r"(?<!\d)(\d{1,2})\s?[:.h]\s?(\d{2})(?:\s?([ap])\.?m\.?)?(?![\d])", re.IGNORECASE)


def times_of(text: str) -> Times | None:
    """Start and end as HH:MM where a text names exactly two times, such as `8.05am - 8.50am`."""
    found, text = clocks_of(text), _plain(text)
    if len(found) == 2:
        return found[0], found[1]
    told = _MISREAD.fullmatch(text.strip()) if len(found) < 2 and _CLEAR.search(text) else None
    return (_clock(told[1], told[2]), _clock(told[3], told[4])) if told else None


def numbered_times(text: str) -> tuple[int, Times] | None:
    """What a line of a legend says, such as `2. 8.50-9.35`: which row, and when that is."""
    text = _plain(text)
    number = NUMBER.match(text)
    times = times_of(text[number.end() :]) if number else None
    return (int(number[1]), times) if number and times else None


def clocks_of(text: str) -> list[str]:
    """All times that a text names, as HH:MM; none where one of them is none of a day."""
    found = []
    for hour, minute, half in _TIME.findall(_plain(text)):
        late = 12 * (half.lower() == "p")
        clock = int(hour) % 12 + late if half else int(hour)
        if clock > 24 or int(minute) > 59:
            return []
        found.append(_clock(clock, minute))
    return found


def as_clock(text: str) -> str:
    """HH:MM, where a text is one time of day and nothing else; else the text."""
    text = text.strip()
    found = clocks_of(text) if _TIME.fullmatch(_plain(text)) else []
    return found[0] if len(found) == 1 else text


def _plain(text: str) -> str:
    """Full-width digits and marks as others."""
    return unicodedata.normalize("NFKC", text)


def _clock(hour: str | int, minute: str) -> str:
    return f"{int(hour):02}:{int(minute):02}"
