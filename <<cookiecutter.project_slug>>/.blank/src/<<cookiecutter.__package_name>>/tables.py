"""The raw tables: their keys, how many rows a file has, and how many nulls a column may hold.

Apart from contracts.py, so that whoever only asks which tables there are need not import Pandera.
"""

from lifecycle.contract import Table

@dataclass(frozen=True)
class Table:
    """A raw table. A monthly one is landed a month at a time, and its rows must be of the month they claim.

    `time`: of a monthly table, the column (an instant, UTC) that says of which month a row is.
    """

    name: str
    key: tuple[str, ...]
    rows: tuple[int, int]
    time: str | None = None
    null_shares: dict[str, float] = field(default_factory=dict)

    @property
    def monthly(self) -> bool:
        """Whether it is landed a month at a time."""
        return self.time is not None


# TODO: your tables, and how many rows a file of each has at least and at most.
TABLES = {
    table.name: table
    for table in (
        Table(
            "events", key=("id",), rows=(100, 100_000), time="happened_at", null_shares={"value": 0.05, "outcome": 0.15}
        ),
    )
}
