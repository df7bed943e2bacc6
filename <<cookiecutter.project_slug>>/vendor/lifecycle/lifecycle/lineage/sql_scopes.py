"""Walk a query's scopes in sqlglot, for `columns.lineage_of`. Slow to import."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from sqlglot import exp
from sqlglot.optimizer.scope import Scope

from .origins import DIALECT, PIVOT, ColumnLineage, Origin, QueryLineage, Schema

STAR = "it comes by * from a relation of unknown columns"
COLUMNS = "COLUMNS(...) chooses columns when the query runs"
STRUCT = "unnest makes a column of each field, if this is a struct"
UNNAMED = "DuckDB chooses its name"


@dataclass(frozen=True)
class _Output:
    """A column of a scope. Without a name, DuckDB chooses one; `many`: it may be several columns."""

    name: str
    lineage: ColumnLineage
    many: bool = False


class Reader:
    """One walk over a query's scopes. Computes the columns of each scope once."""

    def __init__(self, schema: Schema) -> None:
        # SQL compares names without case.
        self._relations = {relation.lower(): relation for relation in schema}
        self._columns = {
            relation.lower(): {column.lower(): column for column in columns} for relation, columns in schema.items()
        }
        self._types = {
            Origin(relation, column): kind for relation, columns in schema.items() for column, kind in columns.items()
        }
        self._scopes: dict[int, Scope] = {}
        self._traversed: set[int] = set()
        self._known: dict[int, tuple[_Output, ...] | None] = {}
        self._again: set[int] = set()

    def read(self, root: Scope) -> QueryLineage:
        """Return the lineage of the query with this scope."""
        scopes = list(root.traverse())
        self._scopes = {id(scope.expression): scope for scope in scopes}
        self._traversed = {id(scope) for scope in scopes}
        tables = [source for scope in scopes for source in scope.sources.values() if isinstance(source, exp.Table)]
        deciders = self._deciders(root)
        outputs = self._outputs(root) or ()
        return QueryLineage(
            {_key(output): output.lineage for output in outputs},
            deciders.direct,
            deciders.problem,
            frozenset({self._relations[name] for table in tables if (name := _name_of(table)) in self._relations}),
            complete=all(output.name and not output.many for output in outputs),
        )

    # The columns of a scope

    def _outputs(self, scope: Scope) -> tuple[_Output, ...] | None:
        """Return the columns of a scope. None for a recursive CTE in progress: referring to itself adds nothing new."""
        scope = self._whole(scope)
        key = id(scope)
        if key in self._known:
            self._again.add(key)
            return self._known[key]
        self._known[key] = None
        while True:
            before = self._known.copy()
            self._again.discard(key)
            found = tuple(self._look(scope))
            recursive = key in self._again and found != before[key]
            if not recursive:
                self._known[key] = found
                return found
            # The result was based on incomplete columns: repeat with the columns known by now.
            self._known = before | {key: found}

    def _whole(self, scope: Scope) -> Scope:
        """Return the whole recursive CTE. Inside it, sqlglot gives only its first branch."""
        union = scope.expression.parent
        while isinstance(union, exp.Subquery):
            union = union.parent
        is_whole = id(scope) in self._traversed or not isinstance(union, exp.SetOperation)
        return scope if is_whole else self._scopes[id(union)]

    def _look(self, scope: Scope) -> Iterable[_Output]:
        expression = scope.expression
        if scope.set_operation_scopes:
            return self._combined(scope)
        if isinstance(expression, exp.Select):
            return _renamed(self._selected(scope))
        if isinstance(expression, exp.Values):
            return self._values(scope)
        if isinstance(expression, exp.UDTF) and scope.subquery_scopes:
            return self._outputs(scope.subquery_scopes[0]) or ()
        if unnest := expression.find(exp.Unnest, exp.Explode):  # LATERAL or not
            made = self._expression(scope, unnest)
            return [_Output(name, made) for name in expression.alias_column_names or ("unnest",)]
        if isinstance(expression, exp.Subquery) and scope.derived_table_scopes:
            return self._outputs(scope.derived_table_scopes[0]) or ()
        return [_Output("", ColumnLineage(problem=f"the columns of {expression.key} cannot be followed"), many=True)]

    def _selected(self, scope: Scope) -> Iterator[_Output]:
        if scope.expression.meta.get("pivoted"):
            yield _Output("", ColumnLineage(expression="*", problem=PIVOT), many=True)
            return
        for position, projection in enumerate(_projections(scope)):
            plain = projection.unalias()
            text = plain.sql(dialect=DIALECT, comments=False) if scope.is_root or scope.is_set_operation else ""
            if problem := _unknown_names(plain):
                yield _Output("", ColumnLineage(expression=text, problem=problem), many=True)
                continue
            found = self._expression(scope, plain)
            many = (inside := _unnested(plain)) is not None and not self._is_list(scope, inside)
            problem = "; ".join(filter(None, (STRUCT if many else "", found.problem)))
            name = "" if projection.alias_or_name == f"_col_{position}" else self._name(scope, projection)
            yield _Output(name, ColumnLineage(found.direct, text, problem), many)

    def _name(self, scope: Scope, projection: exp.Expr) -> str:
        """Return the name of a projection as its author spelled it, here or where the column comes from."""
        alias = projection.args.get("alias")
        name = projection.alias_or_name
        if alias is not None and (spelled := alias.meta.get("spelled")):
            return str(spelled)
        column = projection.unalias().find(exp.Column)
        if column is not None and column.name == name:
            return self._spelled(scope, column)
        return name

    def _spelled(self, scope: Scope, column: exp.Column) -> str:
        source = _source(scope, column.table)
        if source is None:
            return column.name
        if isinstance(source, exp.Table):
            return self._columns.get(_name_of(source), {}).get(column.name, column.name)
        outputs = self._outputs(source) or ()
        return next((output.name for output in outputs if output.name.lower() == column.name), column.name)

    def _is_list(self, scope: Scope, expression: exp.Expr) -> bool:
        """Return whether the value is certainly a list, and not a struct."""
        if not isinstance(expression, exp.Column | exp.Dot):
            return True
        origins = self._expression(scope, expression).direct
        return isinstance(expression, exp.Column) and all(
            self._types.get(origin, "").endswith("]") for origin in origins
        )

    def _values(self, scope: Scope) -> Iterator[_Output]:
        rows = [row.expressions for row in scope.expression.expressions]
        names = scope.expression.alias_column_names or [f"col{position}" for position in range(len(rows[0]))]
        for name, cells in zip(names, zip(*rows, strict=True), strict=False):
            yield _Output(name, self._expression(scope, *cells))

    def _combined(self, scope: Scope) -> list[_Output]:
        """Return a UNION's columns from all branches; INTERSECT's and EXCEPT's from the first: others filter rows."""
        found = [self._outputs(branch) for branch in scope.set_operation_scopes]
        first, *others = [outputs for outputs in found if outputs is not None] or [()]
        if not isinstance(scope.expression, exp.Union):
            return list(first)
        by_place = not scope.expression.args.get("by_name")
        if any(output.many or not (output.name or by_place) for branch in (first, *others) for output in branch):
            # Neither positions nor names determine which columns match.
            return [_Output("", ColumnLineage(expression="*", problem=STAR), many=True)]
        if by_place:
            return [_same(column) for column in zip(first, *others, strict=False)]
        by_name: dict[str, list[_Output]] = {}
        for output in (output for branch in (first, *others) for output in branch):
            by_name.setdefault(output.name.lower(), []).append(output)
        return [_same(column) for column in by_name.values()]

    # Columns that an expression reads

    def _expression(self, scope: Scope, *expressions: exp.Expr) -> ColumnLineage:
        return _together(part for expression in expressions for part in self._parts(scope, expression))

    def _parts(self, scope: Scope, expression: exp.Expr) -> Iterator[ColumnLineage]:
        """Yield everything that an expression names; for a query in it, its columns and those deciding on its rows."""
        for node in _inside(expression):
            if isinstance(node, exp.Query):
                yield from self._nested(node)
            elif isinstance(node, exp.Column):
                yield self._origins(scope, node)
            elif isinstance(node, exp.TableColumn):
                yield self._row(scope, node.name)
            elif isinstance(node, exp.PositionalColumn):
                yield ColumnLineage(problem=f"it is unclear which column {node.sql(dialect=DIALECT)} is")
            elif isinstance(node, exp.Columns):
                yield ColumnLineage(problem=COLUMNS)
            elif isinstance(node, exp.Window) and node.alias:
                yield self._named_window(scope, node.alias)
            elif isinstance(node, exp.Dot) and isinstance(node.expression, exp.Func):
                yield ColumnLineage(problem=f"it is unclear what {node.sql(dialect=DIALECT)} reads")
            elif isinstance(node, exp.Anonymous) and node.name.lower() not in _built_in_functions():
                yield ColumnLineage(problem=f"{node.name} is not a function of DuckDB: a macro may read anything")

    def _nested(self, query: exp.Query) -> Iterator[ColumnLineage]:
        inner = self._scopes.get(id(query.unnest()))
        if inner is None:
            yield ColumnLineage(problem="a query in it cannot be followed")
            return
        if not isinstance(query.parent, exp.Exists):
            yield from (output.lineage for output in self._outputs(inner) or ())
        yield self._deciders(inner, inside=True)

    def _named_window(self, scope: Scope, name: str) -> ColumnLineage:
        windows = scope.expression.args.get("windows") or []
        return _together(self._expression(scope, window) for window in windows if window.name.lower() == name.lower())

    def _origins(self, scope: Scope, column: exp.Column) -> ColumnLineage:
        """Return where a column in an expression of this scope comes from."""
        source = _source(scope, column.table)
        if source is None:
            pivoted = any(table.args.get("pivots") for table in scope.tables)
            told = PIVOT if pivoted else f"it is unclear which relation {column.sql(dialect=DIALECT)} belongs to"
            return ColumnLineage(problem=told)
        if isinstance(source, Scope):
            return self._of_outputs(source, column.name)
        if source.args.get("pivots"):
            return ColumnLineage(problem=PIVOT)
        if isinstance(source.this, exp.Func):
            return self._of_function(scope, source)
        return self._of_relation(source, column.name)

    def _of_relation(self, table: exp.Table, name: str) -> ColumnLineage:
        relation = self._relations.get(_name_of(table))
        if relation is None:
            return ColumnLineage(problem=f"the columns of {_name_of(table)} are not known")
        columns = self._columns[relation.lower()]
        renamed = dict(zip(table.alias_column_names, columns, strict=False))
        if found := columns.get(renamed.get(name, name)):
            return ColumnLineage(frozenset({Origin(relation, found)}))
        if "*" in columns:
            return ColumnLineage(problem=f"the columns of {relation} are not all known")
        return ColumnLineage(problem=f"{relation} has no column {name}")

    def _of_outputs(self, scope: Scope, name: str) -> ColumnLineage:
        outputs = self._outputs(scope)
        if outputs is None:
            return ColumnLineage()
        for output in outputs:
            if output.name.lower() == name:
                return output.lineage
        problems = [output.lineage.problem or UNNAMED for output in outputs if not output.name]
        return ColumnLineage(problem=problems[0] if problems else f"there is no {name}")

    def _of_function(self, scope: Scope, table: exp.Table) -> ColumnLineage:
        """Return a series' bounds as its origins. For any other table function, only DuckDB knows the columns."""
        if isinstance(table.this, exp.GenerateSeries):
            return self._expression(scope, table.this)
        name = table.this.sql(dialect=DIALECT).partition("(")[0].lower()
        return ColumnLineage(problem=f"the columns of {name}(...) are not known")

    def _row(self, scope: Scope, name: str) -> ColumnLineage:
        """Return the lineage of a whole row of a source as one value."""
        source = _source(scope, name)
        if source is None:
            return ColumnLineage(problem=f"it is unclear what {name} is")
        if isinstance(source, Scope):
            return _together(output.lineage for output in self._outputs(source) or ())
        columns = self._columns.get(_name_of(source), {"*": ""})
        if "*" in columns:
            return ColumnLineage(problem=f"the columns of {name} are not known")
        relation = self._relations[_name_of(source)]
        return ColumnLineage(frozenset(Origin(relation, column) for column in columns.values()))

    # Columns that decide on rows

    def _deciders(self, root: Scope, inside: bool = False) -> ColumnLineage:
        """Return the columns that decide which rows a scope has: in it, and in everything it selects from.

        Order matters inside a query, if a list or a LIMIT depends on it. The order of a final result does not.
        """
        seen: dict[int, Scope] = {}
        todo = [root]
        while todo:
            scope = self._whole(todo.pop())
            if id(scope) not in seen:
                seen[id(scope)] = scope
                self._outputs(scope)  # for a recursive CTE, all of it before its branches
                todo += scope.set_operation_scopes or []
                todo += [source for _, source in scope.selected_sources.values() if isinstance(source, Scope)]
                todo += scope.derived_table_scopes
                if isinstance(scope.expression, exp.UDTF):
                    todo += scope.subquery_scopes
        return _together(
            part for scope in seen.values() for part in self._own_deciders(scope, inside or scope is not root)
        )

    def _own_deciders(self, scope: Scope, ordered: bool) -> Iterator[ColumnLineage]:
        expression = scope.expression
        if isinstance(expression, exp.Unnest | exp.Lateral):
            yield from (output.lineage for output in self._outputs(scope) or ())
        compares = isinstance(expression, exp.SetOperation) and (
            expression.args.get("distinct") or not isinstance(expression, exp.Union)
        )
        for branch in scope.set_operation_scopes if compares else ():
            yield from (output.lineage for output in self._outputs(branch) or ())
        if isinstance(expression, exp.Select):
            yield from self._selecting(scope)
        wrappers = [expression]
        while isinstance(wrappers[-1].parent, exp.Subquery):
            wrappers.append(wrappers[-1].parent)
        for each in wrappers:
            if each.args.get("limit"):
                yield self._expression(scope, each.args["limit"])
            if (order := each.args.get("order")) and (ordered or each.args.get("limit") or _chooses(each)):
                yield from self._ordered(scope, order)

    def _selecting(self, scope: Scope) -> Iterator[ColumnLineage]:
        """Yield the columns that decide which rows a SELECT has."""
        args = scope.expression.args
        projections = _projections(scope)
        clauses = [args.get(name) for name in ("where", "group", "having", "qualify")]
        for join in _joins(scope.expression):
            clauses += [join.args.get("on"), *(join.args.get("using") or [])]
        distinct = args.get("distinct")
        if distinct and distinct.args.get("on"):
            clauses.append(distinct.args["on"])
        elif distinct:
            yield from (output.lineage for output in self._outputs(scope) or ())
        yield from (self._expression(scope, clause) for clause in clauses if clause)
        if (group := args.get("group")) and group.args.get("all"):
            grouped = [each for each in projections if not any(isinstance(part, exp.AggFunc) for part in _inside(each))]
            yield from (self._expression(scope, each) for each in grouped)
        for part in (part for each in projections for part in _inside(each)):
            if isinstance(part, exp.Explode | exp.Unnest):
                yield self._expression(scope, part)
        for _, source in scope.selected_sources.values():
            if isinstance(source, exp.Table) and isinstance(source.this, exp.Func):
                yield self._of_function(scope, source)

    def _ordered(self, scope: Scope, order: exp.Order) -> Iterator[ColumnLineage]:
        """Yield the columns that rows are ordered by, where order matters. A result column's name means that column."""
        outputs = self._outputs(scope) or ()
        by_name = {output.name.lower(): output.lineage for output in outputs}
        for each in order.expressions:
            if isinstance(each.this, exp.Var):  # ORDER BY ALL
                yield from by_name.values()
                continue
            inside = [column for column in each.find_all(exp.Column) if not column.table and column.name in by_name]
            yield from (by_name[column.name] for column in inside)
            if not inside:
                yield self._expression(scope, each.this)


