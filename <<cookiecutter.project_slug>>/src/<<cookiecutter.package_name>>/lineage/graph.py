"""One graph over releases, for the page and for tools: files, sources, models, columns, runs, releases, channels.

A node's id holds the digest of its content, so what two releases share is one node, and what differs is two.
"""

import fnmatch
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..lifecycle import approvals
from ..lifecycle.ledger import Ledger
from ..lifecycle.record import Release, canonical
from ..lifecycle.store import Store
from . import structure
from .structure import FOLDER, Column, Structure
from .trace import served

Kind = Literal[
    "file", "source", "model", "column", "features", "run", "trained", "version", "release", "approval", "channel"
]
# From left to right.
KINDS: tuple[Kind, ...] = (
    "file", "source", "model", "column", "features", "run", "trained", "version", "release", "approval", "channel",
)  # fmt: skip


@dataclass
class Node:
    """Something that has a lineage. `releases` are those that it is a part of."""

    id: str
    kind: Kind
    label: str
    facts: dict[str, Any] = field(default_factory=dict)
    releases: list[str] = field(default_factory=list)


class Graph:
    """Nodes by id, and edges from what was first to what came of it."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.edges: dict[tuple[str, str], None] = {}
        self._structures: dict[str, Structure] = {}

    def as_dict(self) -> dict[str, Any]:
        """For JSON: equal graphs give equal text."""
        return {"nodes": [vars(self.nodes[name]) for name in sorted(self.nodes)], "edges": sorted(self.edges)}

    def _node(self, release: str, kind: Kind, name: str, version: str, **facts: Any) -> str:
        """See that a node is there and belongs to the release; returns its id."""
        node_id = f"{kind}:{name}@{version[:12]}" if version else f"{kind}:{name}"
        node = self.nodes.setdefault(node_id, Node(node_id, kind, name, facts))
        if release not in node.releases:
            node.releases.append(release)
        return node_id

    def _edges(self, before: Iterable[str], after: str) -> None:
        for each in before:
            self.edges[(each, after)] = None

    def add(self, release: Release, ledger: Ledger, store: Store) -> None:
        """Add everything that a release is made of, and what became of it."""
        (output,) = release.outputs(str(FOLDER))
        if output.md5 not in self._structures:
            self._structures[output.md5] = structure.of_release(release, store)
        features = self._add_sql(release, self._structures[output.md5])
        self._add_training(release, features)
        self._add_channels(release, ledger)

    def _add_sql(self, release: Release, sql: Structure) -> list[str]:
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
            if node.kind == "source":
                files = [file for file in release.materials["raw"] if fnmatch.fnmatch(file["path"], node.files)]
                self._edges((self._file(release, file) for file in files), ids[node.id])
        tables = []
        for table in release.materials["features"]:
            facts = {"rows": table["rows"], "sha256": table["sha256"]}
            tables.append(self._node(release.id, "features", table["path"], table["sha256"], **facts))
            if made_by := sql.find(Path(table["path"]).stem):
                self._edges(self._columns(release, sql, made_by.id, ids), tables[-1])
        return tables

    def _file(self, release: Release, file: dict[str, Any]) -> str:
        return self._node(release.id, "file", file["path"], file["sha256"], **{k: file[k] for k in file if k != "path"})

    def _columns(self, release: Release, sql: Structure, table: str, ids: dict[str, str]) -> list[str]:
        """A node for each column of a feature table, below the model that makes it."""
        made = []
        node = sql.nodes[table]
        for name in sql.columns(table):
            column = Column(table, name)
            origins, problem = sql.origins(column)
            above = sorted(f"{sql.nodes[each.node].name}.{each.name}" for each in sql.upstream(column))
            facts = {
                "expression": sql.queries[table].columns[name].expression,
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

    def _add_channels(self, release: Release, ledger: Ledger) -> None:
        release_node = f"release:{release.id}"
        approved = []
        for each in approvals.count(ledger, release):
            facts = {"at": each.approval.at, "own": each.approval.own, "signed": each.signed, "problem": each.problem}
            approved.append(self._node(release.id, "approval", each.approval.by, release.digest, **facts))
            self._edges([release_node], approved[-1])
        for at in served(ledger):
            if at.release == release.id:
                facts = {"since": at.since, "until": at.until, "by": at.entry.by, "reason": at.entry.reason}
                label = f"{at.channel} generation {at.generation}"
                channel = self._node(release.id, "channel", label, "", operation=at.entry.kind, **facts)
                used = approved if at.entry.evidence.get("approvals") else []
                self._edges([release_node, *used], channel)


def of_releases(releases: Iterable[Release], ledger: Ledger, store: Store) -> Graph:
    """The graph of some releases."""
    graph = Graph()
    for release in releases:
        graph.add(release, ledger, store)
    return graph
