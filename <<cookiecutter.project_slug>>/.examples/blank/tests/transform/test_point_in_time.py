"""Histories count what was known when the question was asked: shown by counting again without SQL."""

import math
from datetime import timedelta
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from << cookiecutter.__package_name >>.tables import FEATURES

# From the question to the moment its outcome is known, and how long a history reaches back.
KNOWN_AFTER, WINDOW = timedelta(days=1), timedelta(days=30)


def raw(project: Path) -> pd.DataFrame:
    files = sorted((project / "data/raw/events").glob("*.parquet"))
    return pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)


def features(project: Path) -> pd.DataFrame:
    rows: pd.DataFrame = pq.read_table(project / FEATURES).to_pandas()
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
