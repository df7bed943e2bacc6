"""One graph over releases, for the page and tools: files, sources, models, columns, runs, releases, channels.

A node's id contains the digest of its content, so two releases share a node exactly if its content is equal.
"""

import fnmatch
import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..releases import approving
from ..releases.approvals import Counted
from ..releases.ledger import Ledger
from ..releases.record import Release, canonical
from ..releases.store import Store
from . import structure
from .structure import FOLDER, Column, Structure
from .trace import Served, served

Kind = Literal[
    "file", "source", "model", "column", "features", "run", "trained", "version", "release", "approval", "channel"
]
# From left to right.
KINDS: tuple[Kind, ...] = (
    "file", "source", "model", "column", "features", "run", "trained", "version", "release", "approval", "channel",
)  # fmt: skip


@dataclass
class Node:
    """Anything that has a lineage. `releases`: the releases that it is a part of."""

    id: str
    kind: Kind
    label: str
    facts: dict[str, Any] = field(default_factory=dict)
    releases: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Sql:
    """A version of the SQL in the graph: its nodes' ids by dbt id, file sources, and columns of tables."""

    structure: Structure
    ids: dict[str, str]
    sources: dict[str, list[str]] = field(default_factory=dict)
    columns: dict[str, list[str]] = field(default_factory=dict)