def _projections(scope: Scope) -> list[exp.Expr]:
    return scope.expression.selects if isinstance(scope.expression, exp.Select) else []


def _joins(select: exp.Expr) -> Iterator[exp.Expr]:
    """Yield the joins of a SELECT, including those in parentheses."""
    todo = [select.args.get("from_"), *(select.args.get("joins") or [])]
    while todo:
        each = todo.pop()
        if isinstance(each, exp.Join):
            yield each
        table = each.this if each else None
        while isinstance(table, exp.Table | exp.Subquery):
            todo += table.args.get("joins") or []
            table = table.this


def _source(scope: Scope, name: str) -> exp.Table | Scope | None:
    """Resolve the qualifier of a column: a source of this query or, if it is correlated, of an outer query."""
    at: Scope | None = scope
    while at is not None:
        if name in at.selected_sources:
            return at.selected_sources[name][1]
        at = at.parent
    return scope.sources.get(name)


def _same(outputs: Sequence[_Output]) -> _Output:
    """Combine the columns of a union's branches into one, with the first one's name."""
    together = _together(output.lineage for output in outputs)
    return _Output(outputs[0].name, ColumnLineage(together.direct, outputs[0].lineage.expression, together.problem))


def _key(output: _Output) -> str:
    return output.name or output.lineage.expression or "*"


