"""Which columns a query's columns come from, read out of the compiled SQL by sqlglot's scopes.

A column has *direct* origins, whose values it holds or is computed from, and *indirect* ones, that decide which rows
there are: join conditions, filters, groups. Where the SQL does not tell, that is said, and nothing is guessed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlglot import exp
    from sqlglot.optimizer.scope import Scope

DIALECT = "duckdb"
# relation -> column -> type; a relation is named as the compiled SQL names it, without quotes.
Schema = Mapping[str, Mapping[str, str]]


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
    """Where the columns of a query come from, and which columns decide on its rows."""

    columns: dict[str, ColumnLineage] = field(default_factory=dict)
    indirect: frozenset[Origin] = frozenset()
    relations: frozenset[str] = frozenset()
    problem: str = ""


def lineage_of(sql: str, schema: Schema) -> QueryLineage:
    """The origins of every column of a query.

    Args:
        sql: one SELECT, with CTEs, subqueries and unions as may be.
        schema: the columns of the relations that it reads.
    """
    from sqlglot import exp, parse_one
    from sqlglot.errors import SqlglotError
    from sqlglot.optimizer.qualify import qualify
    from sqlglot.optimizer.scope import build_scope

    try:
        query = qualify(
            parse_one(sql, dialect=DIALECT),
            schema=_nested(schema),
            dialect=DIALECT,
            validate_qualify_columns=False,
            quote_identifiers=False,
        )
        scope = build_scope(query)
    except (SqlglotError, RecursionError) as error:
        return QueryLineage(problem=f"the SQL cannot be read: {' '.join(str(error).split())[:200]}")
    if scope is None or not isinstance(query, exp.Query):
        return QueryLineage(problem="it is no SELECT")
    return _Reader(schema).read(scope)


def _nested(schema: Schema) -> dict[str, object]:
    """`a.b.c` -> {"a": {"b": {"c": columns}}}, as sqlglot wants it. All names have as many parts."""
    nested: dict[str, object] = {}
    for relation, columns in schema.items():
        at = nested
        *parents, last = relation.split(".")
        for name in parents:
            at = at.setdefault(name, {})  # type: ignore[assignment]
        at[last] = dict(columns)
    return nested


class _Reader:
    """One walk over a query's scopes. Each column of each scope is looked at once."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._known: dict[tuple[int, str], ColumnLineage] = {}

    def read(self, scope: "Scope") -> QueryLineage:
        names = _names(scope)
        indirect: set[Origin] = set()
        relations: set[str] = set()
        for each in scope.traverse():
            relations |= {_name_of(source) for source in each.sources.values() if _is_table(source)}
            for column in _deciding(each):
                indirect |= self._origins(each, column).direct
        columns = {name: self._column(scope, name) for name in names}
        return QueryLineage(columns, frozenset(indirect), frozenset(relations & self._schema.keys()))

    def _column(self, scope: "Scope", name: str) -> ColumnLineage:
        """The lineage of an output column of a scope."""
        key = (id(scope), name)
        if key not in self._known:
            self._known[key] = ColumnLineage()  # a recursive CTE finds nothing new in itself
            self._known[key] = self._look(scope, name)
        return self._known[key]

    def _look(self, scope: "Scope", name: str) -> ColumnLineage:
        from sqlglot import exp

        if scope.set_operation_scopes:
            names = _names(scope)
            if name not in names:
                return ColumnLineage(problem=f"{name} is not a column of the union")
            position = names.index(name)
            return _together(
                self._column(branch, _names(branch)[position])
                for branch in scope.set_operation_scopes
                if position < len(_names(branch))
            )
        if not isinstance(scope.expression, exp.Select):
            return ColumnLineage(problem=f"{name} is made by {scope.expression.key}, whose columns cannot be followed")
        projection = next((each for each in scope.expression.selects if each.alias_or_name == name), None)
        if projection is None:
            star = any(each.is_star for each in scope.expression.selects)
            return ColumnLineage(
                problem="it comes by * from a relation of unknown columns" if star else f"there is no {name}"
            )
        return self._expression(scope, projection)

    def _expression(self, scope: "Scope", expression: "exp.Expr") -> ColumnLineage:
        from sqlglot import exp

        if expression.is_star:
            return ColumnLineage(problem="it comes by * from a relation of unknown columns")
        if expression.find(exp.Columns):
            return ColumnLineage(problem="COLUMNS(...) chooses columns when the query runs")
        plain = expression.unalias()
        inside = {id(column): each for each in scope.subquery_scopes for column in each.columns}
        found = [self._origins(inside.get(id(column), scope), column) for column in expression.find_all(exp.Column)]
        together = _together(iter(found))
        return ColumnLineage(together.direct, plain.sql(dialect=DIALECT, comments=False), together.problem)

    def _origins(self, scope: "Scope", column: "exp.Column") -> ColumnLineage:
        """Where a column that an expression of this scope names comes from."""
        source = scope.sources.get(column.table)
        if source is None and scope.parent is not None:  # a correlated subquery names a column of the query around it
            return self._origins(scope.parent, column)
        if source is None:
            return ColumnLineage(problem=f"it is not told which relation {column.sql(dialect=DIALECT)} belongs to")
        if not _is_table(source):
            return self._column(source, column.name)  # type: ignore[arg-type]
        relation = _name_of(source)
        if relation not in self._schema:
            return ColumnLineage(problem=f"the columns of {relation or 'a table function'} are not known")
        if column.name not in self._schema[relation]:
            return ColumnLineage(problem=f"{relation} has no column {column.name}")
        return ColumnLineage(frozenset({Origin(relation, column.name)}))


def _names(scope: "Scope") -> list[str]:
    return list(getattr(scope.expression, "named_selects", ()))


def _is_table(source: object) -> bool:
    from sqlglot import exp

    return isinstance(source, exp.Table)


def _name_of(source: object) -> str:
    return ".".join(part.name for part in source.parts) if _is_table(source) else ""  # type: ignore[attr-defined]


def _deciding(scope: "Scope") -> Iterator["exp.Column"]:
    """Columns of joins, filters and groups: they decide which rows a scope has."""
    from sqlglot import exp

    expression = scope.expression
    clauses = [expression.args.get(name) for name in ("where", "group", "having", "qualify", "distinct")]
    clauses += [join.args.get("on") for join in expression.args.get("joins") or []]
    for clause in clauses:
        if isinstance(clause, exp.Expression):
            yield from (column for column in clause.find_all(exp.Column))
    for join in expression.args.get("joins") or []:
        yield from (column for name in join.args.get("using") or [] for column in name.find_all(exp.Column))


def _together(found: Iterator[ColumnLineage]) -> ColumnLineage:
    direct: set[Origin] = set()
    problems: list[str] = []
    for each in found:
        direct |= each.direct
        if each.problem and each.problem not in problems:
            problems.append(each.problem)
    return ColumnLineage(frozenset(direct), problem="; ".join(problems))
