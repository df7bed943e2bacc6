"""A small made-up source with the schema of the real one, from a seed: equal arguments give equal rows.

A month's rows depend on the seed and the month alone, so a longer window holds a shorter one's rows. Lateness can be
learned: it depends on the carrier, the hour and the weather. When a team replaces the example's data, it replaces
this file too: the tests that are not about the example need `MONTHS`, `PARAMS`, `ASKED_BEFORE`, `OUTCOMES` and
`write_source`.
"""

import calendar
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

NEW_YORK = "America/New_York"
ORIGINS = ("EWR", "JFK", "LGA")
# Minutes of arrival delay that a carrier is good or bad for.
CARRIERS = {"AA": -6, "B6": 4, "DL": -10, "EV": 14, "UA": 0}
# Destination -> miles, minutes in the air, time zone. SJU is not in the airport list, as in the real source.
DESTINATIONS = {
    "BOS": (190, 40, NEW_YORK),
    "MIA": (1090, 150, NEW_YORK),
    "ORD": (730, 115, "America/Chicago"),
    "IAH": (1410, 200, "America/Chicago"),
    "DEN": (1620, 225, "America/Denver"),
    "PHX": (2140, 290, "America/Phoenix"),
    "LAX": (2470, 330, "America/Los_Angeles"),
    "SJU": (1600, 200, "America/Puerto_Rico"),
}
AIRCRAFT = 40
MONTHLY = ("flights", "weather")

# What the tests put into params.yaml: a window and a model that take a second, and bounds that such a model meets.
MONTHS = ("2013-01", "2013-02", "2013-03", "2013-04")
PARAMS: dict[str, dict[str, Any]] = {
    "data": {"source": "extracts", "since": MONTHS[0], "through": MONTHS[-1]},
    "split": {"validation_months": 1, "holdout_months": 1},
    "train": {"rounds": 20, "early_stopping_rounds": 10, "min_data_in_leaf": 20, "num_leaves": 15},
    "evaluate": {"gates": {"roc_auc": {"min": 0.6}, "calibration_error": {"max": 0.2}}},
}
# How long before a row's time its question is asked, at most: two hours before the hour of departure.
ASKED_BEFORE = {"flights": timedelta(hours=2)}
# Columns that tell how it ended, and how long after a row's time that is known, at least: one may leave early.
OUTCOMES = {"flights": (("dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"), timedelta(minutes=-15))}


