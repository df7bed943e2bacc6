"""The graph over releases: everything is in it once, and connected as it came about."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from lifecycle.lineage import structure
from lifecycle.lineage.graph import KINDS, Graph, of_releases
from lifecycle.lineage.structure import Node
from lifecycle.releases import git
from lifecycle.releases import ledger as book
from lifecycle.releases.record import Release
from lifecycle.releases.store import Store
from lifecycle.testing import Releases

from graphs import reached


def graph_of(*ids: str) -> Graph:
    ledger = book.load()
    return of_releases(ledger.read_releases(ids), ledger, Store())


def sources_of(release: Release) -> list[Node]:
    """The sources and seeds that a release's model reads, by its SQL alone."""
    sql = structure.of_release(release, Store())
    table = sql.find(Path(release.model["feature_table"]).stem)
    assert table is not None
    above = [node for node in sql.nodes.values() if table.id in sql.models_below(node.id)]
    return [node for node in above if node.kind != "model"]


def labels(graph: Graph, kind: str, ids: Iterable[str] | None = None) -> set[str]:
    nodes = graph.nodes if ids is None else ids
    return {graph.nodes[each].label for each in nodes if graph.nodes[each].kind == kind}


def test_everything_a_release_is_made_of_is_behind_it(releases: Releases) -> None:
    graph = graph_of(releases.first, releases.second)
    release = book.load().release(releases.first)
    behind = reached(graph, f"release:{release.id}", [release.id], back=True)
    materials = release.materials
    assert labels(graph, "file", behind) <= labels(graph, "file") == {file["path"] for file in materials["raw"]}
    assert labels(graph, "source", behind) == {node.name for node in sources_of(release)}
    assert labels(graph, "features", behind) == {table["path"] for table in materials["features"]}
    models = {node.facts["file"] for node in graph.nodes.values() if node.kind == "model"}
    assert models == {node["file"] for node in materials["sql"]["nodes"]}
    columns = {graph.nodes[each].label.rsplit(".", 1)[1] for each in behind if graph.nodes[each].kind == "column"}
    assert columns == set(materials["features"][0]["columns"])
    (run,) = (graph.nodes[each] for each in behind if graph.nodes[each].kind == "run")
    assert run.facts["params"] == materials["params"]
    assert run.facts["gates"] == release.evidence["gates"]
    (version,) = (graph.nodes[each] for each in behind if graph.nodes[each].kind == "version")
    assert version.facts["run_id"] == release.observed["mlflow"]["run_id"]


def test_approvals_and_channels_come_after_the_release_that_they_are_of(releases: Releases) -> None:
    graph = graph_of(releases.first, releases.second)
    after = reached(graph, f"release:{releases.first}", [releases.first], back=False)
    assert labels(graph, "channel", after) == {"staging generation 1", "production generation 1"}
    after = reached(graph, f"release:{releases.second}", [releases.second], back=False)
    assert labels(graph, "channel", after) == {"staging generation 2"}
    assert len(labels(graph, "approval", after)) == 1
    production = graph.nodes["channel:production generation 1"]
    assert production.facts["until"] is None
    assert graph.nodes["channel:staging generation 1"].facts["until"] is not None


def test_what_releases_share_is_one_node_and_what_differs_is_two(releases: Releases) -> None:
    graph = graph_of(releases.first, releases.second)
    both = [releases.first, releases.second]
    for node in graph.nodes.values():
        if node.kind in ("file", "source", "model", "column", "features"):
            assert node.releases == both, node.id
        elif node.kind in ("run", "trained", "version", "release", "channel"):
            assert len(node.releases) == 1, node.id
    for kind in ("run", "trained", "version", "release"):
        assert len([node for node in graph.nodes.values() if node.kind == kind]) == 2


def test_edges_have_two_ends_and_go_from_left_to_right(releases: Releases) -> None:
    graph = graph_of(releases.first, releases.second)
    for before, after in graph.edges:
        left, right = graph.nodes[before], graph.nodes[after]
        assert KINDS.index(left.kind) <= KINDS.index(right.kind), (before, after)
        assert set(left.releases) & set(right.releases), (before, after)


def test_equal_releases_give_an_equal_graph_and_their_order_gives_no_other_nodes(releases: Releases) -> None:
    graph = graph_of(releases.first, releases.second)
    assert graph_of(releases.first, releases.second).as_dict() == graph.as_dict()
    turned = graph_of(releases.second, releases.first)
    assert (turned.nodes.keys(), turned.edges.keys()) == (graph.nodes.keys(), graph.edges.keys())


def test_more_releases_ask_git_no_more_often(releases: Releases, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    run = git._run
    monkeypatch.setattr(git, "_run", lambda *args, **more: calls.append(args) or run(*args, **more))
    graph_of(releases.first)
    once = len(calls)
    graph_of(releases.first, releases.second)
    assert 0 < len(calls) == 2 * once
