"""Declarations for a raw table: its key, its clock and its bounds. The project's own tables.py defines the tables."""

from dataclasses import dataclass, field

# Ways in which people or libraries write "no value" as text. `None` is Python's; "none" may be a category.
NO_VALUES = ("NULL", "Null", "null", "N/A", "n/a", "#N/A", "NaN", "nan", "NAN", "NaT", "<NA>", "None")


@dataclass(frozen=True)
class Before:
    """How far a month may differ from earlier months. A difference counts only if it is very unlikely by chance.

    `months`: how many earlier months; 0 turns all of this off. `chance`: a difference that is more likely than this by
    chance does not count, so a month with few rows has more room. `volume`: by what factor rows per day may change,
    over the month. `day_volume`: the same for a single day. `days`: what share of the days, beyond earlier months, may
    have almost no rows. `nulls`: how far a column's share of nulls may rise above the earlier maximum; at most halfway
    to 1. `group_ratio`: by what factor a category's share of rows may change. `group_floor`: categories with a smaller
    share are not judged. `repeats`: a month with a larger share of rows from an earlier month is a copy of that month.
    """

    months: int = 12
    chance: float = 1e-5
    volume: float = 2.0
    day_volume: float = 4.0
    days: float = 0.2
    nulls: float = 0.15
    group_ratio: float = 4.0
    group_floor: float = 0.01
    repeats: float = 0.9


@dataclass(frozen=True)
class Table:
    """A raw table.

    `rows`: the minimum and maximum per file, or per month of it. `time`: for a monthly table, the column (an instant)
    that determines a row's month, on the `clock` of that time zone; its `readings` are columns with the year, month,
    day or hour of the same instant on that clock. `zone`: the time zone of times written without one; None rejects
    them. `years`: the first and the last valid year of a time. `null_shares`: the largest share of nulls in a column,
    by file or month. `no_values`: text that only looks like a value. `groups`: columns whose categories keep about
    the same share from month to month.
    """

    name: str
    key: tuple[str, ...]
    rows: tuple[int, int]
    time: str | None = None
    clock: str = "UTC"
    readings: tuple[str, ...] = ()
    zone: str | None = None
    years: tuple[int, int] = (1900, 2100)
    null_shares: dict[str, float] = field(default_factory=dict)
    no_values: tuple[str, ...] = NO_VALUES
    groups: tuple[str, ...] = ()
    before: Before = Before()

    @property
    def monthly(self) -> bool:
        """Whether the table is landed one month at a time."""
        return self.time is not None
