"""The gate in front of data/raw: what is wrong with a file, row by row."""

from dataclasses import dataclass
from typing import Any

import pandas as pd
import pandera.errors

from .. import project
from ..contract import Table

SHOWN_ROWS = 5
SHOWN_LETTERS = 60


@dataclass(frozen=True)
class Problem:
    """One check that a file failed. `rows` counts from 1, the first row of data."""

    check: str
    column: str
    rows: tuple[int, ...]
    detail: str

    def __str__(self) -> str:
        shown = ", ".join(map(str, self.rows[:SHOWN_ROWS]))
        more = f" and {len(self.rows) - SHOWN_ROWS} more" if len(self.rows) > SHOWN_ROWS else ""
        rows = f" (row {shown}{more})" if self.rows else ""
        return f"{self.summary}{rows}"

    @property
    def summary(self) -> str:
        """All but the rows."""
        joint = " " if self.check.endswith("column") else " in "
        return f"{self.check}{joint if self.column else ''}{self.column}: {self.detail}"


def check(frame: pd.DataFrame, table: Table, month: str | None) -> tuple[pd.DataFrame, list[Problem]]:
    """Hold a file's rows against the table's contract.

    Returns: the rows typed and sorted by key, and every problem found; with a problem the rows mean nothing.
    """
    least, most = table.rows
    problems = []
    if not least <= len(frame) <= most:
        problems.append(Problem("row count", "", (), f"{len(frame):,} rows, expected {least:,} to {most:,}"))
    try:
        frame = project.contracts()[table.name].validate(frame, lazy=True)
    except pandera.errors.SchemaErrors as errors:
        return frame, problems + _schema_problems(frame, errors.failure_cases)
    problems += _duplicates(frame, table)
    problems += _null_shares(frame, table)
    if month and table.time:
        problems += _other_months(frame, month, table)
        problems += _other_clocks(frame, table)
    columns = list(project.contracts()[table.name].to_schema().columns)
    return frame[columns].sort_values(list(table.key), ignore_index=True), problems


def _schema_problems(frame: pd.DataFrame, cases: pd.DataFrame) -> list[Problem]:
    problems = []
    # A column of the wrong type fails other checks too, for no reason of its own.
    wrong_type: set[str] = set()
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
    """Pandera does not say which values are not whole numbers."""
    numbers = pd.to_numeric(column, errors="coerce")
    fractions = numbers[numbers.notna() & (numbers % 1 != 0)]
    return [int(index) for index in fractions.index], fractions.tolist()


def _shown(values: list[Any]) -> str:
    """A few of the values, short and on one line whatever they hold."""
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
    return [Problem("duplicate key", ", ".join(table.key), rows, f"{len(rows):,} rows repeat an earlier one")]


def _null_shares(frame: pd.DataFrame, table: Table) -> list[Problem]:
    problems = []
    for column, most in table.null_shares.items():
        nulls = frame.index[frame[column].isna()]
        share = len(nulls) / max(len(frame), 1)
        if share > most:
            rows = tuple(int(index) + 1 for index in nulls)
            problems.append(Problem("null share", column, rows, f"{share:.1%}, at most {most:.1%} allowed"))
    return problems


def _other_months(frame: pd.DataFrame, month: str, table: Table) -> list[Problem]:
    strangers = frame.index[_local(frame, table).strftime("%Y-%m") != month]
    if strangers.empty:
        return []
    rows = tuple(int(index) + 1 for index in strangers)
    return [Problem("month", str(table.time), rows, f"{len(rows):,} rows are not of {month}")]


def _local(frame: pd.DataFrame, table: Table) -> Any:
    return frame[table.time].dt.tz_convert(table.clock).dt


def _other_clocks(frame: pd.DataFrame, table: Table) -> list[Problem]:
    """Where a table has its time as year, month, day and hour too, they must say the same."""
    parts = [part for part in ("year", "month", "day", "hour") if part in frame.columns]
    local = _local(frame, table)
    differ = pd.DataFrame({part: getattr(local, part) != frame[part] for part in parts}, index=frame.index)
    strangers = frame.index[differ.any(axis="columns")]
    if strangers.empty:
        return []
    rows = tuple(int(index) + 1 for index in strangers)
    detail = f"in UTC, it is not the {', '.join(parts)} of {table.clock} in {len(rows):,} rows"
    return [Problem("clock", str(table.time), rows, detail)]


def text_columns(table: str) -> list[str]:
    """Columns to read as text even where every value looks like a number."""
    columns = project.contracts()[table].to_schema().columns
    return [name for name, column in columns.items() if str(column.dtype) == "str"]
