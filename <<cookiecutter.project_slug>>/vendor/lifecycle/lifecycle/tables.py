"""What a raw table declares: its key, its clock and its bounds. The project's own tables.py has the tables."""

from dataclasses import dataclass, field

# How a person's or a library's "no value" ends up as text. `None` is Python's; "none" may be a category.
NO_VALUES = ("NULL", "Null", "null", "N/A", "n/a", "#N/A", "NaN", "nan", "NAN", "NaT", "<NA>", "None")


@dataclass(frozen=True)
class Before:
    """How far a month may be from the months before it. A difference counts only if chance hardly explains it.

    `months`: how many months before; 0 turns all of this off. `chance`: a difference that is likelier than this by
    chance does not count, so a month of few rows has more room. `volume`: so many times more or fewer rows a day, over
    the month. `day_volume`: the same, of a single day. `days`: what share of the days more than before may have next to
    no rows. `nulls`: how far a column's share of nulls may rise above the highest before; at most halfway to 1.
    `group_ratio`: so many times more or fewer rows of a category, as a share. `group_floor`: categories with a smaller
    share are not judged. `repeats`: a larger share of rows that an earlier month has too is a copy of that month.
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

    `rows`: how many a file has, or each month of it, at least and at most. `time`: of a monthly table, the column (an
    instant) that says of which month a row is, on the `clock` of that time zone; its `readings` are columns that hold
    the year, month, day or hour of the same instant on that clock. `zone`: the time zone of times that are written
    without one; None refuses them. `years`: the first and the last that a time may be of. `null_shares`: the largest
    share of nulls in a column, by file or month. `no_values`: text that only looks like a value. `groups`: columns
    whose categories keep about the same share from month to month.
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
        """Whether it is landed a month at a time."""
        return self.time is not None
