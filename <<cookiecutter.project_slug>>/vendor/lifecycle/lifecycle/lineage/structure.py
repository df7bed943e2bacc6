"""The SQL of one pipeline result as a graph: sources, seeds and models, and their columns.

Read from reports/sql, which the pipeline keeps: in the work tree, or in any release.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from graphlib import TopologicalSorter
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from ..errors import UserError
from ..releases.record import SQL_FILE, Release
from ..releases.store import Store
from .columns import lineage_of
from .origins import Origin, QueryLineage

Kind = Literal["source", "seed", "model"]
FOLDER = Path(SQL_FILE).parent


@dataclass(frozen=True, order=True)
class Column:
    """A column, with the dbt id of its node."""

    node: str
    name: str


@dataclass(frozen=True)
class Node:
    """A source, seed or model of the dbt project. `name` has the form `schema.table`; `sql` is the compiled SQL."""

    id: str
    kind: Kind
    name: str
    file: str
    file_sha256: str
    relation: str
    reads: tuple[str, ...] = ()
    sql: str = ""
    known_columns: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the compiled SQL; empty for a source or a seed."""
        return sha256(f"{self.sql}\n".encode()).hexdigest() if self.sql else ""

    @property
    def files(self) -> str:
        """The pattern of the files that a source is read from, relative to the project."""
        return self.relation.strip("'").removeprefix("../")


class Structure:
    """The nodes of one version of the SQL, with the lineage computed from them."""

    def __init__(self, manifest: dict[str, Any], texts: Mapping[str, str]) -> None:
        """Args: manifest: nodes.json; texts: the compiled SQL, by file name."""
        found = {name: _node(name, manifest["nodes"], texts) for name in manifest["nodes"]}
        order = TopologicalSorter({name: node.reads for name, node in found.items()})
        self.nodes = {name: found[name] for name in order.static_order()}
        self._read: dict[str, QueryLineage] = {}
        self.dbt = str(manifest["dbt"])
        self.tests: dict[str, dict[str, Any]] = manifest["tests"]

    @cached_property
    def queries(self) -> dict[str, QueryLineage]:
        """The column lineage of every model, by dbt id."""
        return {node.id: self.query(node.id) for node in self.nodes.values() if node.kind == "model"}

    def query(self, model: str) -> QueryLineage:
        """Return the column lineage of one model. Parses only the models that this needs."""
        todo = [model]
        while todo:
            node = self.nodes[todo[-1]]
            needs = [name for name in node.reads if self.nodes[name].kind == "model" and name not in self._read]
            if needs and node.id not in self._read:
                todo += needs
                continue
            if node.id not in self._read:
                reads = tuple((_plain(self.nodes[name]), tuple(self._schema(name))) for name in node.reads)
                self._read[node.id] = _lineage_of(self._named(node), reads)
            todo.pop()
        return self._read[model]

    def _schema(self, node: str) -> Iterator[tuple[str, str]]:
        """Yield name and type of a node's columns, as far as they are known; `*` if there are more."""
        if node not in self._read:
            yield from self.nodes[node].known_columns.items()
            return
        yield from ((name, "") for name in self._read[node].columns)
        if not self._read[node].complete:
            yield "*", ""

    def _named(self, node: Node) -> str:
        """Return the node's SQL with sources named as tables instead of files."""
        sql = node.sql
        for read in (self.nodes[name] for name in node.reads):
            if read.kind == "source":
                sql = sql.replace(read.relation, ".".join(f'"{part}"' for part in _plain(read).split(".")))
        return sql

    @cached_property
    def _by_relation(self) -> dict[str, str]:
        return {_plain(node): node.id for node in self.nodes.values()}

    def columns(self, node: str) -> list[str]:
        """Return the columns of a node, in order."""
        is_model = self.nodes[node].kind == "model"
        return list(self.query(node).columns if is_model else self.nodes[node].known_columns)

    def origins(self, column: Column) -> tuple[set[Column], str]:
        """Return the columns that a column is directly computed from, and what is unknown about them."""
        if self.nodes[column.node].kind != "model":
            return set(), ""
        query = self.query(column.node)
        if query.problem:
            return set(), query.problem
        found = query.columns[column.name]
        return self._resolve(found.direct), found.problem

    def deciders(self, node: str) -> set[Column]:
        """Return the columns that decide which rows a model has: in joins, filters and groups."""
        return self._resolve(self.queries[node].indirect) if node in self.queries else set()

    def _resolve(self, origins: frozenset[Origin]) -> set[Column]:
        return {Column(self._by_relation[each.relation], each.column) for each in origins}

    @cached_property
    def _uses(self) -> dict[Column, set[Column]]:
        """Column -> columns that are computed from it."""
        uses: dict[Column, set[Column]] = defaultdict(set)
        for node in self.queries:
            for name in self.columns(node):
                column = Column(node, name)
                for origin in self.origins(column)[0]:
                    uses[origin].add(column)
        return uses

    def upstream(self, start: Column) -> set[Column]:
        """Return every column that a column is computed from."""
        return _closure({start}, lambda column: self.origins(column)[0]) - {start}

    def downstream(self, *start: Column) -> set[Column]:
        """Return every column that is computed from one of these."""
        return _closure(set(start), lambda column: self._uses.get(column, set())) - set(start)

    def decided_by(self, *start: Column) -> list[str]:
        """Return the models whose rows are filtered by these columns, or by columns computed from them."""
        reached = set(start) | self.downstream(*start)
        return [node for node in self.queries if self.deciders(node) & reached]

    def models_below(self, start: str) -> list[str]:
        """Return the models that read a node, directly or indirectly, in order."""
        reached = {start}
        for node in self.nodes.values():
            if reached & set(node.reads):
                reached.add(node.id)
        return [name for name in self.nodes if name in reached and name != start]

    def untold(self, *start: str) -> dict[str, str]:
        """Return models that read these nodes and whose lineage is incomplete, by name, with the reason."""
        below = {*start, *(name for node in start for name in self.models_below(node))}
        found = {}
        for name in (name for name in self.queries if name in below):
            query = self.queries[name]
            problems = [query.problem, query.indirect_problem, *(each.problem for each in query.columns.values())]
            if any(problems):
                found[self.nodes[name].name] = next(filter(None, problems))
        return found

    def find(self, name: str) -> Node | None:
        """Return the node for a dbt id, a name like `features.orders`, or a table's name if it is unique."""
        for node in self.nodes.values():
            if name in (node.id, node.name):
                return node
        short = [node for node in self.nodes.values() if node.name.split(".")[-1] == name]
        models = [node for node in short if node.kind == "model"]
        return next(iter(models or short), None)

    def find_column(self, name: str) -> Column | None:
        """Return the column that `schema.table.column` or `table.column` names."""
        table, _, column = name.rpartition(".")
        node = self.find(table) if table else None
        return Column(node.id, column) if node and column in self.columns(node.id) else None

    def names(self) -> list[str]:
        """Return the names that a person may type: of nodes and of columns."""
        return [
            name
            for node in self.nodes.values()
            for name in (node.name, *(f"{node.name}.{column}" for column in self.columns(node.id)))
        ]


