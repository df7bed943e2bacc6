"""The gate in front of data/raw: check a file row by row."""

from dataclasses import dataclass, field
from math import exp, log
from typing import Any

import pandas as pd
import pandera.errors
from pandera.dtypes import String

from .. import project
from ..tables import Table

SHOWN_ROWS = 5
SHOWN_LETTERS = 60

# ISO 8601, the only unambiguous way to write a time; and its ending if it has a time zone.
TIME = r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d(:?\d\d)?)?)?"
ZONE = r":\d\d(?:\.\d+)?(?:Z|[+-]\d\d(?::?\d\d)?)$"
ISO = "write it like 2013-01-31T18:00:00Z"


@dataclass(frozen=True)
class Problem:
    """One failed check of a file. `rows` counts from 1, the first row of data; `bound`: where the check is declared."""

    check: str
    column: str
    rows: tuple[int, ...]
    detail: str
    bound: str = field(default_factory=lambda: contract())

    def __str__(self) -> str:
        shown = ", ".join(map(str, self.rows[:SHOWN_ROWS]))
        more = f" and {len(self.rows) - SHOWN_ROWS} more" if len(self.rows) > SHOWN_ROWS else ""
        rows = f" (row {shown}{more})" if self.rows else ""
        return f"{self.summary}{rows}"

    @property
    def summary(self) -> str:
        """Everything except the rows, in one line."""
        joint = " " if self.check.endswith("column") else " in "
        return f"{self.check}{joint if self.column else ''}{self.column}: {self.detail}"


def contract() -> str:
    """Return where the contract of a table is declared."""
    return f"its contract in {project.path_of(project.here().contracts)}"


def bound(table: Table, parameter: str) -> str:
    """Return where a bound of a table is declared."""
    return f"`{parameter}` of {table.name} in {project.path_of(project.here().tables)}"


def text_columns(table: str) -> list[str]:
    """Return columns to read as text even if every value looks like a number."""
    columns = project.contracts()[table].to_schema().columns
    return [name for name, column in columns.items() if isinstance(column.dtype, String)]


def check(frame: pd.DataFrame, table: Table, month: str | None) -> tuple[pd.DataFrame, list[Problem]]:
    """Check a file's rows against the table's contract.

    Returns: the rows, typed and sorted by key, and every problem found. If there are problems, do not use the rows.
    """
    least, most = table.rows
    problems = []
    if not least <= len(frame) <= most:
        detail = f"{len(frame):,} rows, expected {least:,} to {most:,}"
        problems.append(Problem("row count", "", (), detail, bound(table, "rows")))
    columns, texts = project.contracts()[table.name].to_schema().columns, text_columns(table.name)
    for name in frame.columns.intersection(list(columns)):
        if isinstance(columns[name].dtype.type, pd.DatetimeTZDtype):
            times, found = instants(frame[name], table)
            frame = frame.assign(**{name: times})
            problems += found
        elif name in texts and (found := _no_values(frame[name], table)):
            frame = frame.assign(**{name: ""})
            problems += found
    wrong = {problem.column for problem in problems if problem.column}
    try:
        frame = project.contracts()[table.name].validate(frame, lazy=True)
    except pandera.errors.SchemaErrors as errors:
        return frame, problems + _schema_problems(frame, errors.failure_cases, wrong)
    if wrong:
        return frame, problems
    problems += _duplicates(frame, table)
    problems += _null_shares(frame, table)
    if month and table.time:
        problems += _other_months(frame, table, table.time, month)
    return frame[list(columns)].sort_values(list(table.key), ignore_index=True), problems


def instants(column: pd.Series, table: Table) -> tuple[pd.Series, list[Problem]]:
    """Convert times to instants (UTC). Return them and the problems with ambiguous ones."""
    problems = []
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        times = column.dt.tz_convert("UTC")
    else:
        is_text = isinstance(column.dtype, pd.StringDtype)
        codes, unique = pd.factorize(column if is_text else column.map(str, na_action="ignore"))
        texts = pd.Series(unique, dtype="str")
        clear = texts.str.fullmatch(TIME)
        bare = clear & ~texts.str.contains(ZONE)
        found = pd.to_datetime(texts.where(clear & ~bare), format="ISO8601", utc=True, errors="coerce")
        if table.zone:
            local = pd.to_datetime(texts.where(bare), format="ISO8601", errors="coerce")
            local = local.dt.tz_localize(table.zone, ambiguous="NaT", nonexistent="NaT")
            found, bare = found.fillna(local.dt.tz_convert("UTC")), bare & False
        times = found.reindex(codes).set_axis(column.index)
        no_zone = bare.reindex(codes, fill_value=False).set_axis(column.index)
        problems += _found("zone", column, no_zone, f"a time needs its zone, {ISO}", bound(table, "zone"))
        problems += _found("type", column, column.notna() & times.isna() & ~no_zone, ISO)
    first, last = table.years
    years = times.dt.year
    outside = times.notna() & ((years < first) | (years > last))
    problems += _found("year", column, outside, f"expected {first} to {last}", bound(table, "years"))
    return times, problems


def _no_values(column: pd.Series, table: Table) -> list[Problem]:
    """Find text that only looks like a value, and bytes in place of text."""
    binary = column.map(lambda value: isinstance(value, bytes))
    problems = _found("type", column, binary, "bytes where text has to be")
    words = column.isin(table.no_values)
    return problems + _found("no value", column, words, "leave out what is not known", bound(table, "no_values"))