class Graph:
    """Nodes by id, and edges from input to result."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.edges: dict[tuple[str, str], None] = {}
        self._sql: dict[str, _Sql] = {}

    def as_dict(self) -> dict[str, Any]:
        """Return the graph for JSON. Equal graphs give equal text."""
        return {"nodes": [vars(self.nodes[name]) for name in sorted(self.nodes)], "edges": sorted(self.edges)}

    def _node(self, release: str, kind: Kind, name: str, version: str, **facts: Any) -> str:
        """Add a node if it is missing, and assign it to the release. Return its id."""
        node_id = f"{kind}:{name}@{version[:12]}" if version else f"{kind}:{name}"
        self.nodes.setdefault(node_id, Node(node_id, kind, name, facts))
        self._belongs(release, node_id)
        return node_id

    def _belongs(self, release: str, node_id: str) -> None:
        """Assign a node to a release. Releases are added one by one, so only the last entry can be this one already."""
        releases = self.nodes[node_id].releases
        if releases[-1:] != [release]:
            releases.append(release)

    def _edges(self, before: Iterable[str], after: str) -> None:
        for each in before:
            self.edges[(each, after)] = None

    def add(self, release: Release, approved: list[Counted], served: list[Served], store: Store) -> None:
        """Add everything that a release is made of, and where it was served."""
        (output,) = release.outputs(str(FOLDER))
        if output.md5 not in self._sql:
            found = structure.of_release(release, store)
            self._sql[output.md5] = _Sql(found, self._add_sql(release, found))
        sql = self._sql[output.md5]
        for node_id in sql.ids.values():
            self._belongs(release.id, node_id)
        self._add_files(release, sql)
        self._add_training(release, self._add_features(release, sql))
        self._add_channels(release, approved, served)

    def _add_sql(self, release: Release, sql: Structure) -> dict[str, str]:
        """Add the nodes of the SQL. Return their ids in the graph."""
        ids: dict[str, str] = {}
        for node in sql.nodes.values():
            facts: dict[str, Any] = {"file": node.file}
            if node.kind == "model":
                version = node.digest
                facts |= {"sql": node.sql, "sha256": version}
            else:
                version = node.file_sha256
                facts |= {"columns": list(node.known_columns)}
            kind: Kind = "model" if node.kind == "model" else "source"
            ids[node.id] = self._node(release.id, kind, node.name, version, **facts)
            self._edges((ids[name] for name in node.reads), ids[node.id])
        return ids

    def _add_files(self, release: Release, sql: _Sql) -> None:
        sources = [node for node in sql.structure.nodes.values() if node.kind == "source"]
        for file in release.materials["raw"]:
            path = file["path"]
            if path not in sql.sources:
                sql.sources[path] = [sql.ids[node.id] for node in sources if fnmatch.fnmatch(path, node.files)]
            if sql.sources[path]:
                node = self._file(release, file)
                for source in sql.sources[path]:
                    self._edges([node], source)

    def _add_features(self, release: Release, sql: _Sql) -> list[str]:
        """Add the feature tables and their columns. Return the tables' ids."""
        tables = []
        for table in release.materials["features"]:
            facts = {"rows": table["rows"], "sha256": table["sha256"]}
            tables.append(self._node(release.id, "features", table["path"], table["sha256"], **facts))
            if made_by := sql.structure.find(Path(table["path"]).stem):
                if made_by.id not in sql.columns:
                    sql.columns[made_by.id] = self._columns(release, sql.structure, made_by.id, sql.ids)
                for column in sql.columns[made_by.id]:
                    self._belongs(release.id, column)
                self._edges(sql.columns[made_by.id], tables[-1])
        return tables

    def _file(self, release: Release, file: dict[str, Any]) -> str:
        return self._node(release.id, "file", file["path"], file["sha256"], **{k: file[k] for k in file if k != "path"})

    def _columns(self, release: Release, sql: Structure, table: str, ids: dict[str, str]) -> list[str]:
        """Add a node for each column of a feature table, below the model that makes it."""
        made = []
        node = sql.nodes[table]
        for name in sql.columns(table):
            column = Column(table, name)
            origins, problem = sql.origins(column)
            above = sorted(f"{sql.nodes[each.node].name}.{each.name}" for each in sql.upstream(column))
            facts = {
                "expression": sql.query(table).columns[name].expression,
                "from": above,
                "is_feature": name in release.model["features"],
            }
            if problem:
                facts["cannot_tell"] = problem
            version = hashlib.sha256(canonical([node.digest, above])).hexdigest()
            made.append(self._node(release.id, "column", f"{node.name}.{name}", version, **facts))
            self._edges([ids[table], *(ids[origin.node] for origin in origins)], made[-1])
        return made

    def _add_training(self, release: Release, features: list[str]) -> None:
        materials, evidence = release.materials, release.evidence
        digest = release.result_digest
        name = release.model["name"]
        run = self._node(
            release.id,
            "run",
            f"{name} {digest[:8]}",
            digest,
            params=materials["params"],
            metrics=evidence["metrics"],
            gates=evidence["gates"],
            commit=release.commit,
            lock=materials["environment"]["lock"],
        )
        self._edges(features, run)
        content = hashlib.sha256(canonical(release.model["files"])).hexdigest()
        trained = self._node(release.id, "trained", name, content, files=release.model["files"])
        self._edges([run], trained)
        last = [trained]
        if tracked := release.observed.get("mlflow"):
            label = f"{tracked['model_name']} version {tracked['version']}"
            last = [self._node(release.id, "version", label, "", run_id=tracked["run_id"])]
            self._edges([trained], last[0])
        facts = {"digest": release.digest, "by": release.observed["by"], "at": release.observed["at"]}
        self._edges(last, self._node(release.id, "release", release.id, "", commit=release.commit, **facts))

    def _add_channels(self, release: Release, approvals: list[Counted], served: list[Served]) -> None:
        release_node = f"release:{release.id}"
        approved = []
        for each in approvals:
            facts = {"at": each.approval.at, "own": each.approval.own, "signed": each.signed, "problem": each.problem}
            approved.append(self._node(release.id, "approval", each.approval.by, release.digest, **facts))
            self._edges([release_node], approved[-1])
        for at in served:
            facts = {"since": at.since, "until": at.until, "by": at.entry.by, "reason": at.entry.reason}
            label = f"{at.channel} generation {at.generation}"
            channel = self._node(release.id, "channel", label, "", operation=at.entry.kind, **facts)
            used = approved if at.entry.evidence.get("approvals") else []
            self._edges([release_node, *used], channel)


def of_releases(releases: Iterable[Release], ledger: Ledger, store: Store) -> Graph:
    """Return the graph of these releases."""
    releases = list(releases)
    approved = approving.count_all(ledger, releases)
    channels: dict[str, list[Served]] = defaultdict(list)
    for each in served(ledger):
        channels[each.release].append(each)
    graph = Graph()
    for release in releases:
        graph.add(release, approved[release.id], channels[release.id], store)
    return graph
