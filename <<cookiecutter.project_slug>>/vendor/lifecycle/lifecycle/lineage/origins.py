"""Data types for the origins of a query's columns, direct and indirect."""

from collections.abc import Mapping
from dataclasses import dataclass, field

DIALECT = "duckdb"
# relation -> column -> type. A relation is named as in the compiled SQL, without quotes. A column `*` means that there
# are more columns than are listed.
Schema = Mapping[str, Mapping[str, str]]

PIVOT = "PIVOT makes columns out of values"


@dataclass(frozen=True, order=True)
class Origin:
    """A column of a relation that a query reads."""

    relation: str
    column: str


@dataclass(frozen=True)
class ColumnLineage:
    """Where one column of a query comes from. `problem`: why that cannot be determined, or not completely."""

    direct: frozenset[Origin] = frozenset()
    expression: str = ""
    problem: str = ""


@dataclass(frozen=True)
class QueryLineage:
    """Where the columns of a query come from, and which columns decide on its rows.

    Not `complete`: some columns have unknown names; `columns` lists them as they are written in the SQL.
    """

    columns: dict[str, ColumnLineage] = field(default_factory=dict)
    indirect: frozenset[Origin] = frozenset()
    indirect_problem: str = ""
    relations: frozenset[str] = frozenset()
    problem: str = ""
    complete: bool = True
