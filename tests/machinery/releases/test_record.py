"""The record: what its id depends on and what not, and that each number in it is that of a file."""

import copy
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lifecycle.errors import UserError
from lifecycle.releases import git
from lifecycle.releases import ledger as book
from lifecycle.releases.pipeline import flat
from lifecycle.releases.record import (
    GATES_FILE,
    METRICS_FILE,
    Release,
    canonical,
    content_digest,
    read_release,
    same_predictions,
)
from lifecycle.releases.store import both_digests
from lifecycle.testing import Releases, cli_json, copy_project, digests, own

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
documents = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=20
)


def reversed_keys(value: Any) -> Any:
    """Equal, and written in another order."""
    if isinstance(value, dict):
        return {key: reversed_keys(value[key]) for key in reversed(value)}
    return [reversed_keys(each) for each in value] if isinstance(value, list) else value


@given(documents)
def test_equal_values_give_equal_bytes_and_nothing_is_lost(value: Any) -> None:
    assert canonical(reversed_keys(value)) == canonical(value)
    assert json.loads(canonical(value)) == value
    assert canonical(json.loads(json.dumps(value))) == canonical(value)


@given(st.dictionaries(st.text(), documents, max_size=5), documents)
def test_the_id_is_that_of_all_but_what_was_observed(predicate: dict[str, Any], observed: Any) -> None:
    predicate = {key: value for key, value in predicate.items() if key != "observed"}
    plain = Release({"_type": "x", "predicate": predicate | {"observed": None}})
    assert Release({"predicate": predicate | {"observed": observed}, "_type": "x"}).id == plain.id
    assert Release({"_type": "y", "predicate": predicate | {"observed": observed}}).id != plain.id
    assert Release({"_type": "x", "predicate": predicate | {"more": 1, "observed": observed}}).id != plain.id
    assert read_release(plain.to_bytes(), plain.id) == plain
    assert plain.id == f"r-{plain.digest[:12]}"


# A real one


@pytest.fixture(scope="module")
def record(two_releases: Releases) -> Release:
    """Of the release that the project's work tree holds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(two_releases.folder)
        return book.load().release(two_releases.second)


def test_the_id_depends_on_every_value_that_is_hashed(record: Release) -> None:
    assert {path for path, _, _ in leaves(record.statement)} > {
        ("_type",),
        ("predicate", "materials", "git", "tree"),
        ("predicate", "materials", "environment", "lock"),
        ("predicate", "materials", "dvc", "lock"),
        ("predicate", "materials", "raw", 0, "sha256"),
        ("predicate", "materials", "features", 0, "content"),
        ("predicate", "materials", "sql", "nodes", 0, "sha256"),
        ("predicate", "model", "probe", "predictions", 0),
        ("subject", 0, "digest", "sha256"),
    }
    changed = copy.deepcopy(record.statement)
    for path, holder, key in leaves(changed):
        value = holder[key]
        holder[key] = f"{value} and more"
        assert (Release(changed).id == record.id) == (path[:2] == ("predicate", "observed")), path
        holder[key] = value
    assert Release(changed).id == record.id


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any, Any]]:
    """Every value that holds no others: its path, what holds it, and its key there."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(inner, dict | list) and inner:
            yield from leaves(inner, (*path, key))
        else:
            yield (*path, key), value, key


def test_an_altered_record_is_not_read(record: Release) -> None:
    statement = copy.deepcopy(record.statement)
    statement["predicate"]["evidence"]["metrics"]["more"] = 1.0
    with pytest.raises(UserError, match=f"record of {record.id} in the ledger is altered"):
        read_release(Release(statement).to_bytes(), record.id)
    for damaged in (b"", b"[]", b"{}", b"\xff", b"null"):
        with pytest.raises(UserError, match="not readable"):
            read_release(damaged, record.id)


def test_the_record_is_an_in_toto_statement(record: Release) -> None:
    statement = record.statement
    assert statement.keys() == {"_type", "subject", "predicateType", "predicate"}
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert ":" in statement["predicateType"]
    assert statement["subject"]
    for subject in statement["subject"]:
        assert subject.keys() == {"name", "digest"}
        assert len(bytes.fromhex(subject["digest"]["sha256"])) == 32
    assert {each["name"]: each["digest"]["sha256"] for each in statement["subject"]} == record.model["files"]


