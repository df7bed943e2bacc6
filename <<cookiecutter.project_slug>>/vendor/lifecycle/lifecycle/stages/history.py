"""Compare a new month with earlier ones: volume, days, nulls, categories, and whether it is a copy of one."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from .. import project
from ..tables import Table
from .gate import Problem, bound, chance_of_count, chance_of_share

# With fewer unique rows than this, equal rows prove nothing.
FEWEST_SINGLE_ROWS = 20


@dataclass(frozen=True)
class Profile:
    """The stored summary of a month: counts of rows by day and category, of nulls by column, and a hash of each row."""

    month: str
    days: np.ndarray[Any, np.dtype[np.int64]]
    nulls: dict[str, int]
    groups: dict[str, dict[str, int]]
    singles: np.ndarray[Any, np.dtype[np.uint64]]

    @property
    def rows(self) -> int:
        """The number of rows."""
        return int(self.days.sum())

    @property
    def rate(self) -> float:
        """The number of rows per day."""
        return self.rows / len(self.days)


def profile(frame: pd.DataFrame, table: Table, month: str) -> Profile:
    """Return the profile of a month's rows, as typed by the contract."""
    day = frame[table.time].dt.tz_convert(table.clock).dt.day
    columns = project.contracts()[table.name].to_schema().columns
    # A copied month has other times and other keys.
    changed = {table.time, *table.readings, *table.key}
    kept = [name for name in columns if name not in changed]
    hashes, counts = np.unique(pd.util.hash_pandas_object(frame[kept], index=False), return_counts=True)
    return Profile(
        month,
        np.bincount(day, minlength=pd.Period(month).days_in_month + 1)[1:],
        {name: int(frame[name].isna().sum()) for name, column in columns.items() if column.nullable},
        {name: frame[name].value_counts().to_dict() for name in table.groups},
        hashes[counts == 1] if kept else hashes[:0],
    )


def compare(new: Profile, before: list[Profile], table: Table) -> Iterator[Problem]:
    """Yield the ways in which a month stands out from earlier ones."""
    if before and new.rows:
        yield from _volume(new, before, table)
        yield from _days(new, before, table)
        yield from _nulls(new, before, table)
        for column in table.groups:
            yield from _groups(new, before, table, column)
        yield from _copies(new, before, table)


def _volume(new: Profile, before: list[Profile], table: Table) -> Iterator[Problem]:
    rates, most = [each.rate for each in before], table.before
    least, largest = min(rates), max(rates)
    few = new.rate < least / most.volume and chance_of_count(new.rows, least * len(new.days)) < most.chance
    many = new.rate > largest * most.volume and chance_of_count(new.rows, largest * len(new.days)) < most.chance
    if few or many:
        yield _problem(table, "volume", "volume", "", f"{new.rate:,.1f} rows a day, {_range(rates, ',.1f')} before")


def _days(new: Profile, before: list[Profile], table: Table) -> Iterator[Problem]:
    days, most = np.concatenate([each.days for each in before]), table.before
    sparse = np.quantile(days, 0.1) / most.day_volume
    usual, found = int((days < sparse).sum()), np.flatnonzero(new.days < sparse) + 1
    share = len(found) / len(new.days)
    if share > usual / len(days) + most.days and (
        chance_of_share(len(found), len(new.days), (usual + 1) / (len(days) + 2)) < most.chance
    ):
        listed = ", ".join(map(str, found[:5])) + (", ..." if len(found) > 5 else "")
        detail = f"{len(found)} of {len(new.days)} days have next to no rows (day {listed})"
        yield _problem(table, "days", "days", str(table.time), detail)
    largest, peak = int(days.max()), int(new.days.max())
    if peak > largest * most.day_volume and chance_of_count(peak, largest) < most.chance:
        detail = f"{peak:,} rows on day {new.days.argmax() + 1}, at most {largest:,} on any day before"
        yield _problem(table, "day volume", "day_volume", str(table.time), detail)


def _nulls(new: Profile, before: list[Profile], table: Table) -> Iterator[Problem]:
    for column, nulls in new.nulls.items():
        highest = max(each.nulls[column] / each.rows for each in before)
        share, most = nulls / new.rows, highest + min(table.before.nulls, (1 - highest) / 2)
        usual = max((each.nulls[column] + 1) / (each.rows + 2) for each in before)
        if share > most and chance_of_share(nulls, new.rows, usual) < table.before.chance:
            yield _problem(table, "null share", "nulls", column, f"{share:.1%}, at most {highest:.1%} before")


def _groups(new: Profile, before: list[Profile], table: Table, column: str) -> Iterator[Problem]:
    most = table.before
    for category in sorted({key for each in [new, *before] for key in each.groups[column]}):
        shares = [each.groups[column].get(category, 0) / each.rows for each in before]
        count = new.groups[column].get(category, 0)
        share, least, largest = count / new.rows, min(shares), max(*shares, most.group_floor)
        fell = least >= most.group_floor and share < least / most.group_ratio
        if (fell and chance_of_share(count, new.rows, least) < most.chance) or (
            share > largest * most.group_ratio and chance_of_share(count, new.rows, largest) < most.chance
        ):
            detail = f"{share:.1%} of the rows are {ascii(category)[:60]}, {_range(shares, '.1%')} before"
            yield _problem(table, "category", "group_ratio", column, detail)


def _copies(new: Profile, before: list[Profile], table: Table) -> Iterator[Problem]:
    if len(new.singles) < FEWEST_SINGLE_ROWS:
        return
    for each in before:
        share = len(np.intersect1d(new.singles, each.singles, assume_unique=True)) / len(new.singles)
        if share > table.before.repeats:
            detail = f"{share:.0%} of the rows are those of {each.month} under another date"
            yield _problem(table, "copy", "repeats", "", detail)


def _problem(table: Table, check: str, parameter: str, column: str, detail: str) -> Problem:
    return Problem(check, column, (), detail, bound(table, f"before.{parameter}"))


def _range(values: list[float], form: str) -> str:
    least, most = format(min(values), form), format(max(values), form)
    return least if least == most else f"{least} to {most}"
