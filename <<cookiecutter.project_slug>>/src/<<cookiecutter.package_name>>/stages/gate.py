"""The gate in front of data/raw: what is wrong with a file, row by row."""

from dataclasses import dataclass

import pandas as pd
import pandera.errors

from .contracts import CONTRACTS
from .tables import Table

SHOWN_ROWS = 5


@dataclass(frozen=True)
class Problem:
    """One check that a file failed. `rows` counts from 1, the first row of data."""

    check: str
    column: str
    rows: tuple[int, ...]
    detail: str

    def __str__(self) -> str:
        where = f" in {self.column}" if self.column else ""
        shown = ", ".join(map(str, self.rows[:SHOWN_ROWS]))
        more = f" and {len(self.rows) - SHOWN_ROWS} more" if len(self.rows) > SHOWN_ROWS else ""
        rows = f" (row {shown}{more})" if self.rows else ""
        return f"{self.check}{where}: {self.detail}{rows}"


def check(frame: pd.DataFrame, table: Table, month: str | None) -> tuple[pd.DataFrame, list[Problem]]:
    """Hold a file's rows against the table's contract.

    Returns: the rows typed and sorted by key, and every problem found; with a problem the rows mean nothing.
    """
    least, most = table.rows
    problems = []
    if not least <= len(frame) <= most:
        problems.append(Problem("row count", "", (), f"{len(frame):,} rows, expected {least:,} to {most:,}"))
    try:
        frame = CONTRACTS[table.name].validate(frame, lazy=True)
    except pandera.errors.SchemaErrors as errors:
        return frame, problems + _schema_problems(errors.failure_cases)
    problems += _duplicates(frame, table)
    problems += _null_shares(frame, table)
    if month:
        problems += _other_months(frame, month)
    columns = list(CONTRACTS[table.name].to_schema().columns)
    return frame[columns].sort_values(list(table.key), ignore_index=True), problems


def _schema_problems(cases: pd.DataFrame) -> list[Problem]:
    problems = []
    for (check_name, column), group in cases.fillna({"column": ""}).groupby(["check", "column"], sort=True):
        rows = tuple(sorted(int(index) + 1 for index in group["index"].dropna()))
        values = sorted({str(value) for value in group["failure_case"]})
        shown = ", ".join(values[:SHOWN_ROWS]) + (", ..." if len(values) > SHOWN_ROWS else "")
        problems.append(Problem(_plain(str(check_name)), str(column), rows, f"found {shown}"))
    return problems


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


def _other_months(frame: pd.DataFrame, month: str) -> list[Problem]:
    year, number = map(int, month.split("-"))
    strangers = frame.index[(frame["year"] != year) | (frame["month"] != number)]
    if strangers.empty:
        return []
    rows = tuple(int(index) + 1 for index in strangers)
    return [Problem("month", "year, month", rows, f"{len(rows):,} rows are not of {month}")]