def write_source(
    folder: Path,
    months: Sequence[str],
    *,
    flights_a_month: int = 1200,
    seed: int = 1,
    suffix: str = ".parquet",
    whole: bool = False,
) -> None:
    """Write the tables to `folder`, as `suffix` says (.parquet, .csv, .csv.gz or .csv.zip).

    The monthly ones become a file a month (flights/2013-01.parquet), or with `whole` one file each.
    """
    for name, by_month in monthly_tables(months, flights_a_month=flights_a_month, seed=seed).items():
        if whole:
            write_table(pd.concat(by_month.values(), ignore_index=True), folder / f"{name}{suffix}")
        else:
            for month, frame in by_month.items():
                write_table(frame, folder / name / f"{month}{suffix}")
    for name, frame in static_tables(seed).items():
        write_table(frame, folder / f"{name}{suffix}")


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """Write one table in the format that the name of the file asks for; text files are like the real source's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        frame.to_parquet(path, index=False)
        return
    as_text = frame.copy()
    for column in as_text.select_dtypes("datetimetz"):
        as_text[column] = as_text[column].dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    as_text.to_csv(path, index=False, na_rep="NA", compression="infer", lineterminator="\n")


def monthly_tables(
    months: Sequence[str], *, flights_a_month: int = 1200, seed: int = 1
) -> dict[str, dict[str, pd.DataFrame]]:
    """The monthly tables: name -> month -> rows."""
    legs = _timetable(seed, flights_a_month)
    tables: dict[str, dict[str, pd.DataFrame]] = {name: {} for name in MONTHLY}
    for month in months:
        year, number = map(int, month.split("-"))
        random = np.random.default_rng([seed, year, number])
        weather = _weather(year, number, random)
        tables["weather"][month] = weather
        tables["flights"][month] = _flights(year, number, legs, flights_a_month, weather, random)
    return tables


def static_tables(seed: int = 1) -> dict[str, pd.DataFrame]:
    """The tables that are one file each: name -> rows."""
    random = np.random.default_rng(seed)
    # Every sixth aircraft is not in the register.
    tails = [tail for number, tail in enumerate(_tails()) if number % 6]
    many = len(tails)
    makers = np.array(["AIRBUS", "BOEING", "EMBRAER"])[random.integers(0, 3, many)]
    built = pd.array(random.integers(1990, 2013, many), dtype="Int64")
    built[::20] = pd.NA
    planes = pd.DataFrame(
        {
            "tailnum": tails,
            "year": built,
            "type": "Fixed wing multi engine",
            "manufacturer": makers,
            "model": "M-1",
            "engines": 2,
            "seats": random.integers(50, 300, many),
            "speed": pd.array([pd.NA] * (many - 1) + [432], dtype="Int64"),
            "engine": "Turbo-fan",
        }
    )
    places = {name: zone for name, (_, _, zone) in DESTINATIONS.items() if name != "SJU"}
    # A small airfield that nobody flies to, of no known time zone.
    zones = {**places, **dict.fromkeys(ORIGINS, NEW_YORK), "0A9": None}
    airports = pd.DataFrame(
        {
            "faa": list(zones),
            "name": [f"{name} Airport" for name in zones],
            "lat": np.round(random.uniform(25, 45, len(zones)), 4),
            "lon": np.round(random.uniform(-120, -70, len(zones)), 4),
            "alt": random.integers(0, 6000, len(zones)),
            "tz": -5,
            "dst": "A",
            "tzone": list(zones.values()),
        }
    )
    airlines = pd.DataFrame({"carrier": list(CARRIERS), "name": [f"{name} Air" for name in CARRIERS]})
    return {"planes": planes, "airports": airports, "airlines": airlines}


def _tails() -> list[str]:
    return [f"N{100 + number}XY" for number in range(AIRCRAFT)]


def _timetable(seed: int, flights_a_month: int) -> pd.DataFrame:
    """Legs that may be flown once a day each: enough of them for a month to take a part."""
    random = np.random.default_rng(seed)
    many = flights_a_month // 24 + 1
    hour = random.integers(6, 22, many)
    minute = random.choice([0, 15, 29, 45], many)
    return pd.DataFrame(
        {
            "carrier": np.array(list(CARRIERS))[np.arange(many) % len(CARRIERS)],
            "flight": np.arange(many) + 11,
            "origin": np.array(ORIGINS)[np.arange(many) // len(CARRIERS) % len(ORIGINS)],
            "dest": random.choice(list(DESTINATIONS), many),
            "hour": hour,
            "minute": minute,
        }
    )


def _weather(year: int, month: int, random: np.random.Generator) -> pd.DataFrame:
    """Every hour of the month on New York's clock, at each airport; storms come and go over some hours."""
    start = pd.Timestamp(year, month, 1, tz=NEW_YORK)
    hours = pd.date_range(start, start + pd.offsets.MonthBegin(1), freq="h", inclusive="left")
    frames = []
    for origin in ORIGINS:
        many = len(hours)
        storm = np.zeros(many)
        shocks = random.normal(0, 1, many)
        for hour in range(1, many):
            storm[hour] = 0.9 * storm[hour - 1] + 0.45 * shocks[hour]
        rain = np.clip(storm - 0.8, 0, None)
        frame = pd.DataFrame(
            {
                "origin": origin,
                "year": hours.year,
                "month": hours.month,
                "day": hours.day,
                "hour": hours.hour,
                "temp": np.round(random.normal(50, 10, many), 2),
                "dewp": np.round(random.normal(35, 5, many), 2),
                "humid": np.round(np.clip(random.normal(60, 10, many), 5, 100), 2),
                "wind_dir": pd.array(random.integers(0, 37, many) * 10, dtype="Int64"),
                "wind_speed": np.round(8 + 6 * np.abs(storm), 2),
                "wind_gust": np.where(rain > 0, np.round(20 + 10 * rain, 2), np.nan),
                "precip": np.round(rain / 4, 2),
                "pressure": np.where(random.random(many) < 0.1, np.nan, np.round(1015 - 5 * storm, 1)),
                "visib": np.round(np.clip(10 - 6 * rain, 0.1, 10), 2),
                "time_hour": hours.tz_convert("UTC").as_unit("us"),
            }
        )
        frame.loc[random.random(many) < 0.01, "temp"] = np.nan
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def _flights(
    year: int, month: int, legs: pd.DataFrame, many: int, weather: pd.DataFrame, random: np.random.Generator
) -> pd.DataFrame:
    days = calendar.monthrange(year, month)[1]
    chosen = np.sort(random.choice(days * len(legs), many, replace=False))
    flown = legs.iloc[chosen % len(legs)].reset_index(drop=True)
    day = chosen // len(legs) + 1
    miles, minutes, zones = (pd.Series(column) for column in zip(*flown["dest"].map(DESTINATIONS), strict=True))

    scheduled = _instants(year, month, day, flown)
    now = pd.DataFrame({"origin": flown["origin"], "time_hour": scheduled.dt.floor("h")})
    rain = now.merge(weather[["origin", "time_hour", "precip"]], how="left")["precip"].to_numpy()
    expected = -8 + 1.6 * (flown["hour"].to_numpy() - 6) + flown["carrier"].map(CARRIERS).to_numpy() + 80 * rain
    dep_delay = pd.Series(np.clip(expected + random.normal(0, 12, many), -15, 600).round().astype(int))
    arr_delay = dep_delay + np.clip(random.normal(-2, 8, many), -30, 60).round().astype(int)

    cancelled = random.random(many) < 0.02
    # On the way somewhere else: it left, and never arrived.
    diverted = ~cancelled & (random.random(many) < 0.005)
    taxi = 25
    landing = scheduled + pd.to_timedelta(minutes + taxi, unit="min")
    air_time = minutes + arr_delay - dep_delay
    tail = pd.Series(np.array(_tails())[random.integers(0, AIRCRAFT, many)], dtype="object")
    tail[cancelled & (random.random(many) < 0.5)] = None
    return pd.DataFrame(
        {
            "year": year,
            "month": month,
            "day": day,
            "dep_time": _readings(scheduled + pd.to_timedelta(dep_delay, unit="min"), NEW_YORK).mask(cancelled),
            "sched_dep_time": flown["hour"] * 100 + flown["minute"],
            "dep_delay": dep_delay.astype("Int64").mask(cancelled),
            "arr_time": _readings(landing + pd.to_timedelta(arr_delay, unit="min"), zones).mask(cancelled | diverted),
            "sched_arr_time": _readings(landing, zones),
            "arr_delay": arr_delay.astype("Int64").mask(cancelled | diverted),
            "carrier": flown["carrier"],
            "flight": flown["flight"],
            "tailnum": tail,
            "origin": flown["origin"],
            "dest": flown["dest"],
            "air_time": air_time.astype("Int64").mask(cancelled | diverted),
            "distance": miles,
            "hour": flown["hour"],
            "minute": flown["minute"],
            "time_hour": scheduled.dt.floor("h").dt.as_unit("us"),
        }
    )


def _instants(year: int, month: int, day: np.ndarray, flown: pd.DataFrame) -> pd.Series:
    """Scheduled departures in UTC, from New York's clock. None stands in the hour that clocks skip or repeat."""
    parts = {"year": year, "month": month, "day": day, "hour": flown["hour"], "minute": flown["minute"]}
    return pd.to_datetime(pd.DataFrame(parts)).dt.tz_localize(NEW_YORK).dt.tz_convert("UTC")


def _readings(instants: pd.Series, zones: str | pd.Series) -> pd.Series:
    """What a clock reads, as the source writes it: 1545 for a quarter to four, 2400 for midnight."""
    by_row = [zones] * len(instants) if isinstance(zones, str) else list(zones)
    local = [instant.astimezone(ZoneInfo(zone)) for instant, zone in zip(instants, by_row, strict=True)]
    return pd.Series([clock.hour * 100 + clock.minute or 2400 for clock in local], dtype="Int64")