def test_every_number_is_that_of_the_file_it_came_from(
    record: Release, two_releases: Releases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(two_releases.folder)
    assert record.evidence["metrics"] == json.loads(Path(METRICS_FILE).read_text(encoding="utf-8"))
    assert record.evidence["gates"] == json.loads(Path(GATES_FILE).read_text(encoding="utf-8"))
    assert record.materials["params"] == yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    assert record.materials["git"]["tree"] == git.project_tree(record.commit)
    for name, part in (("requirements.lock", "environment"), ("dvc.lock", "dvc")):
        assert record.materials[part]["lock"] == hashlib.sha256(Path(name).read_bytes()).hexdigest()
    assert dict(flat(record.evidence["metrics"]))


def test_raw_data_and_features_are_those_on_the_disk(
    record: Release, two_releases: Releases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(two_releases.folder)
    pipeline = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))
    tables = [each["path"] for each in pipeline["artifacts"].values() if each["type"] == "dataset"]
    raw = record.materials["raw"]
    outputs = {Path(output.path) for output in record.outputs("data")}
    files = digests(*outputs)
    assert {each["path"]: each["sha256"] for each in raw} == {
        path: digest for path, digest in files.items() if path not in tables
    }
    for each in raw:
        path = Path(each["path"])
        assert (each["md5"], each["sha256"]) == both_digests(path)
        assert each["size"] == path.stat().st_size
        if path.suffix == ".parquet":
            assert each["rows"] == pq.read_table(path).num_rows
    assert [each["path"] for each in record.materials["features"]] == tables
    for each in record.materials["features"]:
        table = pq.read_table(each["path"])
        assert each["sha256"] == files[each["path"]]
        assert each["rows"] == table.num_rows
        assert each["columns"] == {field.name: str(field.type) for field in table.schema}
        assert each["content"] == content_digest(table)


