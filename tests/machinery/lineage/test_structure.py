"""The SQL as a graph: of a small project of three sources, a seed and six models, written here."""

from typing import Any

import pytest

from lifecycle.errors import UserError
from lifecycle.lineage import structure
from lifecycle.lineage.structure import Column, Structure

SQL = {
    "stg_trips": "select id, minutes, far / 1000 as km, at from '../data/raw/trips/*.parquet' where id is not null",
    "stg_cars": "with c as (select * from '../data/raw/cars.parquet') select id as car, seats from c",
    "names": 'select car, colour from "scratch"."raw"."colours"',
    "wide": (
        "select t.id, t.minutes / t.km as pace, c.seats, count(*) over () as n"
        ' from "scratch"."staging"."stg_trips" as t'
        ' join "scratch"."staging"."stg_cars" as c on c.car = t.id'
        ' join "scratch"."staging"."names" as s on s.car = c.car'
    ),
    "by_colour": 'from (pivot "scratch"."staging"."names" on colour using count(*))',
    "last": 'select b.red, w.pace from "scratch"."staging"."by_colour" as b, "scratch"."features"."wide" as w',
}
READS = {
    "stg_trips": ["source.p.raw.trips"],
    "stg_cars": ["source.p.raw.cars"],
    "names": ["seed.p.colours"],
    "wide": ["model.p.stg_trips", "model.p.stg_cars", "model.p.names"],
    "by_colour": ["model.p.names"],
    "last": ["model.p.by_colour", "model.p.wide"],
}


def project(**changed: str) -> Structure:
    nodes: dict[str, Any] = {
        "seed.p.colours": {
            "file": "seeds/colours.csv",
            "sha256": "1",
            "relation": '"scratch"."raw"."colours"',
            "columns": {"car": "BIGINT", "colour": "VARCHAR"},
        },
        "source.p.raw.trips": {
            "file": "models/sources.yml",
            "sha256": "2",
            "relation": "'../data/raw/trips/*.parquet'",
            "columns": {"id": "BIGINT", "minutes": "BIGINT", "far": "BIGINT", "at": "TIMESTAMP"},
        },
        "source.p.raw.cars": {
            "file": "models/sources.yml",
            "sha256": "2",
            "relation": "'../data/raw/cars.parquet'",
            "columns": {"id": "BIGINT", "seats": "BIGINT"},
        },
    }
    for name in sorted(SQL):
        schema = "staging" if name in ("stg_trips", "stg_cars", "names", "by_colour") else "features"
        nodes[f"model.p.{name}"] = {
            "file": f"models/{name}.sql",
            "sha256": "3",
            "relation": f'"scratch"."{schema}"."{name}"',
            "compiled": f"{name}.sql",
            "reads": READS[name],
        }
    texts = {f"{name}.sql": f"{sql}\n" for name, sql in (SQL | changed).items()}
    return Structure({"dbt": "1", "nodes": nodes, "tests": {}}, texts)


def column(sql: Structure, name: str) -> Column:
    found = sql.find_column(name)
    assert found is not None, name
    return found


def named(sql: Structure, columns: set[Column]) -> set[str]:
    return {f"{sql.nodes[each.node].name}.{each.name}" for each in columns}


def test_what_is_read_stands_before_what_reads_it() -> None:
    sql = project()
    order = list(sql.nodes)
    assert all(order.index(read) < order.index(node.id) for node in sql.nodes.values() for read in node.reads)


def test_columns_are_followed_through_files_ctes_and_models_to_the_sources() -> None:
    sql = project()
    assert sql.columns("model.p.wide") == ["id", "pace", "seats", "n"]
    assert named(sql, sql.origins(column(sql, "wide.pace"))[0]) == {"staging.stg_trips.minutes", "staging.stg_trips.km"}
    assert named(sql, sql.upstream(column(sql, "wide.pace"))) == {
        *("staging.stg_trips.minutes", "staging.stg_trips.km"),
        *("raw.trips.minutes", "raw.trips.far"),
    }
    assert named(sql, sql.upstream(column(sql, "features.wide.seats"))) == {"staging.stg_cars.seats", "raw.cars.seats"}
    assert sql.upstream(column(sql, "wide.n")) == set()


def test_downstream_is_upstream_the_other_way() -> None:
    sql = project()
    columns = [Column(node, name) for node in sql.nodes for name in sql.columns(node)]
    for start in columns:
        assert sql.downstream(start) == {each for each in columns if start in sql.upstream(each)}
    both = sql.downstream(column(sql, "raw.trips.far"), column(sql, "raw.cars.seats"))
    assert named(sql, both) == {
        *("staging.stg_trips.km", "features.wide.pace", "features.last.pace"),
        *("staging.stg_cars.seats", "features.wide.seats"),
    }


def test_what_only_decides_on_rows_is_known_as_that() -> None:
    sql = project()
    assert sql.decided_by(column(sql, "raw.trips.id")) == ["model.p.stg_trips", "model.p.wide"]
    assert sql.decided_by(column(sql, "raw.cars.id")) == ["model.p.wide"]
    assert sql.decided_by(column(sql, "raw.trips.far")) == []
    assert column(sql, "features.wide.n") not in sql.downstream(column(sql, "raw.trips.id"))


def test_models_below_a_node_stand_in_order() -> None:
    sql = project()
    assert sql.models_below("source.p.raw.trips") == ["model.p.stg_trips", "model.p.wide", "model.p.last"]
    assert sql.models_below("model.p.last") == []


def test_what_cannot_be_told_is_said_for_the_model_and_for_what_reads_it() -> None:
    sql = project()
    origins, problem = sql.origins(Column("model.p.last", "red"))
    assert (origins, problem) == (set(), "the columns of scratch.staging.by_colour are not all known")
    assert named(sql, sql.origins(Column("model.p.last", "pace"))[0]) == {"features.wide.pace"}
    assert sql.untold("seed.p.colours").keys() == {"staging.by_colour", "features.last"}
    assert sql.untold("source.p.raw.trips").keys() == {"features.last"}
    broken = project(stg_cars="select from")
    assert "cannot be read" in broken.untold("source.p.raw.cars")["staging.stg_cars"]
    assert broken.origins(column(broken, "wide.seats"))[1] != ""
    assert broken.origins(column(broken, "wide.pace"))[1] == ""


def test_a_changed_model_changes_what_reads_it() -> None:
    before, after = (
        project(),
        project(stg_trips="select id, far as minutes, 1 as km from '../data/raw/trips/*.parquet'"),
    )
    pace = column(after, "wide.pace")
    assert named(after, after.upstream(pace)) - named(after, {pace}) == {
        *("staging.stg_trips.minutes", "staging.stg_trips.km", "raw.trips.far"),
    }
    assert before.nodes["model.p.stg_trips"].digest != after.nodes["model.p.stg_trips"].digest
    assert before.nodes["model.p.wide"].digest == after.nodes["model.p.wide"].digest


def test_names_as_people_type_them() -> None:
    sql = project()
    for typed in ("model.p.wide", "features.wide", "wide"):
        assert sql.find(typed) is sql.nodes["model.p.wide"]
    assert sql.find("colours") is sql.nodes["seed.p.colours"]
    assert sql.find("nothing") is None
    assert sql.find_column("wide.nothing") is None
    assert sql.find_column("wide") is None
    assert sql.nodes["source.p.raw.trips"].files == "data/raw/trips/*.parquet"
    assert {"raw.trips", "raw.trips.at", "features.wide", "features.wide.pace"} <= set(sql.names())


def test_without_a_build_the_next_command_is_named(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="`run` makes it"):
        structure.of_work_tree()
