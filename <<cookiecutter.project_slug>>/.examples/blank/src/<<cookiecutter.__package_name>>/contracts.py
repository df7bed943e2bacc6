"""What the rows of a raw file must be: the types and ranges of every column. Sizes and keys stand in tables.py.

Columns are the source's own, so that a landed file can be held against it.
"""

from typing import Annotated, TypeAlias

import pandas as pd
import pandera.pandas as pa

Int: TypeAlias = pd.Int64Dtype
Float: TypeAlias = pd.Float64Dtype
Text = str
Instant = Annotated[pd.DatetimeTZDtype, "us", "UTC"]


class Contract(pa.DataFrameModel):
    """All contracts: columns are converted to their type, others than those declared are refused."""

    class Config:
        """Pandera's settings."""

        coerce = True
        strict = True


# TODO: your table's columns. One class a table.
class Events(Contract):
    """Made-up events, and how each ended."""

    id: Text = pa.Field(str_matches=r"^[0-9]{4}-[0-9]{2}-[0-9]{4}$")
    happened_at: Instant
    kind: Text = pa.Field(isin=["a", "b", "c", "d"])
    value: Float = pa.Field(in_range={"min_value": -10, "max_value": 10}, nullable=True)
    outcome: Int = pa.Field(isin=[0, 1], nullable=True)


CONTRACTS: dict[str, type[Contract]] = {"events": Events}
