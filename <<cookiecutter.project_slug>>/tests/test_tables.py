"""The contracts hold what they say: a good file passes, and one with a wrong cell, row or month does not.

For whatever tables the project has: each bound of contracts.py and tables.py is broken once, on rows of synthetic.py.
"""

from typing import Any

import pandas as pd
import pytest
from lifecycle.stages import gate

from << cookiecutter.__package_name >>.contracts import CONTRACTS
from << cookiecutter.__package_name >>.tables import TABLES

from synthetic import MONTHS, write_source

MONTH, OTHER_MONTH = MONTHS[:2]
MONTHLY = [name for name, table in TABLES.items() if table.time]

Frames = dict[tuple[str, str], pd.DataFrame]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Frames:
    """The rows of each table and month."""
    folder = tmp_path_factory.mktemp("good")
    write_source(folder, MONTHS[:2])
    return {
        (name, month): pd.read_parquet(folder / (f"{name}/{month}.parquet" if name in MONTHLY else f"{name}.parquet"))
        for name in TABLES
        for month in MONTHS[:2]
    }


def refused(frame: pd.DataFrame, name: str) -> set[tuple[str, str]]:
    """The checks that a file fails, each with its column."""
    _, problems = gate.check(frame, TABLES[name], MONTH)
    return {(problem.check.partition("(")[0], problem.column) for problem in problems}


def put(frame: pd.DataFrame, **heads: tuple[Any, ...]) -> pd.DataFrame:
    """The same rows with these values at the head of each column."""
    changed = {column: frame[column].astype("object") for column in heads}
    for column, values in heads.items():
        changed[column].iloc[: len(values)] = values
    return frame.assign(**changed)


def columns_of(name: str) -> dict[str, Any]:
    found: dict[str, Any] = CONTRACTS[name].to_schema().columns
    return found


@pytest.mark.parametrize("name", TABLES)
def test_a_good_file_passes(name: str, good: Frames) -> None:
    assert refused(good[name, MONTH], name) == set()


@pytest.mark.parametrize("name", TABLES)
def test_missing_and_unknown_columns_are_refused(name: str, good: Frames) -> None:
    kept, *missing = good[name, MONTH].columns
    found = refused(good[name, MONTH][[kept]].assign(one_more=1), name)
    assert found >= {("unknown column", "one_more"), *(("missing column", column) for column in missing)}


@pytest.mark.parametrize("name", TABLES)
def test_a_wrong_type_is_refused(name: str, good: Frames) -> None:
    frame = good[name, MONTH].head(100)
    columns = [*frame.select_dtypes(["number", "datetimetz"])]
    wrong = put(frame, **dict.fromkeys(columns, ("far",))).astype(dict.fromkeys(columns, "str"))
    assert refused(wrong, name) >= {("type", column) for column in columns}


@pytest.mark.parametrize("name", TABLES)
def test_a_value_out_of_its_range_is_refused(name: str, good: Frames) -> None:
    frame = good[name, MONTH].head(100)
    bounds = {column: each.checks for column, each in columns_of(name).items() if each.checks}
    numbers = frame[[*bounds]].select_dtypes("number").columns
    found = refused(put(frame, **{each: (-(10**9), 10**9) if each in numbers else ("?!",) for each in bounds}), name)
    for column, checks in bounds.items():
        assert found & {(check.error.partition("(")[0], column) for check in checks}, column


@pytest.mark.parametrize("name", TABLES)
def test_a_key_that_comes_twice_is_refused(name: str, good: Frames) -> None:
    frame = good[name, MONTH]
    assert ("duplicate key", ", ".join(TABLES[name].key)) in refused(pd.concat([frame, frame.head(1)]), name)


@pytest.mark.parametrize("name", TABLES)
def test_nulls_are_refused(name: str, good: Frames) -> None:
    frame = good[name, MONTH].head(100)
    never = [column for column, each in columns_of(name).items() if not each.nullable]
    assert refused(put(frame, **dict.fromkeys(never, (None,))), name) >= {("null", column) for column in never}
    few = TABLES[name].null_shares
    found = refused(put(frame, **dict.fromkeys(few, (None,) * len(frame))), name)
    assert found >= {("null share", column) for column in few}


@pytest.mark.parametrize("name", MONTHLY)
def test_another_month_is_refused(name: str, good: Frames) -> None:
    assert ("month", TABLES[name].time) in refused(good[name, OTHER_MONTH], name)


@pytest.mark.parametrize("name", TABLES)
def test_too_few_rows_are_refused(name: str, good: Frames) -> None:
    assert ("row count", "") in refused(good[name, MONTH].head(TABLES[name].rows[0] - 1), name)
