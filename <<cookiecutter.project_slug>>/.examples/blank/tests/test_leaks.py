"""No feature knows the future or the label: held for whatever table the project has.

The rows of a moment and later are changed in data/raw and the SQL runs again: no feature of an earlier row may move.
"""

import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
from lifecycle.contract import load_params
from lifecycle.testing import environment

from << cookiecutter.__package_name >>.tables import TABLES
from << cookiecutter.__package_name >>.train import FEATURES, LABEL, NOT_FEATURES

from synthetic import MONTHS

# How long before a row's time (Table.time) its question is asked, at most. Not 0 where it is asked in advance.
ASKED_BEFORE = timedelta(0)


def features() -> pd.DataFrame:
    """The feature table, by its key."""
    rows: pd.DataFrame = pq.read_table(FEATURES).to_pandas()
    return rows.set_index(load_params().monitoring.columns.key).sort_index()


def change_what_came_after(moment: pd.Timestamp) -> int:
    """Give each value of the later rows, but keys and times, the next value that its column has; returns the rows."""
    changed = 0
    for table in TABLES.values():
        files = sorted(Path("data/raw", table.name).glob("*.parquet")) if table.time else []
        frames = [pd.read_parquet(file) for file in files]
        for column in pd.concat(frames).columns.difference([*table.key, table.time]) if frames else ():
            values = sorted(pd.concat(frame[column] for frame in frames).dropna().unique())
            following = dict(zip(values, [*values[1:], *values[:1]], strict=True))
            for frame in frames:
                later = pd.to_datetime(frame[table.time], utc=True) > moment
                frame.loc[later, column] = frame.loc[later, column].map(following).astype(frame[column].dtype)
        for file, frame in zip(files, frames, strict=True):
            changed += int((pd.to_datetime(frame[table.time], utc=True) > moment).sum())
            frame.to_parquet(file, index=False)
    return changed


def is_copy(feature: "pd.Series[Any]", label: "pd.Series[Any]") -> bool:
    """Whether each value of one stands for one of the other; of values that hardly repeat, in the same order too."""
    one_to_one = feature.nunique() == label.nunique() == len(pd.concat([feature, label], axis=1).drop_duplicates())
    repeats = label.nunique() <= len(label) / 2
    return bool(one_to_one and (repeats or abs(feature.rank().corr(label.rank())) > 1 - 1e-9))


def test_what_comes_later_moves_no_feature(built: Path) -> None:
    before, time = features(), load_params().monitoring.columns.time
    asked = before[time].dt.tz_localize("UTC")
    # The last question of the third month: a feature that looks one row ahead looks past it.
    moment = asked[asked < pd.Timestamp(f"{MONTHS[3]}-01", tz="UTC") - ASKED_BEFORE].max() + ASKED_BEFORE
    assert change_what_came_after(moment) > 0
    done = subprocess.run(
        [sys.executable, "-m", "dbt.cli.main", "run"],
        cwd="transform",
        env=environment(built, DATA_THROUGH=MONTHS[-1]),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout

    after, past = features(), asked <= moment - ASKED_BEFORE
    rows = before.index[past]
    moved = [name for name in before.columns.drop(LABEL) if not before[name][rows].equals(after[name][rows])]
    assert moved == [], "these features know rows that came later"


def test_no_feature_is_the_label_under_another_name(finished: Path) -> None:
    rows = pq.read_table(finished / FEATURES).to_pandas().dropna(subset=[LABEL])
    copies = [name for name in rows.columns.drop([*NOT_FEATURES]) if is_copy(rows[name], rows[LABEL])]
    assert copies == [], "these features are the label"


def test_values_that_all_differ_make_no_copy() -> None:
    label = pd.Series([0.1, 0.4, 0.2, 0.3])
    assert is_copy(10 - 2 * label, label)
    assert is_copy(pd.Series(list("aabb")), pd.Series([1, 1, 0, 0]))
    assert not is_copy(pd.Series([7.0, 5.0, 6.0, 4.0]), label)
