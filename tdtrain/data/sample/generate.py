"""Invents schedules: pure functions of a language and a random generator."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tdtrain.data.sample.schedule import Entry, Headings, Kind, Schedule, day_times
from tdtrain.data.sample.sheet import Field
from tdtrain.data.sample.vocabulary import Language, languages, upper

DASHES = ("-", "-", " - ")
"""Between two times. No en dash: people who annotate type a hyphen, and recognisers are trained to."""
Case = Callable[[str], str]


def make_schedule(rng: Random, language: str, kind: Kind) -> Schedule:
    """One schedule of a kind, in a language of `vocabulary.languages()`."""
    words = languages()[language]

    def case(share: float) -> Case:
        return (lambda text: upper(text, language)) if rng.random() < share else str

    if kind == "departures":
        return _departures(rng, words, language, case)
    return _week(rng, words, language, kind, case)


def _week(rng: Random, words: Language, language: str, kind: Kind, case: Callable[[float], Case]) -> Schedule:
    num_periods = rng.randint(3, 5) if kind == "shifts" else rng.randint(5, 9)
    num_days = rng.choice([3, 4, 5, 5, 5, 5, 6] if kind == "school" else [5, 6, 7])
    times, pauses_after = day_times(rng, num_periods, kind)
    names = rng.choice([words.subjects, words.subjects, words.subjects_short]) if kind == "school" else words.shifts
    chosen = rng.sample(names, min(len(names), rng.randint(7, 12)))
    of_teacher = kind == "school" and rng.random() < 0.25
    teacher_of, room_of = _teacher_codes(rng, words, language), _room_codes(rng, words, kind)
    people = {name: _school_class(rng) if of_teacher else teacher_of(rng.choice(words.surnames)) for name in chosen}
    places = {name: room_of() for name in chosen}
    share, day_case, name_case = rng.uniform(0.5, 0.9), case(0.12), case(0.07)

    entries: list[Entry] = []
    for day in range(num_days):
        period = 0
        while period < num_periods:
            name = rng.choice(chosen)
            fits = period + 1 < num_periods and period not in pauses_after
            length = 2 if fits and rng.random() < 0.3 else 1
            if rng.random() < share:
                room = room_of() if rng.random() < 0.2 else places[name]
                entries.append(Entry(day, period, name_case(name), people[name], room, length))
            period += length
    if not entries:
        entries.append(Entry(0, 0, name_case(chosen[0]), people[chosen[0]], places[chosen[0]]))

    title = rng.choice(words.titles if kind == "school" else words.shift_titles)
    class_name = None if of_teacher or kind != "school" else _school_class(rng)
    named = of_teacher or kind == "shifts" or rng.random() < 0.4
    teacher = f"{rng.choice(words.honorifics)} {rng.choice(words.surnames)}" if named else None
    term = rng.choice(words.terms) if kind == "school" and rng.random() < 0.6 else None
    year = _year(rng) if kind == "school" and rng.random() < 0.7 else None
    separator = rng.choice([" ", ": "])
    head: list[tuple[str, Field]] = [(case(0.2)(title), "title")]
    if class_name:
        head.append((f"{words.class_word}{separator}{class_name}", "class"))
    if teacher:
        head.append((teacher if kind == "shifts" else f"{words.teacher_word}{separator}{teacher}", "teacher"))
    if year:
        head.append((words.year.format(year), "date"))
    if term:
        head.append((term, "date"))
    if rng.random() < 0.5:
        head.append((rng.choice(words.valid).format(_date(rng, words)), "date"))
    days = rng.choice([words.days, words.days, words.days_short])[:num_days]
    label = rng.choice(["{}", "{}.", "{}."])
    lunch = rng.random() < 0.5
    return Schedule(
        kind=kind,
        language=language,
        days=tuple(day_case(day) for day in days),
        periods=tuple(label.format(i + 1) for i in range(num_periods)),
        times=times,
        pauses=tuple(
            (after, words.lunch if lunch and k == len(pauses_after) - 1 else rng.choice(words.breaks))
            for k, after in enumerate(pauses_after)
        ),
        entries=tuple(entries),
        headings=Headings(
            day=words.day_word,
            period=words.period_word,
            time=words.time_word,
            name=words.shift_word if kind == "shifts" else words.subject_word,
            teacher=words.class_word if of_teacher else words.teacher_word,
            room=words.room_word,
        ),
        head=tuple(head),
        notes=tuple(rng.sample(words.notes, rng.choice([0, 1, 1, 2]))),
        clock=rng.choice(words.times),
        dash=rng.choice(DASHES),
        teacher=teacher,
        class_name=class_name,
        term=term,
        year=year,
    )


def _departures(rng: Random, words: Language, language: str, case: Callable[[float], Case]) -> Schedule:
    num = rng.randint(9, 13)
    lines = [rng.choice(["{}", "S{}", "RE {}", "Bus {}"]).format(rng.randint(1, 99)) for _ in range(5)]
    clock_minutes, times, entries, name_case = rng.randrange(300, 900), [], [], case(0.1)
    for i in range(num):
        clock_minutes += rng.randint(2, 25)
        times.append((clock_minutes, clock_minutes + rng.randint(8, 70)))
        platform = f"{rng.randint(1, 12)}{rng.choice(['', '', 'a', 'b'])}"
        entries.append(Entry(0, i, name_case(rng.choice(words.stops)), rng.choice(lines), platform))
    head: list[tuple[str, Field]] = [
        (case(0.3)(rng.choice(words.departure_titles)), "title"),
        (rng.choice(words.stops), "class"),
        (rng.choice(words.valid).format(_date(rng, words)), "date"),
    ]
    day = rng.choice(words.service_days)
    head.append((day, "day"))
    return Schedule(
        kind="departures",
        language=language,
        days=(day,),
        periods=tuple(str(i + 1) for i in range(num)),
        times=tuple(times),
        pauses=(),
        entries=tuple(entries),
        headings=Headings(
            day=words.day_word,
            period=words.period_word,
            time=words.time_word,
            name=words.destination_word,
            teacher=words.line_word,
            room=words.platform_word,
        ),
        head=tuple(head),
        notes=tuple(rng.sample(words.notes[:1], rng.choice([0, 1]))),
        clock=rng.choice(words.times),
        dash=rng.choice(DASHES),
    )


def _teacher_codes(rng: Random, words: Language, language: str) -> Case:
    """How this school writes a teacher in a cell: three letters, two, the name, or the name with its title."""
    styles: tuple[Case, ...] = (
        lambda name: name[:3],
        lambda name: upper(name[:3], language),
        lambda name: name[:2],
        str,
        lambda name: f"{words.honorifics[0]} {name}",
    )
    return rng.choice(styles)


def _room_codes(rng: Random, words: Language, kind: Kind) -> Callable[[], str]:
    """How this house numbers its rooms, now and then a room with a name."""
    pattern = rng.choice(
        ["{w} {f}.{n:02}", "{w}{f}{n:02}", "{f}{n:02}", "R {f}{n:02}", "{w}-{f}{n:02}", "{w}{f}.{n:02}"]
    )
    named = words.areas if kind == "shifts" else words.rooms
    share = 0.8 if kind == "shifts" else 0.12

    def room() -> str:
        if rng.random() < share:
            return rng.choice(named)
        return pattern.format(w=rng.choice("ABCDHN"), f=rng.randint(0, 4), n=rng.randint(1, 29))

    return room


def _school_class(rng: Random) -> str:
    return rng.choice(["{}{}", "{}{}", "{} {}", "{}/{}"]).format(rng.randint(1, 12), rng.choice("abcdABCD"))


def _year(rng: Random) -> str:
    year = rng.randint(2019, 2031)
    return rng.choice([f"{year}/{year + 1}", f"{year}/{(year + 1) % 100}", f"{year}-{year + 1}"])


def _date(rng: Random, words: Language) -> str:
    month = rng.randint(1, 12)
    form = rng.choice(words.dates)
    return form.format(d=rng.randint(1, 28), m=month, y=rng.randint(2019, 2031), month=words.months[month - 1])
