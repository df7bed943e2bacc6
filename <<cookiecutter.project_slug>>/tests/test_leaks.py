"""No feature knows the future or the label: held for whatever table the project has.

Whatever was not known yet at some moment is changed in data/raw, and the SQL runs again: no feature of a row whose
question was asked by then may move. synthetic.py says how long before a row's time its question is asked (ASKED_BEFORE)
and which columns tell how it ended (OUTCOMES).
"""

import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
from lifecycle.contract import Table, load_params
from lifecycle.testing import environment

from << cookiecutter.__package_name >>.tables import FEATURES, LABEL, NOT_FEATURES, TABLES

from synthetic import ASKED_BEFORE, MONTHS, OUTCOMES


def features() -> pd.DataFrame:
    """The feature table, by its key."""
    rows: pd.DataFrame = pq.read_table(FEATURES).to_pandas()
    return rows.set_index(load_params().monitoring.columns.key).sort_index()


def change_what_was_not_known(moment: pd.Timestamp) -> None:
    """Give each value of the later rows, but keys and times, another one that its column has.

    Outcomes change in all rows that had not ended by then, the other columns in all that nobody had asked about.
    """
    for table in TABLES.values():
        files = sorted(Path("data/raw", table.name).glob("*.parquet")) if table.time else []
        frames = [pd.read_parquet(file) for file in files]
        for column in pd.concat(frames).columns.difference(_fixed(table)) if frames else ():
            outcomes, known_after = OUTCOMES.get(table.name, ((), timedelta(0)))
            margin = -known_after if column in outcomes else ASKED_BEFORE.get(table.name, timedelta(0))
            values = sorted(pd.concat(frame[column] for frame in frames).dropna().unique())
            half = (len(values) + 1) // 2
            other = dict(zip(values, [*values[half:], *values[:half]], strict=True))
            for frame in frames:
                later = pd.to_datetime(frame[table.time], utc=True) > moment + margin
                frame.loc[later, column] = frame.loc[later, column].map(other).astype(frame[column].dtype)
        for file, frame in zip(files, frames, strict=True):
            frame.to_parquet(file, index=False)


def _fixed(table: Table) -> list[str | None]:
    return [*table.key, table.time, *table.readings]


def test_what_was_not_known_yet_moves_no_feature(built: Path) -> None:
    before, time = features(), load_params().monitoring.columns.time
    asked = before[time].dt.tz_localize("UTC")
    # In the middle of the third month. A feature that looks one row ahead looks past it.
    moment = asked[asked.between(f"{MONTHS[2]}-01", f"{MONTHS[3]}-01")].quantile(0.5, interpolation="lower")
    change_what_was_not_known(moment)
    done = subprocess.run(
        [sys.executable, "-m", "dbt.cli.main", "run"],
        cwd="transform",
        env=environment(built, DATA_THROUGH=MONTHS[-1]),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout

    after = features()
    past, known = asked <= moment, before.columns.drop(LABEL)
    rows = before.index[past]
    moved = [name for name in known if not before[name][rows].equals(after[name][rows])]
    assert moved == [], "these features know what came later"
    # The change was one: outcomes differ, on both sides of the moment, and so does what later rows know.
    same = after.reindex(before.index)
    differ = before[LABEL].astype(str) != same[LABEL].astype(str)
    assert differ[past].any()
    assert differ[~past].any()
    assert not before.loc[~past, known].equals(same.loc[~past, known])


def test_no_feature_is_the_label_under_another_name(finished: Path) -> None:
    rows = pq.read_table(finished / FEATURES).to_pandas().dropna(subset=[LABEL])
    copies = [name for name in rows.columns.drop([*NOT_FEATURES]) if is_copy(rows[name], rows[LABEL])]
    assert copies == [], "these features are the label"


def is_copy(feature: "pd.Series[Any]", label: "pd.Series[Any]") -> bool:
    """Whether each value of one stands for one of the other; of values that hardly repeat, in the same order too."""
    one_to_one = feature.nunique() == label.nunique() == len(pd.concat([feature, label], axis=1).drop_duplicates())
    repeats = label.nunique() <= len(label) / 2
    return bool(one_to_one and (repeats or abs(feature.rank().corr(label.rank())) > 1 - 1e-9))


def test_values_that_all_differ_make_no_copy() -> None:
    label = pd.Series([0.1, 0.4, 0.2, 0.3])
    assert is_copy(10 - 2 * label, label)
    assert is_copy(pd.Series(list("aabb")), pd.Series([1, 1, 0, 0]))
    assert not is_copy(pd.Series([7.0, 5.0, 6.0, 4.0]), label)
