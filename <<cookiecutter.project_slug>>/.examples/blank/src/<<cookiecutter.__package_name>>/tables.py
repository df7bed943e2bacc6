"""The tables: keys, rows a file and nulls a column of the raw ones; path, label and keys of the feature table.

Apart from contracts.py: code that only needs the names need not import Pandera. vendor/lifecycle/docs/contract.md
explains the fields.
"""

from pathlib import Path

from lifecycle.contract import Table

# TODO: yours. The table that transform builds, and what is to be predicted.
FEATURES = Path("data/features/events.parquet")
LABEL = "outcome"
# Columns that say which row it is; everything else in the feature table but the label is a feature.
NOT_FEATURES = ("event_id", "month", "asked_at", LABEL)

# TODO: your tables, and how many rows a file of each has at least and at most.
TABLES = {
    table.name: table
    for table in (
        Table(
            "events",
            key=("id",),
            rows=(100, 100_000),
            time="happened_at",
            null_shares={"value": 0.05, "outcome": 0.15},
            groups=("kind",),
        ),
    )
}
