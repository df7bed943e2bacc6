"""Summarize a set of rows, column by column, in one pass of SQL. Both profile and drift use these summaries.

A column of numbers is cut into bins at the reference's quantiles, or by its values if those are few; a column of text
by its most frequent categories. Missing (or non-finite) values are counted separately.
"""

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from ..params import Record

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

QUANTILE_BINS = 10
# A column of numbers with at most this many values has a bin for each: hours, days of the week, 0 and 1.
FEW_VALUES = 24
TOP_CATEGORIES = 20
# With more categories than this, they are not stored, and there is no check for unknown ones.
MOST_CATEGORIES = 10_000
# Points of the quantile function: the midpoints of 100 equal shares.
PROBABILITIES = [(step + 0.5) / 100 for step in range(100)]


class Column(Record):
    """How a column is cut into bins. The last bin holds the rest: beyond the last edge, or any other value."""

    name: str
    kind: Literal["number", "time", "text"]
    edges: tuple[float, ...] = ()
    values: tuple[float, ...] = ()
    # All values seen, the most frequent first; None if there are too many.
    categories: tuple[str, ...] | None = None
    low: float | None = None
    high: float | None = None

    @property
    def labels(self) -> list[str]:
        """A readable name for each bin."""
        if self.kind == "text":
            return [*(self.categories or ())[:TOP_CATEGORIES], "other"]
        if self.edges:
            shown = [f"{edge:.4g}" for edge in self.edges]
            return [
                f"to {shown[0]}",
                *(f"{a} to {b}" for a, b in pairwise(shown)),
                f"over {shown[-1]}",
            ]
        return [*(f"{value:.4g}" for value in self.values), "other"]


class Summary(Record):
    """Counts for a column. `outside`: beyond the reference's range, or in a category that it does not have."""

    rows: int
    nulls: int
    outside: int | None
    bins: tuple[int, ...]
    quantiles: tuple[float, ...] = ()
    mean: float | None = None
    std: float | None = None
    low: float | None = None
    high: float | None = None


def kind_of(type_name: str) -> Literal["number", "time", "text"]:
    """Return the kind of a column, from Arrow's name for its type."""
    if type_name.startswith(("timestamp", "date")):
        return "time"
    return "number" if type_name.startswith(("int", "uint", "float", "double", "half", "decimal")) else "text"


