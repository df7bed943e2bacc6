"""A month against the months before it, on a table of a row a day: honest months pass, and these faults do not."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pytest

from lifecycle import project
from lifecycle.contract import Before, Table
from lifecycle.stages import gate
from lifecycle.stages.history import compare, profile
from lifecycle.testing import own

HONEST_MONTHS = 120
Contract, Float, Instant, Text = (getattr(own("contracts"), name) for name in ("Contract", "Float", "Instant", "Text"))


class Harvest(Contract):
    """A day's harvest at some places."""

    day: Instant
    place: Text
    warmest: Float = pa.Field(nullable=True)
    rain: Float = pa.Field(nullable=True)
    gust: Float = pa.Field(nullable=True)


DAILY = Table("harvest_by_day", ("day", "place"), (1, 1_000), time="day", zone="UTC", groups=("place",))
Change = Callable[[pd.DataFrame], pd.DataFrame]


@pytest.fixture(autouse=True)
def contract(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(project.contracts(), DAILY.name, Harvest)


def month_of(number: int, places: int = 1, seed: int = 1) -> tuple[str, pd.DataFrame]:
    """A month with its season: some days are missing, some values too, and gusts are rare."""
    month = pd.Period("2000-01", freq="M") + number
    random, days = np.random.default_rng([seed, number]), np.arange(month.days_in_month)
    season = np.cos(2 * np.pi * (month.month - 7) / 12)
    frame = pd.concat(
        pd.DataFrame(
            {
                "day": [f"{month}-{day + 1:02}" for day in days],
                "place": f"p{place}",
                "warmest": np.round(random.normal(15 + 12 * season, 4, len(days)), 1),
                "rain": np.where(
                    random.random(len(days)) < 0.5 + 0.2 * season, 0, random.exponential(5, len(days)).round(1)
                ),
                "gust": np.where(
                    random.random(len(days)) < 0.85 + 0.1 * season, np.nan, random.normal(60, 9, len(days))
                ),
            }
        )
        for place in range(places)
    )
    # An instrument fails for some days.
    frame["warmest"] = frame["warmest"].mask(random.random(len(frame)) < 0.05 * random.random())
    return str(month), frame[random.random(len(frame)) > 0.04 * random.random()].reset_index(drop=True)


def judged(month: str, frame: pd.DataFrame, before: list[tuple[str, pd.DataFrame]], table: Table = DAILY) -> list[str]:
    """The checks that a month fails."""
    profiles = [profile(gate.check(rows, table, name)[0], table, name) for name, rows in before]
    rows, problems = gate.check(frame, table, month)
    assert problems == []
    return [str(problem) for problem in compare(profile(rows, table, month), profiles, table)]


@pytest.mark.parametrize("places", [1, 3])
def test_honest_months_pass(places: int) -> None:
    profiles = []
    for number in range(HONEST_MONTHS // 2):
        month, frame = month_of(number, places, seed=places)
        rows, problems = gate.check(frame, DAILY, month)
        assert problems == []
        profiles.append(profile(rows, DAILY, month))
        assert list(compare(profiles[-1], profiles[-1 - DAILY.before.months : -1], DAILY)) == [], month


FAULTS: dict[str, tuple[int, Change, str]] = {
    "half a month": (1, lambda f: f[f.day.str[-2:].astype(int) < 16], "days in day: 1"),
    "no values": (1, lambda f: f.assign(rain=None), "null share in rain: 100.0%, at most 0.0% before"),
    "half of the values": (1, lambda f: f.assign(warmest=f.warmest.mask(f.index % 2 == 0)), "null share in warmest: 5"),
    "a place is missing": (3, lambda f: f[f.place != "p1"], "category in place: 0.0% of the rows are 'p1', "),
    "a new place has taken over": (3, lambda f: f.assign(place=f.place + "x"), "category in place: 3"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_is_found_in_a_month_of_few_rows(kind: str) -> None:
    places, change, says = FAULTS[kind]
    before = [month_of(number, places) for number in range(12)]
    month, frame = month_of(12, places)
    found = judged(month, change(frame).reset_index(drop=True), before)
    assert found
    assert says in " ".join(found)


def test_the_first_month_has_nothing_to_be_held_against() -> None:
    assert judged(*month_of(0), before=[]) == []


def test_a_month_under_another_date() -> None:
    (earlier, rows), (month, _) = month_of(3), month_of(4)
    moved = rows.assign(day=rows.day.str.replace(earlier, month))
    (found,) = judged(month, moved, [month_of(2), (earlier, rows)])
    assert found == f"copy: 100% of the rows are those of {earlier} under another date"


def test_rows_that_are_always_the_same_are_no_copy() -> None:
    def of_one_kind(number: int) -> tuple[str, pd.DataFrame]:
        month, frame = month_of(number)
        return month, frame.assign(warmest=1.0, rain=0.0, gust=None)

    assert judged(*of_one_kind(3), before=[of_one_kind(2)]) == []


def test_a_bound_that_is_raised_lets_the_month_pass() -> None:
    before = [month_of(number, 3) for number in range(12)]
    month, frame = month_of(12, 3)
    frame = frame[frame.place != "p1"].reset_index(drop=True)
    assert judged(month, frame, before)
    assert judged(month, frame, before, replace(DAILY, before=Before(group_floor=0.9))) == []


@pytest.mark.parametrize("written", ["2012/01/01", "01.02.2012", "20120101", "2012-02-30", "1325376000"])
def test_a_date_that_can_be_read_in_two_ways_is_refused(written: str) -> None:
    _, frame = month_of(0)
    (problem,) = gate.check(frame.assign(day=frame.day.where(frame.index != 4, written)), DAILY, None)[1]
    assert str(problem) == f"type in day: found {written}; write it like 2013-01-31T18:00:00Z (row 5)"


@pytest.mark.parametrize("zone", [None, "America/New_York"])
def test_a_time_without_a_zone_is_of_the_declared_one_or_refused(zone: str | None) -> None:
    _, frame = month_of(0)
    rows, problems = gate.check(frame, replace(DAILY, zone=zone), None)
    if zone is None:
        assert [(each.check, each.bound.split()[0]) for each in problems] == [("zone", "`zone`")]
    else:
        assert problems == []
        assert rows["day"].min() == pd.Timestamp("2000-01-01 05:00", tz="UTC")


def test_an_hour_that_the_clock_shows_twice_needs_its_offset() -> None:
    _, frame = month_of(0)
    frame["day"] = frame.day.where(frame.index != 2, "2013-11-03T01:30:00")
    (problem,) = gate.check(frame, replace(DAILY, zone="America/New_York"), None)[1]
    assert str(problem).startswith("type in day: found 2013-11-03T01:30:00; write it like")


def test_a_share_of_nulls_counts_the_rows() -> None:
    # Three of thirty days are more than a twentieth, and say nothing.
    _, frame = month_of(0)
    table = replace(DAILY, null_shares={"rain": 0.05})
    assert gate.check(frame.assign(rain=frame.rain.mask(frame.index < 3)), table, None)[1] == []
    (problem,) = gate.check(frame.assign(rain=frame.rain.mask(frame.index < 15)), table, None)[1]
    assert "at most 5.0% of a file or month allowed" in problem.detail
    assert problem.bound.startswith("`null_shares` of harvest_by_day in src/")