def test_the_probe_is_what_the_model_says(
    record: Release, two_releases: Releases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(two_releases.folder)
    loaded = own("model").load(Path(record.model["path"]))
    features, probe = record.model["features"], record.model["probe"]
    assert sorted(features) == sorted(feature.name for feature in loaded.features)
    table = pq.read_table(record.model["feature_table"], columns=list(features))
    rows = table.to_pylist()
    assert all(row in rows for row in probe["rows"])
    assert len(probe["rows"]) > 1
    predicted = loaded.predict(pa.Table.from_pylist(probe["rows"], schema=table.schema)).tolist()
    assert same_predictions(probe["predictions"], predicted)
    assert len({str(each) for each in predicted}) > 1, "a probe that tells nothing apart proves nothing"


def test_two_machines_that_build_the_same_release_the_same(
    two_releases: Releases, finished: Path, tmp_path: Path
) -> None:
    """Other folder, person and time: the original was released from another copy of the same project."""
    folder = tmp_path / "another machine"
    copy_project(finished, folder)
    who = {f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER") for what, value in SOMEBODY_ELSE.items()}
    made = cli_json("release", folder=folder, **who)
    assert (made["release"], made["new"]) == (two_releases.first, True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(two_releases.folder)
        one = book.load().release(two_releases.first)
        patch.chdir(folder)
        other = book.load().release(two_releases.first)
        entries = book.load().entries()
        again = cli_json("release", folder=folder)
        assert (again["release"], again["new"]) == (two_releases.first, False)
        assert book.load().entries() == entries
    assert other.digest == one.digest
    assert other.observed["by"] != one.observed["by"]
    assert other.commit != one.commit
    assert {key: value for key, value in other.statement["predicate"].items() if key != "observed"} == {
        key: value for key, value in one.statement["predicate"].items() if key != "observed"
    }


SOMEBODY_ELSE = {"NAME": "Somebody Else", "EMAIL": "else@example.org", "DATE": "2001-01-01T00:00:00Z"}


# Content of tables

COLUMNS: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "whole": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "float": (pa.float64(), st.floats(allow_nan=True)),
    "text": (pa.string(), st.text(max_size=5)),
    "flag": (pa.bool_(), st.booleans()),
    "time": (pa.timestamp("us", "UTC"), st.datetimes().map(lambda time: time.replace(year=2000 + time.year % 100))),
}


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    rows = draw(st.integers(1, 6))
    columns = {
        name: pa.array(draw(st.lists(st.none() | values, min_size=rows, max_size=rows)), kind)
        for name, (kind, values) in COLUMNS.items()
    }
    return pa.table(columns)


@given(table=tables(), group=st.integers(1, 3), compression=st.sampled_from(["none", "snappy", "zstd"]))
def test_the_content_of_a_table_is_the_same_however_it_is_encoded(
    table: pa.Table, group: int, compression: str
) -> None:
    file = pa.BufferOutputStream()
    pq.write_table(table, file, row_group_size=group, compression=compression, use_dictionary=group == 1)
    assert content_digest(pq.read_table(pa.BufferReader(file.getvalue()))) == content_digest(table)
    chunked = pa.concat_tables([table.slice(0, group), table.slice(group)])
    assert content_digest(chunked) == content_digest(table)


def exact(column: pa.ChunkedArray) -> list[str]:
    """The values, with null and NaN apart. Both zeros are one value."""
    return [repr(value + 0.0 if isinstance(value, float) else value) for value in column.to_pylist()]


@given(one=tables(), other=tables())
def test_other_values_give_another_digest(one: pa.Table, other: pa.Table) -> None:
    for name in one.column_names:
        changed = one.set_column(one.column_names.index(name), name, _as_long(other[name], one.num_rows))
        same = exact(changed[name]) == exact(one[name])
        assert (content_digest(changed) == content_digest(one)) == same, name


def _as_long(column: pa.ChunkedArray, rows: int) -> pa.ChunkedArray:
    return pa.chunked_array([column.take([row % len(column) for row in range(rows)]).combine_chunks()])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pa.array([1, 2]), pa.array([2, 1])),
        (pa.array([1, 2]), pa.array([1, 2], pa.int32())),
        (pa.array([1, 2]), pa.array([1.0, 2.0])),
        (pa.array([1.0, None]), pa.array([1.0, float("nan")])),
        (pa.array([1.0, None]), pa.array([None, 1.0])),
        (pa.array([2**53, None]), pa.array([2**53 + 1, None])),
        (pa.array([0, None]), pa.array([None, 0])),
        (pa.array(["a", "b"]), pa.array(["ab", ""])),
        (pa.array(["1", None]), pa.array(["1", "None"])),
        (pa.array(["1", None]), pa.array(["1", "nan"])),
        (pa.array([True, None]), pa.array([True, False])),
        (pa.array([1]), pa.array([1, 1])),
    ],
    ids=lambda array: str(array.to_pylist()),
)
def test_what_only_looks_alike_is_told_apart(one: pa.Array, other: pa.Array) -> None:
    assert content_digest(pa.table({"x": one})) != content_digest(pa.table({"x": other}))


def test_names_and_order_of_columns_count() -> None:
    table = pa.table({"x": [1, 2], "y": [3, 4]})
    seen = {
        content_digest(each)
        for each in (
            table,
            table.select(["y", "x"]),
            table.rename_columns(["x", "z"]),
            table.rename_columns(["y", "x"]),
            table.drop_columns(["y"]),
        )
    }
    assert len(seen) == 5


@pytest.mark.parametrize(
    ("expected", "actual", "same"),
    [
        ([0.5], [0.5 + 1e-15], True),
        ([0.5], [0.5 + 1e-6], False),
        ([1e6], [1e6 + 1e-4], True),
        ([1e6], [1e6 + 1], False),
        ([0.0], [1e-13], True),
        ([0.0], [1e-6], False),
        ([[0.25, 0.75]], [[0.25, 0.75 + 1e-15]], True),
        ([[0.25, 0.75]], [[0.25, 0.7]], False),
        ([[0.25, 0.75]], [[0.25]], False),
        ([0.5], [0.5, 0.5], False),
        ([0.5, 0.5], [0.5], False),
        ([], [], True),
        ([float("nan")], [float("nan")], True),
        ([float("nan")], [0.5], False),
        ([0.5], [float("inf")], False),
        (["late"], ["late"], True),
        (["late"], ["early"], False),
        ([0.5], ["0.5"], False),
        ([0.5], [None], False),
    ],
)
def test_predictions_are_the_same_within_the_last_bits(expected: list[Any], actual: list[Any], same: bool) -> None:
    assert same_predictions(expected, actual) is same
