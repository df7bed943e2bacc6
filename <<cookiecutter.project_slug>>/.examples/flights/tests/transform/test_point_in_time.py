"""Histories and weather are what was known when the question was asked: shown by counting again without SQL."""

import math
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd
import pyarrow.parquet as pq
import pytest

from << cookiecutter.__package_name >>.tables import FEATURES

from synthetic import DESTINATIONS

UTC = ZoneInfo("UTC")
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
    rows: pd.DataFrame = pq.read_table(project / FEATURES).to_pandas()
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
