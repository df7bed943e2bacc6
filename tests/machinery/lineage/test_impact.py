"""`impact`: from bytes, SQL, code and parameters to the features, releases and channels that they reached."""

from pathlib import Path

import pytest

from lifecycle.errors import UserError
from lifecycle.lineage import structure
from lifecycle.lineage.fact_tree import Fact
from lifecycle.lineage.impact import Reach
from lifecycle.lineage.structure import Column, Structure
from lifecycle.lineage.trace import served
from lifecycle.releases import git
from lifecycle.releases import ledger as book
from lifecycle.releases.store import Store
from lifecycle.testing import FEWER_LEAVES, LEAVES, Releases

import synthetic


@pytest.fixture
def reach(releases: Releases) -> Reach:
    return Reach(book.load(), Store())


@pytest.fixture
def sql(releases: Releases) -> Structure:
    return structure.of_release(book.load().release(releases.first), Store())


def reached(found: Fact) -> list[str]:
    return [branch.name for branch in found.below]


def features(found: Fact) -> list[str]:
    """The features that a branch for a release names."""
    return next((fact.data["features"] for fact in found.below if fact.kind == "features"), [])


def features_from(sql: Structure, release_id: str, *columns: Column) -> list[str]:
    """By the definition: those of which one of the columns is somewhere upstream."""
    release = book.load().release(release_id)
    table = sql.find(Path(release.model["feature_table"]).stem)
    assert table is not None
    return [name for name in release.model["features"] if sql.upstream(Column(table.id, name)) & set(columns)]


def test_a_raw_file_a_month_and_a_source_reach_the_same(releases: Releases, reach: Reach, sql: Structure) -> None:
    file = next(
        each for each in book.load().release(releases.first).materials["raw"] if synthetic.MONTHS[0] in each["path"]
    )
    source = next(node for node in sql.nodes.values() if node.kind == "source" and Path(file["path"]).match(node.files))
    columns = [Column(source.id, name) for name in sql.columns(source.id)]
    expected = features_from(sql, releases.first, *columns)
    assert expected
    for what in (file["path"], source.name, source.id):
        found = reach.impact(what)
        assert sorted(reached(found)) == sorted((releases.first, releases.second))
        assert [features(branch) for branch in found.below] == [expected, expected], what
    assert file["sha256"][:12] in reach.impact(file["path"]).below[0].text
    month = reach.impact(synthetic.MONTHS[0])
    assert set(features(month.below[0])) >= set(expected)
    assert file["path"] in month.below[0].text


def test_every_source_column_reaches_the_features_that_are_computed_from_it_and_no_others(
    releases: Releases, reach: Reach, sql: Structure
) -> None:
    for node in sql.nodes.values():
        if node.kind in ("source", "seed"):
            for name in sql.columns(node.id):
                found = reach.impact(f"{node.name}.{name}").below[0]
                assert features(found) == features_from(sql, releases.first, Column(node.id, name)), name


def test_what_only_decides_on_rows_is_named_too(reach: Reach, sql: Structure) -> None:
    deciding = {column for node in sql.queries for column in sql.deciders(node)}
    column = next((each for each in deciding if sql.nodes[each.node].kind == "source"), None)
    if column is None:  # no join, no filter, no grouping by a raw column in this project
        sources = [node for node in sql.nodes.values() if node.kind == "source"]
        reached = [reach.impact(f"{node.name}.{name}").below[0] for node in sources for name in sql.columns(node.id)]
        assert not [fact for found in reached for fact in found.below if fact.kind == "rows"]
        return
    found = reach.impact(f"{sql.nodes[column.node].name}.{column.name}").below[0]
    (rows,) = (fact for fact in found.below if fact.kind == "rows")
    assert rows.data["models"] == [sql.nodes[node].name for node in sql.decided_by(column)]


def test_a_model_is_known_by_its_name_and_by_its_file(reach: Reach, sql: Structure) -> None:
    node = next(node for node in sql.nodes.values() if node.kind == "model")
    by_file, by_name = reach.impact(node.file), reach.impact(node.name)
    assert by_file.below == by_name.below
    assert node.digest[:12] in by_name.below[0].text


def test_a_parameter_shows_the_value_each_release_had(releases: Releases, reach: Reach) -> None:
    found = reach.impact("train.num_leaves")
    values = {branch.name: branch.text.rsplit(" ", 1)[1] for branch in found.below}
    assert values == {releases.first: str(LEAVES), releases.second: str(FEWER_LEAVES)}


def test_a_commit_reaches_the_releases_that_hold_it(releases: Releases, reach: Reach) -> None:
    first = book.load().release(releases.first).commit
    assert sorted(reached(reach.impact(first))) == sorted((releases.first, releases.second))
    assert reached(reach.impact(book.load().release(releases.second).commit[:10])) == [releases.second]
    git.git("commit", "--quiet", "--allow-empty", "-m", "Not released")
    assert "no release" in reach.impact("HEAD").text


def test_channels_are_named_with_the_time_they_served_it(releases: Releases, reach: Reach) -> None:
    found = reach.impact(synthetic.MONTHS[0])
    times = [
        (branch.name, fact.name, fact.data["since"], fact.data["until"])
        for branch in found.below
        for fact in branch.below
        if fact.kind == "served"
    ]
    expected = [(each.release, each.channel, each.since, each.until) for each in served(book.load())]
    assert sorted(times, key=str) == sorted(expected, key=str)
    assert len(times) == 3
    assert found.text == "reached 2 of 2 releases, served 3 times"


def test_what_is_not_known_is_one_line_with_the_nearest(reach: Reach) -> None:
    with pytest.raises(
        UserError, match=r"^train\.num_leafs has reached no release .*: the nearest is train\.num_leaves$"
    ):
        reach.impact("train.num_leafs")
    with pytest.raises(UserError, match="has reached no release"):
        reach.impact("1999-01")
