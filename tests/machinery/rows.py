"""Made-up rows for the monitor: relations in a database in memory, from numpy arrays."""

from typing import Any

import numpy as np
import pyarrow as pa

from lifecycle.monitoring import summary
from lifecycle.monitoring.summary import Column, Summary
from lifecycle.monitoring.window import connect

Values = np.ndarray[Any, np.dtype[Any]] | list[Any]


def compare(reference: Values, recent: Values, kind: str = "number") -> tuple[Column, Summary, Summary]:
    """Bins from the reference, and both counted in them."""
    connection = connect()
    for name, values in (("reference", reference), ("recent", recent)):
        type_ = pa.string() if kind == "text" else pa.float64()
        # From Python's values, so that NaN stays NaN and None is null.
        table = pa.table({"x": pa.array(list(values), type_, from_pandas=False)})
        connection.register(name, table)
    [column] = summary.cut(connection, "reference", {"x": kind})  # type: ignore[dict-item]
    empty = Summary(rows=0, nulls=0, outside=None, bins=())
    before, now = (
        summary.summarise(connection, name, [column]).get("all", {"x": empty})["x"] for name in ("reference", "recent")
    )
    return column, before, now