@cache
def _lineage_of(sql: str, reads: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]) -> QueryLineage:
    """Cache the lineage, so that SQL shared by two versions is parsed once."""
    return lineage_of(sql, {name: dict(columns) for name, columns in reads})


def _closure(start: set[Column], step: Callable[[Column], set[Column]]) -> set[Column]:
    seen, todo = set(start), list(start)
    while todo:
        new = step(todo.pop()) - seen
        seen |= new
        todo += new
    return seen


def _node(name: str, nodes: dict[str, dict[str, Any]], texts: Mapping[str, str]) -> Node:
    entry = nodes[name]
    kind: Kind = name.split(".", 1)[0]  # type: ignore[assignment]
    parts = name.split(".")
    quoted = entry["relation"].replace('"', "").split(".")
    table = ".".join(parts[-2:]) if kind == "source" else ".".join(quoted[-2:])
    return Node(
        id=name,
        kind=kind,
        name=table,
        file=entry["file"],
        file_sha256=entry["sha256"],
        relation=entry["relation"],
        reads=tuple(read for read in entry.get("reads", ()) if read in nodes),
        sql=texts[entry["compiled"]].strip() if "compiled" in entry else "",
        known_columns=entry.get("columns", {}),
    )


def _plain(node: Node) -> str:
    """Return the relation as three dotted names, as in the compiled SQL or in `_named`."""
    return f"source.{node.name}" if node.kind == "source" else node.relation.replace('"', "")


def of_work_tree() -> Structure:
    """Return the SQL as last built here.

    Raises:
        UserError: nothing has been built yet.
    """
    try:
        manifest = json.loads(Path(SQL_FILE).read_text(encoding="utf-8"))
        texts = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.sql")}
        return Structure(manifest, texts)
    except (FileNotFoundError, KeyError):
        raise UserError(f"there is no compiled SQL in {FOLDER}: `run` makes it") from None


def of_release(release: Release, store: Store) -> Structure:
    """Return the SQL of a release, from DVC's cache or remote.

    Raises:
        UserError: it no longer exists.
    """
    outputs = release.outputs(str(FOLDER))
    if wrong := store.fetch(outputs):
        raise UserError(f"the SQL of {release.id} cannot be read: {wrong[0]}")
    texts = {
        Path(file.path).name: store.object_path(file.md5).read_text(encoding="utf-8") for file in store.files(outputs)
    }
    return Structure(json.loads(texts.pop(Path(SQL_FILE).name)), texts)
