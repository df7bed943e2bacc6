"""Lineage graphs made up for tests: no pipeline, no release."""

import random
from collections.abc import Iterable
from typing import Any

from lifecycle.lineage.graph import KINDS, Graph, Kind, Node

A, B = "r-aaaaaaaaaaaa", "r-bbbbbbbbbbbb"


def add(graph: Graph, kind: Kind, name: str, *releases: str, after: Iterable[str] = (), **facts: Any) -> str:
    """Add a node that comes from others; returns its id."""
    node = Node(f"{kind}:{name}", kind, name.split("@")[0], facts, list(releases))
    graph.nodes[node.id] = node
    for before in after:
        graph.edges[(before, node.id)] = None
    return node.id


def two_releases() -> Graph:
    """One file, the trained model and what follows differ between A and B; a file and the SQL are shared."""
    graph = Graph()
    june_a = add(graph, "file", "data/june.parquet@1", A, sha256="1" * 64, rows=29327)
    june_b = add(graph, "file", "data/june.parquet@2", B, sha256="2" * 64, rows=29328)
    may = add(graph, "file", "data/may.parquet", A, B)
    add(graph, "file", "data/unused.parquet", A, B)
    trips = add(graph, "source", "raw.trips", A, B, after=[june_a, june_b, may])
    staged = add(graph, "model", "staging.trips", A, B, after=[trips], sql="select *\nfrom raw.trips\nwhere a < b")
    wide = add(graph, "model", "features.wide", A, B, after=[staged], sql="select 1")
    add(graph, "column", "features.wide.unused", A, B, after=[wide])
    late = add(graph, "column", "features.wide.late", A, B, after=[wide, staged], is_feature=True)
    for version, release, channel in (("1", A, "staging"), ("2", B, "production")):
        table = add(graph, "features", f"data/wide.parquet@{version}", release, after=[late])
        params = {"train": {"leaves": 31, "rate": 0.05}}
        gates = [{"name": "roc_auc", "threshold": {"min": 0.6}, "value": 0.71, "pass": True}]
        run = add(graph, "run", f"model {version}", release, after=[table], params=params, gates=gates)
        at = f"2026-01-0{version}T00:00:00+00:00"
        made = add(graph, "release", release, release, after=[run], at=at)
        add(graph, "channel", f"{channel} generation 1", release, after=[made], since=at, until=None)
    return graph


def many(nodes: int, edges: int) -> Graph:
    """A large graph of four releases in the proportions of a real one."""
    chance = random.Random(1)
    graph = Graph()
    ids = []
    shares: dict[Kind, float] = {"file": 0.3, "source": 0.02, "model": 0.3, "column": 0.3}
    for kind in KINDS[:-1]:
        for number in range(int(nodes * shares.get(kind, 0.01))):
            of = [f"r-{release:012x}" for release in range(4) if chance.random() < 0.8] or ["r-000000000000"]
            ids.append(add(graph, kind, f"schema.{kind}_{number}@{number:012x}", *of, sql="select 1", rows=number))
    while len(ids) < nodes:
        ids.append(add(graph, "channel", f"production generation {len(ids)}", "r-000000000000"))
    while len(graph.edges) < edges:
        start = chance.randrange(nodes - 1)
        end = min(nodes - 1, start + 1 + int(chance.expovariate(1 / 400)))
        if set(graph.nodes[ids[start]].releases) & set(graph.nodes[ids[end]].releases):
            graph.edges[(ids[start], ids[end])] = None
    return graph


def reached(graph: Graph, start: str, releases: Iterable[str], back: bool) -> set[str]:
    """What a node came from (`back`) or led to, by the definition: along the edges of one release at a time."""
    found = set()
    for release in releases:
        inside = {name for name, node in graph.nodes.items() if release in node.releases}
        steps = [(b, a) if back else (a, b) for a, b in graph.edges if {a, b} <= inside]
        seen = {start} & inside
        while new := {b for a, b in steps if a in seen} - seen:
            seen |= new
        found |= seen
    return found - {start}
