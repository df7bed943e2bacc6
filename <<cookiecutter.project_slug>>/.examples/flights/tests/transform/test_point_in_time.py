"""No row sees its own or a later outcome: shown by changing the future, and by counting again without SQL."""

import math
import subprocess
import sys
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from lifecycle.testing import environment

from synthetic import DESTINATIONS, MONTHS

UTC = ZoneInfo("UTC")
LABEL = "is_late"
LATE_AFTER = 15
# Column of the feature table -> what flights must share, how long ago they landed at most.
HISTORIES = {
    "carrier_late_rate_7d": (["carrier"], timedelta(days=7)),
    "carrier_origin_late_rate_6h": (["carrier", "origin"], timedelta(hours=6)),
    "origin_late_rate_3h": (["origin"], timedelta(hours=3)),
    "dest_late_rate_1d": (["dest"], timedelta(days=1)),
    "route_late_rate_28d": (["origin", "dest"], timedelta(days=28)),
    "flight_late_rate_28d": (["carrier", "flight", "origin"], timedelta(days=28)),
    "aircraft_late_rate_1d": (["tailnum"], timedelta(days=1)),
}
WEATHER = {"temp": "temperature_f", "wind_gust": "wind_gust_mph", "visib": "visibility_miles"}


def raw(project: Path, table: str) -> pd.DataFrame:
    files = sorted((project / "data/raw" / table).glob("*.parquet"))
    return pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)


def features(project: Path) -> pd.DataFrame:
    rows: pd.DataFrame = pq.read_table(project / "data/features/flights.parquet").to_pandas()
    assert rows["flight_id"].is_unique
    return rows.set_index("flight_id").sort_index()


