"""The two times that a text names, whatever its language."""

from __future__ import annotations

import re

Times = tuple[str, str]
_TIME = re.compile(r"(?<!\d)(\d{1,2})\s?[:.h]\s?(\d{2})(?:\s?([ap])\.?m\.?)?(?![\d])", re.IGNORECASE)


def times_of(text: str) -> Times | None:
    """Start and end as HH:MM where a text names exactly two times, such as `8.05am - 8.50am`."""
    found = []
    for hour, minute, half in _TIME.findall(text):
        late = 12 * (half.lower() == "p")
        clock = int(hour) % 12 + late if half else int(hour)
        if clock > 24 or int(minute) > 59:
            return None
        found.append(f"{clock:02}:{minute}")
    return (found[0], found[1]) if len(found) == 2 else None