def quoted(name: str) -> str:
    """Quote a column's name for SQL."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """Quote a text for SQL."""
    return "'" + value.replace("'", "''") + "'"


def _cast(name: str, kind: str) -> str:
    if kind == "text":
        return f"{quoted(name)}::varchar"
    # Values that are not numbers (any more), or not finite, count as missing.
    number = f"epoch({quoted(name)})" if kind == "time" else f"try_cast({quoted(name)} as double)"
    return f"case when isfinite({number}) then {number} end"


def _prepared(relation: str, columns: Iterable[Column], by: str) -> str:
    casts = "".join(f", {_cast(each.name, each.kind)} as x{position}" for position, each in enumerate(columns))
    return f"(select {by} as part{casts} from {relation})"


def cut(
    connection: "DuckDBPyConnection", relation: str, kinds: dict[str, Literal["number", "time", "text"]]
) -> list[Column]:
    """Choose the bins of these columns from the rows of a relation."""
    bare = [Column(name=name, kind=kind) for name, kind in kinds.items()]
    probabilities = [step / QUANTILE_BINS for step in range(1, QUANTILE_BINS)]
    selected = [
        f"histogram(x{at})"
        if each.kind == "text"
        else f"[count(distinct x{at})::double, min(x{at}), max(x{at})] || quantile_disc(x{at}, {probabilities})"
        for at, each in enumerate(bare)
    ]
    if not bare:
        return []
    found = _one(connection, f"select {', '.join(selected)} from {_prepared(relation, bare, 'null')}")
    few = {
        at: f"list_sort(list(distinct x{at}) filter (x{at} is not null))"
        for at, (each, got) in enumerate(zip(bare, found, strict=True))
        if each.kind != "text" and got and 0 < got[0] <= FEW_VALUES
    }
    values: dict[int, Any] = {}
    if few:
        row = _one(connection, f"select {', '.join(few.values())} from {_prepared(relation, bare, 'null')}")
        values = dict(zip(few, row, strict=True))
    return [_column(each, got, values.get(at)) for at, (each, got) in enumerate(zip(bare, found, strict=True))]


def _one(connection: "DuckDBPyConnection", sql: str) -> tuple[Any, ...]:
    [row] = connection.execute(sql).fetchall()
    return tuple(row)


def _column(bare: Column, found: Any, values: list[float] | None) -> Column:
    if bare.kind == "text":
        counts: dict[str, int] = found or {}
        by_count = sorted(counts, key=lambda name: (-counts[name], name))
        return bare.model_copy(update={"categories": tuple(by_count) if len(by_count) <= MOST_CATEGORIES else None})
    if not found or not found[0]:
        return bare
    _, low, high, *quantiles = found
    ends: dict[str, Any] = {"low": low, "high": high}
    ends |= {"values": tuple(values)} if values else {"edges": tuple(sorted(set(quantiles)))}
    return bare.model_copy(update=ends)


def summarise(
    connection: "DuckDBPyConnection", relation: str, columns: list[Column], by: str = "'all'"
) -> dict[str, dict[str, Summary]]:
    """Count rows by the bins of these columns, for each value of the expression `by`, in one pass over the relation."""
    measures = [part for at, each in enumerate(columns) for part in _measures(at, each)]
    sql = f"select {', '.join(['part::varchar', 'count(*)', *measures])} from {_prepared(relation, columns, by)}"
    found: dict[str, dict[str, Summary]] = {}
    for part, rows, *row in connection.execute(f"{sql} group by 1 order by 1").fetchall():
        values = iter(row)
        found[part] = {
            each.name: _summary(each, rows, [next(values) for _ in _measures(at, each)])
            for at, each in enumerate(columns)
        }
    return found


def _measures(at: int, column: Column) -> list[str]:
    x = f"x{at}"
    if column.kind == "text":
        return [f"count({x})", f"histogram({x})"]
    if column.values:
        bins = f"histogram_exact({x}, {_list(column.values)})"
    else:
        bins = f"histogram({x}, {_list(column.edges or (0.0,))})"
    low, high = (_number(0.0 if end is None else end) for end in (column.low, column.high))
    return [
        f"count({x})",
        bins,
        f"quantile_disc({x}, {PROBABILITIES})",
        f"[avg({x}), stddev_pop({x}), min({x}), max({x})]",
        f"count(*) filter ({x} not between {low} and {high})",
    ]


def _number(value: float) -> str:
    # With an exponent it is parsed as a double; without, as a decimal, which may differ in the last bit.
    return repr(value) if "e" in repr(value) else f"{value!r}e0"


def _list(values: Iterable[float]) -> str:
    return f"[{', '.join(map(_number, values))}]"


def _summary(column: Column, rows: int, found: list[Any]) -> Summary:
    there, counts = found[0], found[1] or {}
    if column.kind == "text":
        top = (column.categories or ())[:TOP_CATEGORIES]
        bins = [counts.get(name, 0) for name in top]
        known = column.categories
        outside = None if known is None else there - sum(counts.get(name, 0) for name in known)
        return Summary(rows=rows, nulls=rows - there, outside=outside, bins=(*bins, there - sum(bins)))
    _, _, quantiles, (mean, std, low, high), outside = found
    bins = [counts.get(at, 0) for at in column.values or column.edges]
    return Summary(
        rows=rows,
        nulls=rows - there,
        outside=outside if column.low is not None else None,
        bins=(*bins, there - sum(bins)),
        quantiles=tuple(quantiles or ()),
        mean=rounded(mean),
        std=rounded(std),
        low=low,
        high=high,
    )


def rounded(value: float | None) -> float | None:
    """Round to ten digits: the order in which threads add up changes the last ones."""
    return float(f"{value:.10g}") if value is not None and math.isfinite(value) else None