def _renamed(outputs: Iterable[_Output]) -> Iterator[_Output]:
    """Rename columns as DuckDB does: the second column with a name gets `_1`."""
    seen: set[str] = set()
    for output in outputs:
        name, number = output.name, 0
        while name and name.lower() in seen:
            number += 1
            name = f"{output.name}_{number}"
        seen.add(name.lower())
        yield _Output(name, output.lineage, output.many)


def _unknown_names(projection: exp.Expr) -> str:
    """Return why a projection yields several columns with unknown names, or an empty string."""
    for node in _inside(projection):
        if isinstance(node, exp.Columns) and not node.args.get("unpack"):
            return COLUMNS
        if isinstance(node, exp.Star | exp.Column) and node.is_star and not isinstance(node.parent, exp.Count):
            return STAR
    return ""


def _inside(expression: exp.Expr) -> Iterator[exp.Expr]:
    """Yield the parts of an expression, without the insides of its queries and columns."""
    return expression.walk(prune=lambda each: isinstance(each, exp.Query | exp.Column))


def _unnested(projection: exp.Expr) -> exp.Expr | None:
    if isinstance(projection, exp.Explode):
        return projection.this  # type: ignore[no-any-return]
    return projection.expressions[0] if isinstance(projection, exp.Unnest) else None


def _chooses(query: exp.Expr) -> bool:
    """Return whether a query has DISTINCT ON, which takes the first row of each group in the requested order."""
    distinct = query.args.get("distinct")
    return bool(distinct and distinct.args.get("on"))


def _name_of(table: exp.Table) -> str:
    return ".".join(part.name for part in table.parts).lower()


@cache
def _built_in_functions() -> frozenset[str]:
    """Return DuckDB's functions that sqlglot does not know."""
    import duckdb

    with duckdb.connect() as database:
        return frozenset(
            name for (name,) in database.execute("select function_name from duckdb_functions()").fetchall()
        )


def _together(found: Iterable[ColumnLineage]) -> ColumnLineage:
    direct: set[Origin] = set()
    problems: set[str] = set()
    for each in found:
        direct |= each.direct
        if each.problem:
            problems |= set(each.problem.split("; "))
    return ColumnLineage(frozenset(direct), problem="; ".join(sorted(problems)))
