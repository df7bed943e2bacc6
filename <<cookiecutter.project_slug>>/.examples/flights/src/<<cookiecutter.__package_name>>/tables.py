"""The tables: keys, rows a file and nulls a column of the raw ones; path, label and keys of the feature table.

Apart from contracts.py: code that only needs the names need not import Pandera. vendor/lifecycle/docs/contract.md
explains the fields.
"""

from pathlib import Path

from lifecycle.contract import Table

# The table that transform builds, and what is to be predicted.
FEATURES = Path("data/features/flights.parquet")
LABEL = "is_late"
# Columns that say which row it is; everything else in the feature table but the label is a feature.
NOT_FEATURES = ("flight_id", "month", "scheduled_departure_at", "asked_at", LABEL)

TABLES = {
    table.name: table
    for table in (
        Table(
            "flights",
            key=("time_hour", "carrier", "flight", "origin"),
            rows=(1_000, 100_000),
            time="time_hour",
            clock="America/New_York",
            readings=("year", "month", "day", "hour"),
            null_shares={"dep_time": 0.15, "arr_time": 0.15, "arr_delay": 0.15, "air_time": 0.15, "tailnum": 0.05},
            groups=("origin", "carrier"),
        ),
        Table(
            "weather",
            key=("origin", "time_hour"),
            rows=(200, 2_300),
            time="time_hour",
            clock="America/New_York",
            readings=("year", "month", "day", "hour"),
            null_shares={"temp": 0.05, "wind_speed": 0.05, "visib": 0.05, "pressure": 0.50},
            groups=("origin",),
        ),
        Table("planes", key=("tailnum",), rows=(10, 100_000), null_shares={"year": 0.10}),
        Table("airports", key=("faa",), rows=(10, 50_000)),
        Table("airlines", key=("carrier",), rows=(1, 1_000)),
    )
}