def arrival(departed: datetime, reading: int, zone: str) -> datetime:
    """When the clock over there reads that, the next time after departure."""
    local = departed.astimezone(ZoneInfo(zone))
    for days in range(3):
        day = (local + timedelta(days=days)).replace(hour=0, minute=0, tzinfo=None)
        clock = day + timedelta(hours=reading // 100, minutes=reading % 100)
        instant = clock.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
        if instant > departed:
            return instant
    raise AssertionError(f"{reading} after {departed}")


def timeline(flights: pd.DataFrame) -> pd.DataFrame:
    """Each flight by its key, with the moment it was asked about and the moment it landed."""
    scheduled = flights["time_hour"] + pd.to_timedelta(flights["minute"].astype("int64"), unit="min")
    departed = scheduled + pd.to_timedelta(flights["dep_delay"].astype("float64"), unit="min")
    landed = [
        None if pd.isna(reading) else arrival(at.to_pydatetime(), int(reading), DESTINATIONS[dest][2])
        for at, reading, dest in zip(departed, flights["arr_time"], flights["dest"], strict=True)
    ]
    number = flights["flight"].astype(str)
    key = flights["carrier"] + "-" + number + "-" + flights["origin"] + "-" + scheduled.dt.strftime("%Y%m%dT%H%M")
    return flights.assign(
        flight_id=key,
        asked=scheduled - timedelta(hours=2),
        landed=pd.to_datetime(pd.Series(landed, index=flights.index), utc=True),
        late=(flights["arr_delay"] > LATE_AFTER).astype("boolean"),
    ).set_index("flight_id")


def rows_of(frame: pd.DataFrame) -> Iterable[Any]:
    return frame.itertuples()


def test_history_is_what_had_landed_by_then(finished: Path) -> None:
    found, flights = features(finished), timeline(raw(finished, "flights"))
    assert set(found.index) == set(flights.index)
    landed = flights[flights["landed"].notna() & flights["arr_delay"].notna()]
    counted = dict.fromkeys(HISTORIES, 0)
    for flight in rows_of(flights.sample(80, random_state=1)):
        row = found.loc[flight.Index]
        for column, (keys, window) in HISTORIES.items():
            same = landed[(landed[keys] == [getattr(flight, key) for key in keys]).all(axis="columns")]
            known = same[(same["landed"] <= flight.asked) & (same["landed"] >= flight.asked - window)]
            assert flight.Index not in known.index
            counted[column] += len(known) > 0
            expected = known["late"].sum() / len(known) if len(known) else math.nan
            assert row[column] == pytest.approx(expected, abs=0, nan_ok=True), (flight.Index, column)

        legs = landed[(landed["tailnum"] == flight.tailnum) & (landed["landed"] <= flight.asked)]
        last = legs[legs["landed"] == legs["landed"].max()]
        minutes = (flight.asked - last["landed"].max()).total_seconds() / 60 if len(last) else math.nan
        assert row["aircraft_minutes_since_landing"] == pytest.approx(minutes, nan_ok=True)
        assert row["aircraft_last_delay_minutes"] == pytest.approx(
            float(last["arr_delay"].max()) if len(last) else math.nan, nan_ok=True
        )
    # Nothing is shown by rates that are null.
    assert all(counted.values()), counted


def test_weather_is_the_newest_that_was_known(finished: Path) -> None:
    found, flights, weather = features(finished), timeline(raw(finished, "flights")), raw(finished, "weather")
    seen = 0
    for flight in rows_of(flights.sample(80, random_state=2)):
        known = weather[
            (weather["origin"] == flight.origin)
            & (weather["time_hour"] + timedelta(hours=1) <= flight.asked)
            & (weather["time_hour"] + timedelta(hours=7) >= flight.asked)
        ].sort_values("time_hour")
        for source, column in WEATHER.items():
            expected = float(known[source].astype("float64").iloc[-1]) if len(known) else math.nan
            assert found.loc[flight.Index, column] == pytest.approx(expected, abs=0, nan_ok=True)
        seen += len(known)
    assert seen


def test_what_lands_after_a_moment_changes_no_row_asked_about_before_it(built: Path) -> None:
    before, flights = features(built), timeline(raw(built, "flights"))
    # When most flights have been asked about and have not landed yet.
    moments = flights["asked"][flights["asked"].between(f"{MONTHS[2]}-01T00Z", f"{MONTHS[2]}-28T00Z")]
    moment = max(moments, key=lambda at: ((flights["asked"] <= at) & (flights["landed"] > at)).sum())

    change_outcomes(built, ~(flights["landed"] <= moment).to_numpy())
    done = subprocess.run(
        [sys.executable, "-m", "dbt.cli.main", "run"],
        cwd="transform",
        env=environment(built, DATA_THROUGH=MONTHS[-1]),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout

    after = features(built)
    past = before["asked_at"] <= moment.tz_localize(None)
    known = before.columns.drop(LABEL)
    pd.testing.assert_frame_equal(before.loc[past, known], after.loc[past, known])
    # The change was one: outcomes differ, on both sides of the moment, and so does what later rows know.
    differ = before[LABEL].astype(str) != after[LABEL].astype(str)
    assert differ[past].sum() >= 5
    assert differ[~past].sum() > 500
    assert not before.loc[~past, known].equals(after.loc[~past, known])


def change_outcomes(project: Path, chosen: np.ndarray) -> None:
    """Of these rows of data/raw/flights, in order: every third is cancelled, the others land much later."""
    random = np.random.default_rng(7)
    start = 0
    for file in sorted((project / "data/raw/flights").glob("*.parquet")):
        rows = pd.read_parquet(file)
        changed = pd.Series(chosen[start : start + len(rows)])
        start += len(rows)
        cancelled = changed & (random.random(len(rows)) < 1 / 3)
        later = changed & ~cancelled & rows["arr_time"].notna()
        minutes = pd.Series(random.integers(20, 300, len(rows)))
        for reading in ("dep_time", "arr_time"):
            clock = rows.loc[later, reading]
            rows.loc[later, reading] = _reading(clock // 100 * 60 + clock % 100 + minutes[later])
        for delay in ("dep_delay", "arr_delay"):
            rows.loc[later, delay] += minutes[later]
        rows.loc[cancelled, ["dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"]] = pd.NA
        rows.to_parquet(file, index=False)


def _reading(minutes: "pd.Series[int]") -> "pd.Series[int]":
    of_day = minutes % (24 * 60)
    return (of_day // 60 * 100 + of_day % 60).replace(0, 2400)
