"""A small made-up source, from a seed: equal arguments give equal rows.

`python tests/synthetic.py example` wrote the table that the project starts with. When a team puts its own table in that
place, it replaces this file too: the tests that are not about the example need `MONTHS`, `PARAMS`, `ASKED_BEFORE`,
`OUTCOMES` and `write_source`, 400 rows in the months to train on and 300 in the holdout.
"""

import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd

# What the tests put into params.yaml: a window and a model that take a second, and bounds that such a model meets.
MONTHS = ("2013-01", "2013-02", "2013-03", "2013-04")
PARAMS: dict[str, dict[str, Any]] = {
    "data": {"source": "extracts", "since": MONTHS[0], "through": MONTHS[-1]},
    "split": {"validation_months": 1, "holdout_months": 1},
    "train": {"rounds": 20, "early_stopping_rounds": 10, "min_data_in_leaf": 20, "num_leaves": 15},
    "evaluate": {"gates": {"roc_auc": {"min": 0.6}, "calibration_error": {"max": 0.2}}},
}
# TODO: yours. By table: how long before a row's time its question is asked, at most; where it is not, leave it out.
ASKED_BEFORE: dict[str, timedelta] = {}
# By table: columns that tell how it ended, and how long after a row's time that is known, at least.
OUTCOMES = {"events": (("outcome",), timedelta(days=1))}


# TODO: rows with the schema of your table, in which the label can be learned from the features.
def events(month: str, many: int, seed: int) -> pd.DataFrame:
    """A month's rows, in order of time: the outcome depends on the kind and the value."""
    random, start, rows = Random(f"{seed} {month}"), datetime.fromisoformat(f"{month}-01"), []
    for number, minute in enumerate(sorted(random.sample(range(28 * 24 * 60), many))):
        kind, value = random.choice("abcd"), round(random.uniform(-2, 2), 3)
        chance = {"a": 0.1, "b": 0.3, "c": 0.5, "d": 0.7}[kind] + 0.15 * value
        outcome, unknown, unmeasured = int(random.random() < chance), random.random() < 0.03, random.random() < 0.02
        at = f"{start + timedelta(minutes=minute):%Y-%m-%dT%H:%M:%SZ}"
        rows.append((f"{month}-{number:04}", at, kind, None if unmeasured else value, None if unknown else outcome))
    table = pd.DataFrame(rows, columns=["id", "happened_at", "kind", "value", "outcome"])
    happened_at = pd.to_datetime(table["happened_at"]).dt.as_unit("us")
    return table.assign(happened_at=happened_at, outcome=table["outcome"].astype("Int64"))


def write_source(
    folder: Path,
    months: Sequence[str],
    *,
    rows_a_month: int = 400,
    seed: int = 1,
    suffix: str = ".parquet",
    whole: bool = False,
) -> None:
    """Write the table to `folder`, as `suffix` says (.parquet, .csv, .csv.gz or .csv.zip).

    It becomes a file a month (events/2013-01.parquet), or with `whole` one file.
    """
    by_month = {month: events(month, rows_a_month, seed) for month in months}
    if whole:
        write_table(pd.concat(by_month.values(), ignore_index=True), folder / f"events{suffix}")
        return
    for month, table in by_month.items():
        write_table(table, folder / "events" / f"{month}{suffix}")


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """Write one table in the format that the name of the file asks for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        frame.to_parquet(path, index=False)
        return
    as_text = frame.copy()
    for column in as_text.select_dtypes("datetimetz"):
        as_text[column] = as_text[column].dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    as_text.to_csv(path, index=False, compression="infer", lineterminator="\n")


if __name__ == "__main__":
    # The year that the project starts with.
    write_source(Path(sys.argv[1]), [f"2013-{number:02}" for number in range(1, 13)], rows_a_month=200, suffix=".csv")
