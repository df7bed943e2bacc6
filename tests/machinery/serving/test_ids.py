"""Prediction ids: unique, in order, and telling their day."""

import time
import uuid
from datetime import UTC, datetime

import pytest

from lifecycle.predictions import ids


def test_they_are_uuids_of_version_7_unique_and_in_order() -> None:
    made = [ids.new() for _ in range(20_000)]
    assert made == sorted(set(made))
    assert {(uuid.UUID(each).version, uuid.UUID(each).variant) for each in made} == {(7, uuid.RFC_4122)}
    assert all(ids.PATTERN.fullmatch(each) for each in made[:100])


def test_they_stay_in_order_when_the_clock_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before = ids.new()
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now - 10**12)
    assert ids.new() > before


def test_they_tell_when_they_were_made() -> None:
    before = datetime.now(UTC)
    made = ids.new()
    # The clock is finer than an id is, and ids run ahead of it when many are made.
    assert abs((ids.moment(made) - before).total_seconds()) < 5
    assert ids.day("019b76da-a800-7000-8000-000000000000") == "2026-01-01"
    assert ids.day("019b76da-a7ff-7fff-bfff-ffffffffffff-12") == "2025-12-31"


def test_a_row_among_several_has_its_position() -> None:
    made = ids.new()
    assert ids.of_row(made, 0, many=False) == made
    assert ids.of_row(made, 3, many=True) == f"{made}-3"
    assert ids.PATTERN.fullmatch(f"{made}-3")
