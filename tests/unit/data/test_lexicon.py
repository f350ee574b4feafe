"""Misread words become those of documents that share words with the page, and no others do."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdtrain.data.found import Found
from tdtrain.data.known import NOTHING, Known
from tdtrain.data.layout import Cell, PlacedLine
from tdtrain.data.lexicon import Lexicon
from tdtrain.data.plain import plain
from tdtrain.data.timetable import TimeBlock, Timetable

WORD = re.compile(r"[^\W\d_]{2,}")
TURKISH = ("Pazartesi", "Salı", "Çarşamba", "İngilizce", "Matematik", "Beden Eğitimi")
POLISH = ("Poniedziałek", "Wtorek", "Śr", "Język polski", "Matematyka", "Świetlica")
FRENCH = ("Lundi", "Mardi", "Mercredi", "Permanence", "Équipe du matin", "Relève", "Vie de classe")
LEXICON = Lexicon({"tr": TURKISH, "pl": POLISH, "fr": FRENCH})


def mended(*texts: str, lexicon: Lexicon = LEXICON, page: str = "") -> list[str]:
    lines = [
        PlacedLine(text, (0.0, float(i), 9.0, float(i), 9.0, i + 1.0, 0.0, i + 1.0)) for i, text in enumerate(texts)
    ]
    found = lexicon.mended(lines, page)
    assert [line.quad for line in found] == [line.quad for line in lines]
    return [line.text for line in found]


def test_marks_and_letters_are_mended_where_the_page_shares_words_with_a_document() -> None:
    page = ("Pazartesi", "Sali", "Carsamba", "Matematik (R 4)", "Beden Egitimi", "Matemalik", "MATEMALIK", "Müdür")
    found = mended(*page)
    assert found == [
        "Pazartesi",
        "Salı",
        "Çarşamba",
        "Matematik (R 4)",
        "Beden Eğitimi",
        "Matematik",
        "MATEMATİK",
        "Müdür",
    ]


def test_words_of_other_languages_stay_as_they_are() -> None:
    page = ("Monday", "Tuesday", "Class 4b", "Mathematics", "Relevo", "Sali")
    assert mended(*page) == list(page)
    assert mended(*TURKISH, "Matematyka", "Matematyk")[-2:] == ["Matematyka", "Matematik"]  # a word; nearest to two


def test_short_words_are_mended_only_where_they_stand_alone() -> None:
    page = ("Poniedziałek", "Wtorek", "Język polski", "Świetlica", "Sr", "Sr. Nowak")
    assert mended(*page)[-2:] == ["Śr", "Sr. Nowak"]


def test_a_page_is_not_mended_by_its_own_document() -> None:
    page = ("Lundi", "Mardi", "Mercredi", "Permańencè", "Equipe du matin")
    assert mended(*page)[3:] == ["Permanence", "Équipe du matin"]
    assert mended(*page, page="fr") == list(page)


def test_the_words_of_documents_are_kept_in_a_file() -> None:
    blocks = tuple(
        TimeBlock(day=day, name=name, startTime="08:00", endTime="08:45")
        for day, name in (("Salı", "Beden Eğitimi"), ("Pazartesi", "Matematik"), ("Çarşamba", "İngilizce"))
    )
    lexicon = Lexicon.of([("page", Timetable(timeblocks=blocks, teacher="Bn. Şahin"))])
    again = Lexicon.read(lexicon.json().encode())
    page = ("Pazartesi", "Sali", "Carsamba", "Beden Egitimi", "Bn. Sahin")
    for one in (lexicon, again):
        assert mended(*page, lexicon=one) == ["Pazartesi", "Salı", "Çarşamba", "Beden Eğitimi", "Bn. Sahin"]


DAYS = {"a": ("Saturdays",), "b": ("Vasár- és ünnepnap", "Vasár"), "c": ("Mo", "Seg-Sex", "Niedziele i święta")}


def placed(*texts: str) -> list[PlacedLine]:
    return [
        PlacedLine(text, (0.0, 20.0 * i, 90.0, 20.0 * i, 90.0, 20.0 * i + 9, 0.0, 20.0 * i + 9))
        for i, text in enumerate(texts)
    ]


@pytest.mark.parametrize(
    ("texts", "day"),
    [
        (("Departures", "from 1 May (SATURDAYS)", "08:10"), "SATURDAYS"),
        (("Indulások", "Vasár- és", "ünnepnap"), "Vasár- és ünnepnap"),  # on two lines, and longer than Vasár
        (("Saturdays", "saturdays"), "Saturdays"),
        (("Seg Sex",), "Seg-Sex"),
        (("Niedzicle i Świeta",), "Niedziele i święta"),  # two letters away
        (("Saturdays", "Vasár"), ""),
        (("Mo", "08:10"), ""),  # two letters are no day in a heading
        (("Sunday",), ""),
        (("WO2UBNiedzieleiświęta",), "Niedziele i święta"),  # joined with what stands before
        (("OSaturdaysVasár- és ünnepnap",), "Vasár- és ünnepnap"),
    ],
)
def test_the_one_day_that_a_page_names(texts: tuple[str, ...], day: str) -> None:
    lexicon = Lexicon(DAYS, DAYS)
    for one in (lexicon, Lexicon.read(lexicon.json().encode())):
        assert one.known(placed(*texts)).only_day == day
    assert Lexicon(DAYS, {"a": DAYS["a"]}).known(placed(*texts), page="a").only_day == ""


def days(known: Known, *texts: str) -> list[str]:
    return [one.day for one in known.with_days(Found(0, text, Cell(0, ()), ("8", "9")) for text in texts)]


def test_days_and_names_that_are_known_are_found_in_what_a_table_has() -> None:
    texts = {"pl": [*POLISH, "Śr", "wf"], "fr": FRENCH}
    known = Lexicon(texts, {"pl": ["Poniedziałek", "Wtorek", "Śr"], "fr": ["Lundi"]}).known(
        placed("Poniedzialek", "Wtorek", "Matematyka", "Świetlica")
    )
    texts = ("Śr.", "1 / Sr", "PONIEDZIALEK", "Lundi / 2", "Sala")
    assert days(known, *texts) == ["Śr", "Śr", "PONIEDZIAŁEK", "Lundi", "Sala"]
    assert known.name("Język / polski / Nowak / 12") == ("Język polski", "Nowak / 12")
    assert known.name("Jezykpolski (R 4)") == ("Język polski", "R 4")
    assert known.name("Wf") == ("wf", "") and known.name("WF") == ("WF", "")
    turkish = Lexicon({"tr": [*TURKISH, "Kimya"]}).known(placed("Pazartesi", "Salı", "Matematik", "İngilizce"))
    assert turkish.name("KIMYA / 3") == ("KİMYA", "3") and known.name("SWIETLICA") == ("ŚWIETLICA", "")
    assert known.name("Matematyka plus") == ("", "Matematyka plus")  # a longer one that nobody knows
    assert known.name("Relève / 3")[0] == "" and known.name("Équipe du matin / 3")[0] == "Équipe du matin"
    assert days(Known(only_day="Mon"), "Track", "Track") == ["Mon", "Mon"]
    assert days(Known(only_day="Mon"), "Track", "To", "") == ["Mon", "Mon", "Mon"]
    friday = Known(days={"fri": ["Fri"]}, only_day="Mon")
    assert days(friday, "Fri", "To", "") == ["Fri", "To", "Mon"]  # days head this table, and To is one that is misread
    assert NOTHING.name("Art / 3") == ("", "Art / 3") and days(NOTHING, "Mon") == ["Mon"]


@pytest.mark.parametrize(
    ("text", "bare"),
    [("İNGİLİZCE", "ingilizce"), ("Świetlica ł", "swietlica l"), ("KÜLTÜRÜ", "kulturu"), ("ısı", "isi")],
)
def test_plain_letters(text: str, bare: str) -> None:
    assert plain(text) == bare


@given(st.lists(st.text(max_size=12), max_size=12))
def test_any_text_is_taken_and_what_is_no_word_stays(texts: list[str]) -> None:
    found = mended(*texts)
    assert len(found) == len(texts)
    assert [WORD.sub("", text) for text in texts] == [WORD.sub("", text) for text in found]
    assert mended(*texts, lexicon=Lexicon({})) == texts


def test_headings_that_are_nearly_a_day_are_that_day_where_others_are_known() -> None:
    known = Known(days={"lun": ["LUN"], "mar": ["MAR"], "hetfo": ["Hétfő"]})
    assert days(known, "LÍUN", "MAR", "Room") == ["LUN", "MAR", "Room"]
    assert days(known, "LÍUN", "Room") == ["LÍUN", "Room"]  # nothing says that these are days
    assert days(Known(days={"mar": ["Mar"], "mat": ["Mat"], "lun": ["Lun"]}), "Lun", "Maf") == ["Lun", "Maf"]  # either
    assert days(known, "MAR", "Héddó") == ["MAR", "Hétfő"]


def test_days_of_a_list_follow_its_times() -> None:
    def listed(*rows: tuple[str, str]) -> list[str]:
        blocks = [Found(r, day, Cell(2, ()), (start, "23:00")) for r, (day, start) in enumerate(rows)]
        return [one.day for one in Known(days={"mo": ["Mo"], "tu": ["Tu"]}).with_days(blocks)]

    # As many days as runs of later and later times: each run has one, wherever it was said.
    assert listed(("", "08:00"), ("Mo", "09:00"), ("Mo", "08:00"), ("Tu", "09:00")) == ["Mo", "Mo", "Tu", "Tu"]
    assert listed(("Time", "08:00"), ("Mo", "09:00"), ("Tu", "09:00")) == ["Mo", "Mo", "Tu"]
    # Else a run with one day has it in each row, and one with two or none stays as it is.
    assert listed(("", "08:00"), ("Mo", "09:00"), ("Tu", "10:00")) == ["", "Mo", "Tu"]
    assert listed(("Mo", "08:00"), ("", "09:00"), ("", "08:00"), ("Tu", "07:00")) == ["Mo", "Mo", "", "Tu"]