def _found(check: str, column: pd.Series, wrong: pd.Series, detail: str, declared: str | None = None) -> list[Problem]:
    """Return a problem with these rows of a column, if there are any."""
    if not wrong.any():
        return []
    rows = tuple(int(row) + 1 for row in column.index[wrong])
    return [
        Problem(check, str(column.name), rows, f"found {_shown(list(column[wrong]))}; {detail}", declared or contract())
    ]


def _schema_problems(frame: pd.DataFrame, cases: pd.DataFrame, wrong: set[str]) -> list[Problem]:
    """Return Pandera's findings, except for columns already known to be wrong."""
    problems = []
    # A column of the wrong type fails other checks too.
    wrong_type = set(wrong)
    for (check_name, column), group in cases.fillna({"column": ""}).groupby(["check", "column"], sort=True):
        name = _plain(str(check_name))
        if name.endswith("column"):
            detail = (
                "the contract has it and the file does not" if name.startswith("missing") else "not in the contract"
            )
            problems += [Problem(name, _shown([each]), (), detail) for each in sorted(group["failure_case"], key=str)]
        elif column not in wrong_type:
            rows, values = [int(index) for index in group["index"].dropna()], list(group["failure_case"])
            if name == "type":
                wrong_type.add(str(column))
                if not rows:
                    rows, values = _fractions(frame[column])
            problems.append(
                Problem(name, str(column), tuple(row + 1 for row in sorted(rows)), f"found {_shown(values)}")
            )
    return problems


def _fractions(column: pd.Series) -> tuple[list[int], list[Any]]:
    """Return the rows and values that are not integers, which Pandera does not list."""
    numbers = pd.to_numeric(column, errors="coerce")
    fractions = numbers[numbers.notna() & (numbers % 1 != 0)]
    return [int(index) for index in fractions.index], fractions.tolist()


def _shown(values: list[Any]) -> str:
    """Format a few of the values, short and on one line."""
    texts = sorted({str(value)[:SHOWN_LETTERS] for value in values})
    plain = [text if text.isprintable() else ascii(text) for text in texts[:SHOWN_ROWS]]
    return ", ".join(plain) + (", ..." if len(texts) > SHOWN_ROWS else "")


def _plain(check_name: str) -> str:
    names = {
        "column_in_dataframe": "missing column",
        "column_in_schema": "unknown column",
        "not_nullable": "null",
    }
    if check_name.startswith(("coerce_dtype", "dtype")):
        return "type"
    return names.get(check_name, check_name)


def _duplicates(frame: pd.DataFrame, table: Table) -> list[Problem]:
    repeated = frame.index[frame.duplicated(list(table.key), keep="first")]
    if repeated.empty:
        return []
    rows = tuple(int(index) + 1 for index in repeated)
    detail = f"{len(rows):,} rows repeat an earlier one"
    return [Problem("duplicate key", ", ".join(table.key), rows, detail, bound(table, "key"))]


def _null_shares(frame: pd.DataFrame, table: Table) -> list[Problem]:
    problems = []
    for column, most in table.null_shares.items():
        nulls = frame.index[frame[column].isna()]
        share = len(nulls) / max(len(frame), 1)
        if share > most and chance_of_share(len(nulls), len(frame), most) < table.before.chance:
            rows = tuple(int(index) + 1 for index in nulls)
            detail = f"{share:.1%} of {len(frame):,} rows, at most {most:.1%} of a file or month allowed"
            problems.append(Problem("null share", column, rows, detail, bound(table, "null_shares")))
    return problems


def _other_months(frame: pd.DataFrame, table: Table, time: str, month: str) -> list[Problem]:
    problems, local = [], frame[time].dt.tz_convert(table.clock).dt
    differ = [getattr(local, reading) != frame[reading] for reading in table.readings]
    strangers = frame.index[pd.concat(differ, axis="columns").any(axis="columns")] if differ else frame.index[:0]
    if len(strangers):
        rows = tuple(int(index) + 1 for index in strangers)
        detail = f"it is not the {', '.join(table.readings)} of {table.clock} in {len(rows):,} rows"
        problems.append(Problem("clock", time, rows, detail, bound(table, "clock")))
    year, number = map(int, month.split("-"))
    strangers = frame.index[(local.year != year) | (local.month != number)]
    if len(strangers):
        rows = tuple(int(index) + 1 for index in strangers)
        detail = f"{len(rows):,} rows are not of {month} on the clock of {table.clock}"
        problems.append(Problem("month", time, rows, detail, bound(table, "clock")))
    return problems


# Chernoff bounds: upper limits on the probability.


def chance_of_count(count: int, expected: float) -> float:
    """Bound the probability of a count at least this far from the expected one (Poisson)."""
    return exp(-(_times_log(count, count / expected) - count + expected))


def chance_of_share(count: int, of: int, expected: float) -> float:
    """Bound the probability of a share at least this far from the expected one (binomial)."""
    share = count / of
    if not 0 < expected < 1:
        return float(share == expected)
    distance = _times_log(share, share / expected) + _times_log(1 - share, (1 - share) / (1 - expected))
    return exp(-of * distance)


def _times_log(value: float, ratio: float) -> float:
    return value * log(ratio) if value else 0.0
