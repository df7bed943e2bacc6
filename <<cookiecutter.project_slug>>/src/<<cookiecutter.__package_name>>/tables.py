"""The raw tables: their keys, how many rows a file has, and how many nulls a column may hold.

Apart from contracts.py, so that whoever only asks which tables there are need not import Pandera.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Table:
    """A raw table. A monthly one is landed a month at a time, and its rows must be of the month they claim.

    `clock`: the time zone in which year, month, day and hour say the same as time_hour does in UTC.
    """

    name: str
    key: tuple[str, ...]
    rows: tuple[int, int]
    monthly: bool = False
    clock: str | None = None
    null_shares: dict[str, float] = field(default_factory=dict)


TABLES = {
    table.name: table
    for table in (
        Table(
            "flights",
            key=("time_hour", "carrier", "flight", "origin"),
            rows=(1_000, 100_000),
            monthly=True,
            clock="America/New_York",
            null_shares={"dep_time": 0.15, "arr_time": 0.15, "arr_delay": 0.15, "air_time": 0.15, "tailnum": 0.05},
        ),
        Table(
            "weather",
            key=("origin", "time_hour"),
            rows=(200, 2_300),
            monthly=True,
            clock="America/New_York",
            null_shares={"temp": 0.05, "wind_speed": 0.05, "visib": 0.05, "pressure": 0.50},
        ),
        Table("planes", key=("tailnum",), rows=(10, 100_000), null_shares={"year": 0.10}),
        Table("airports", key=("faa",), rows=(10, 50_000)),
        Table("airlines", key=("carrier",), rows=(1, 1_000)),
    )
}
