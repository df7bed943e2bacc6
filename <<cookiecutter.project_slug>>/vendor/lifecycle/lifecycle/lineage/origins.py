"""What can be told of the columns of a query: their origins, direct and indirect."""

from collections.abc import Mapping
from dataclasses import dataclass, field

DIALECT = "duckdb"
# relation -> column -> type; a relation is named as the compiled SQL names it, without quotes. A column `*` says that
# there are more columns than are told.
Schema = Mapping[str, Mapping[str, str]]

PIVOT = "PIVOT makes columns out of values"


@dataclass(frozen=True, order=True)
class Origin:
    """A column of a relation that a query reads."""

    relation: str
    column: str


@dataclass(frozen=True)
class ColumnLineage:
    """Where one column of a query comes from. `problem` says why that cannot be told, or not all of it."""

    direct: frozenset[Origin] = frozenset()
    expression: str = ""
    problem: str = ""


@dataclass(frozen=True)
class QueryLineage:
    """Where the columns of a query come from, and which columns decide on its rows.

    Not `complete`: it has columns whose names are not told; in `columns` they stand as they are written.
    """

    columns: dict[str, ColumnLineage] = field(default_factory=dict)
    indirect: frozenset[Origin] = frozenset()
    indirect_problem: str = ""
    relations: frozenset[str] = frozenset()
    problem: str = ""
    complete: bool = True
