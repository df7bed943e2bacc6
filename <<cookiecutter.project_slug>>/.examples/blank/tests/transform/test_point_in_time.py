"""No row sees its own or a later outcome: shown by changing the future, and by counting again without SQL."""

import math
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from lifecycle.testing import environment

from synthetic import MONTHS

LABEL = "outcome"
# From the question to the moment its outcome is known, and how long a history reaches back.
KNOWN_AFTER, WINDOW = timedelta(days=1), timedelta(days=30)


def raw(project: Path) -> pd.DataFrame:
    files = sorted((project / "data/raw/events").glob("*.parquet"))
    return pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)


def features(project: Path) -> pd.DataFrame:
    rows: pd.DataFrame = pq.read_table(project / "data/features/events.parquet").to_pandas()
    assert rows["event_id"].is_unique
    return rows.set_index("event_id").sort_index()


# TODO: the same for your histories.
def test_history_is_what_was_known_by_then(finished: Path) -> None:
    found, events = features(finished), raw(finished)
    assert set(found.index) == set(events["id"])
    ended = events[events["outcome"].notna()]
    known_at, counted = ended["happened_at"] + KNOWN_AFTER, 0
    for event in events.sample(100, random_state=1).itertuples():
        asked = event.happened_at
        known = ended[(ended["kind"] == event.kind) & (known_at <= asked) & (known_at >= asked - WINDOW)]
        assert event.id not in set(known["id"])
        expected = known["outcome"].sum() / len(known) if len(known) else math.nan
        assert found.loc[event.id, "kind_rate_30d"] == pytest.approx(expected, abs=0, nan_ok=True)
        counted += len(known)
    # Nothing is shown by rates that are null.
    assert counted


def test_what_is_known_after_a_moment_changes_no_row_asked_about_before_it(built: Path) -> None:
    before, moment = features(built), pd.Timestamp(f"{MONTHS[2]}-15", tz="UTC")
    for file in sorted(Path("data/raw/events").glob("*.parquet")):
        rows = pd.read_parquet(file)
        later = rows["happened_at"] + KNOWN_AFTER > moment
        rows.assign(outcome=rows["outcome"].mask(later, 1 - rows["outcome"])).to_parquet(file, index=False)
    done = subprocess.run(
        [sys.executable, "-m", "dbt.cli.main", "run"],
        cwd="transform",
        env=environment(built, DATA_THROUGH=MONTHS[-1]),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout

    after = features(built)
    past = before["asked_at"] <= moment.tz_localize(None)
    known = before.columns.drop(LABEL)
    pd.testing.assert_frame_equal(before.loc[past, known], after.loc[past, known])
    # The change was one: outcomes differ, on both sides of the moment, and so does what later rows know.
    differ = before[LABEL].astype(str) != after[LABEL].astype(str)
    assert differ[past].sum() >= 5
    assert differ[~past].sum() > 300
    assert not before.loc[~past, known].equals(after.loc[~past, known])
