"""What the rows of a raw file must be: the types and ranges of every column. Sizes and keys stand in tables.py.

Columns are the source's own, so that a landed file can be held against it.
Clocks: year, month, day, hour, minute and the *_time columns are readings on the local clock of the airport
named; time_hour is the hour of departure (or of observation) as an instant in UTC.
"""

from typing import Annotated, TypeAlias

import pandas as pd
import pandera.pandas as pa

Int: TypeAlias = pd.Int64Dtype
Float: TypeAlias = pd.Float64Dtype
Text = str
Instant = Annotated[pd.DatetimeTZDtype, "us", "UTC"]


class Contract(pa.DataFrameModel):
    """All contracts: columns are converted to their type, others than those declared are refused."""

    class Config:
        """Pandera's settings."""

        coerce = True
        strict = True


class Flights(Contract):
    """Every departure from the three airports of New York City."""

    year: Int = pa.Field(in_range={"min_value": 1987, "max_value": 2100})
    month: Int = pa.Field(in_range={"min_value": 1, "max_value": 12})
    day: Int = pa.Field(in_range={"min_value": 1, "max_value": 31})
    dep_time: Int = pa.Field(in_range={"min_value": 1, "max_value": 2400}, nullable=True)
    sched_dep_time: Int = pa.Field(in_range={"min_value": 0, "max_value": 2400})
    dep_delay: Int = pa.Field(in_range={"min_value": -120, "max_value": 2880}, nullable=True)
    arr_time: Int = pa.Field(in_range={"min_value": 1, "max_value": 2400}, nullable=True)
    sched_arr_time: Int = pa.Field(in_range={"min_value": 0, "max_value": 2400})
    arr_delay: Int = pa.Field(in_range={"min_value": -180, "max_value": 2880}, nullable=True)
    carrier: Text = pa.Field(str_matches=r"^[A-Z0-9]{2}$")
    flight: Int = pa.Field(in_range={"min_value": 1, "max_value": 9999})
    tailnum: Text = pa.Field(str_matches=r"^[A-Z0-9]{3,6}$", nullable=True)
    origin: Text = pa.Field(isin=["EWR", "JFK", "LGA"])
    dest: Text = pa.Field(str_matches=r"^[A-Z]{3}$")
    air_time: Int = pa.Field(in_range={"min_value": 1, "max_value": 1200}, nullable=True)
    distance: Int = pa.Field(in_range={"min_value": 1, "max_value": 6000})
    hour: Int = pa.Field(in_range={"min_value": 0, "max_value": 23})
    minute: Int = pa.Field(in_range={"min_value": 0, "max_value": 59})
    time_hour: Instant


class Weather(Contract):
    """Hourly weather at those airports."""

    origin: Text = pa.Field(isin=["EWR", "JFK", "LGA"])
    year: Int = pa.Field(in_range={"min_value": 1987, "max_value": 2100})
    month: Int = pa.Field(in_range={"min_value": 1, "max_value": 12})
    day: Int = pa.Field(in_range={"min_value": 1, "max_value": 31})
    hour: Int = pa.Field(in_range={"min_value": 0, "max_value": 23})
    temp: Float = pa.Field(in_range={"min_value": -60, "max_value": 130}, nullable=True)
    dewp: Float = pa.Field(in_range={"min_value": -80, "max_value": 100}, nullable=True)
    humid: Float = pa.Field(in_range={"min_value": 0, "max_value": 100}, nullable=True)
    wind_dir: Int = pa.Field(in_range={"min_value": 0, "max_value": 360}, nullable=True)
    # Wide enough for the one absurd reading in the source, which staging takes out.
    wind_speed: Float = pa.Field(in_range={"min_value": 0, "max_value": 1100}, nullable=True)
    wind_gust: Float = pa.Field(in_range={"min_value": 0, "max_value": 250}, nullable=True)
    precip: Float = pa.Field(in_range={"min_value": 0, "max_value": 10}, nullable=True)
    pressure: Float = pa.Field(in_range={"min_value": 850, "max_value": 1100}, nullable=True)
    visib: Float = pa.Field(in_range={"min_value": 0, "max_value": 100}, nullable=True)
    time_hour: Instant


class Planes(Contract):
    """The aircraft register."""

    tailnum: Text = pa.Field(str_matches=r"^[A-Z0-9]{3,6}$")
    year: Int = pa.Field(in_range={"min_value": 1950, "max_value": 2100}, nullable=True)
    type: Text
    manufacturer: Text
    model: Text
    engines: Int = pa.Field(in_range={"min_value": 1, "max_value": 8})
    seats: Int = pa.Field(in_range={"min_value": 1, "max_value": 600})
    speed: Int = pa.Field(in_range={"min_value": 1, "max_value": 700}, nullable=True)
    engine: Text


class Airports(Contract):
    """Airports of the United States."""

    airport: Text = pa.Field(alias="faa", str_matches=r"^[A-Z0-9]{3}$")
    name: Text
    lat: Float = pa.Field(in_range={"min_value": -90, "max_value": 90})
    lon: Float = pa.Field(in_range={"min_value": -180, "max_value": 180})
    alt: Int
    tz: Int = pa.Field(in_range={"min_value": -12, "max_value": 14})
    dst: Text
    time_zone: Text = pa.Field(alias="tzone", nullable=True)


class Airlines(Contract):
    """Carrier codes."""

    carrier: Text = pa.Field(str_matches=r"^[A-Z0-9]{2}$")
    name: Text


CONTRACTS: dict[str, type[Contract]] = {
    "flights": Flights,
    "weather": Weather,
    "planes": Planes,
    "airports": Airports,
    "airlines": Airlines,
}
