"""The services that teachers behind an API are measured with: they answer the real clients as the vendors' do."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tdtrain.data.layout import PlacedLine
from tdtrain.data.sample.page import make_page
from tdtrain.evaluate.rules import parse_page
from tdtrain.teachers.services.claude import Claude
from tdtrain.teachers.services.google_vision import GoogleVision
from tdtrain.teachers.services.openai_compatible import OpenAiCompatible
from tdtrain.teachers.services.paddle_served import PaddleServed

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from local_services import LARGE, SMALL, LocalServices


def test_the_real_clients_get_lines_with_places_and_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "none")
    page, truth = make_page(5, 1)
    with LocalServices() as services:
        read = {
            LARGE: PaddleServed("p", services.url, timeout_s=600),
            SMALL: GoogleVision("builtin/stable", services.url, timeout_s=600),
        }
        for reader, service in read.items():
            lines = service.ask(page).lines
            there = services._read[reader, next(key for name, key in services._read if name == reader)]
            lines, there = ([line for line in some if line.text.strip()] for some in (lines, there))
            for line, mine in zip(lines, there, strict=True):
                assert line.text.split() == mine.text.split()
                assert line.quad == pytest.approx(mine.quad, abs=1.0) and line.confidence == pytest.approx(
                    mine.confidence
                )
        assert len({line.text for line in truth.boxes.lines} & {line.text for line in lines}) > 0.3 * len(lines)
        writers = {SMALL: OpenAiCompatible("m", f"{services.url}/v1"), LARGE: Claude("m", services.url)}
        for reader, writer in writers.items():
            said = writer.ask(page).document
            (there,) = (lines for (name, _), lines in services._read.items() if name == reader)
            placed = [PlacedLine(line.text, line.quad) for line in there if line.quad and line.text]
            assert said and said == parse_page(placed)
