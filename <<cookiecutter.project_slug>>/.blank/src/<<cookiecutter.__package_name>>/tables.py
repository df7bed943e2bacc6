"""The raw tables: their keys, how many rows a file has, and how many nulls a column may hold.

Apart from contracts.py: code that only needs the names need not import Pandera. vendor/lifecycle/docs/contract.md
explains the fields.
"""

from lifecycle.contract import Table

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
