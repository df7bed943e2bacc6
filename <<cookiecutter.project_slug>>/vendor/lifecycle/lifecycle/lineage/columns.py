"""Find out which columns a query's columns come from, by walking sqlglot's scopes of the compiled SQL.

A column has *direct* origins, whose values it holds or is computed from. A query has *indirect* ones, which decide
which rows it has: in joins, filters, groups, DISTINCT, LIMIT's order, unnested lists. If the SQL does not determine
the origins, the result says so instead of guessing.
"""

from typing import TYPE_CHECKING

from .origins import DIALECT, PIVOT, QueryLineage, Schema

if TYPE_CHECKING:
    from sqlglot import exp


def lineage_of(sql: str, schema: Schema) -> QueryLineage:
    """Return the origins of every column of a query.

    Args:
        sql: one SELECT, optionally with CTEs, subqueries and unions.
        schema: the columns of the relations that it reads.
    """
    from sqlglot import exp, parse
    from sqlglot.errors import ParseError, SqlglotError
    from sqlglot.optimizer.qualify import qualify
    from sqlglot.optimizer.scope import build_scope

    from .sql_scopes import Reader

    try:
        queries = parse(sql, dialect=DIALECT)
        if len(queries) != 1 or not isinstance(query := queries[0], exp.Query):
            pivot = any(query and query.find(exp.Pivot) for query in queries)
            return _cannot_tell(PIVOT if pivot else "it is not a single SELECT")
        _mark(query)
        query = qualify(
            query,
            schema=_nested(schema),
            dialect=DIALECT,
            validate_qualify_columns=False,
            quote_identifiers=False,
        )
        scope = build_scope(query)
    except ParseError as error:
        said = str(error.errors[0]["description"] if error.errors else error)
        return _cannot_tell(f"the SQL cannot be read: {said.split(' but got <Token')[0]}")
    except (SqlglotError, RecursionError) as error:
        return _cannot_tell(f"the SQL cannot be read: {' '.join(str(error).split())[:200]}")
    if scope is None:
        return _cannot_tell("it is not a single SELECT")
    return Reader(schema).read(scope)


def _cannot_tell(problem: str) -> QueryLineage:
    return QueryLineage(problem=problem, indirect_problem=problem, complete=False)


def _mark(query: "exp.Query") -> None:
    """Keep what `qualify` drops: the original spelling of names, and where * stands for a PIVOT's columns."""
    from sqlglot import exp

    for identifier in query.find_all(exp.Identifier):
        identifier.meta["spelled"] = identifier.this
    for select in query.find_all(exp.Select):
        tables = [select.args.get("from_"), *(select.args.get("joins") or [])]
        pivoted = any(table and table.find(exp.Pivot) for table in tables)
        select.meta["pivoted"] = pivoted and any(each.is_star for each in select.selects)


def _nested(schema: Schema) -> dict[str, object]:
    """Convert `a.b.c` to {"a": {"b": {"c": columns}}}, as sqlglot needs it. All names have equally many parts."""
    nested: dict[str, object] = {}
    for relation, columns in schema.items():
        if "*" in columns:
            continue
        at = nested
        *parents, last = relation.split(".")
        for name in parents:
            at = at.setdefault(name, {})  # type: ignore[assignment]
        at[last] = dict(columns)
    return nested
