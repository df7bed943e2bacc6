"""`trace`: from a release, channel, file, model or column up to bytes, SQL, code, parameters and people."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lifecycle.commands import lineage, maintenance
from lifecycle.commands.status import project_status
from lifecycle.errors import UserError
from lifecycle.lineage import structure
from lifecycle.lineage.fact_tree import Fact
from lifecycle.lineage.trace import Tracer, served, serving_at
from lifecycle.releases import ledger as book
from lifecycle.releases import pipeline
from lifecycle.releases.ledger import Ledger
from lifecycle.releases.record import Release
from lifecycle.releases.store import Store, file_md5
from lifecycle.testing import (
    Releases,
    cli,
    cli_json,
    edit_params,
    new_repository,
    with_own_settings,
)

import ledgers


def trace(what: str, verify: bool = False) -> Fact:
    return Tracer(book.load(), Store(), verify).trace(what)


def every(fact: Fact, *kinds: str) -> Iterator[Fact]:
    """The facts of a tree, of these kinds."""
    if not kinds or fact.kind in kinds:
        yield fact
    for each in fact.below:
        yield from every(each, *kinds)


def record(release_id: str) -> Release:
    return book.load().release(release_id)


def files_behind(release: Release) -> set[str]:
    """The raw files that the feature table is made of, by the SQL alone."""
    sql = structure.of_release(release, Store())
    table = sql.find(Path(release.model["feature_table"]).stem)
    assert table is not None
    sources = [node for node in sql.nodes.values() if node.kind == "source" and table.id in sql.models_below(node.id)]
    raw = [file["path"] for file in release.materials["raw"]]
    return {path for path in raw for node in sources if Path(path).match(node.files)}


# A release


def test_a_release_is_traced_to_all_that_its_record_names(releases: Releases) -> None:
    found, release = trace(releases.first), record(releases.first)
    materials = release.materials
    assert found.data["digest"] == release.digest
    raw = {each.name: each.data["sha256"] for each in every(found, "file")}
    digests = {file["path"]: file["sha256"] for file in materials["raw"]}
    assert raw == {path: digests[path] for path in files_behind(release)}
    sql = {each.data["file"]: each.data["sql"] for each in every(found, "model") if "sql" in each.data}
    assert sql.items() <= {node["file"]: node["sha256"] for node in materials["sql"]["nodes"]}.items()
    assert len(sql) > 1
    (table,) = every(found, "features")
    assert (table.name, table.data["sha256"]) == (materials["features"][0]["path"], materials["features"][0]["sha256"])
    (model,) = (each for each in every(found, "model") if "files" in each.data)
    assert model.data["files"] == release.model["files"]
    (commit,) = every(found, "commit")
    assert (commit.data["commit"], commit.data["tree"]) == (release.commit, materials["git"]["tree"])
    (params,) = every(found, "parameters")
    assert params.data["params"] == materials["params"]
    (gates,) = every(found, "gates")
    assert gates.data["gates"] == release.evidence["gates"]
    (tracked,) = every(found, "mlflow")
    assert tracked.data["run_id"] == release.observed["mlflow"]["run_id"]
    (environment,) = every(found, "environment")
    assert environment.data["sha256"] == materials["environment"]["lock"]
    (approval,) = every(found, "approval")
    assert approval.name == release.observed["by"]
    assert [(each.name, each.data["until"] is None) for each in every(found, "served")] == [
        ("staging", False),
        ("production", True),
    ]
    assert list(found.problems()) == []


def test_a_release_is_known_by_the_start_of_its_id(releases: Releases) -> None:
    assert trace(releases.second[:8]) == trace(releases.second)


def test_a_release_is_traced_as_it_was_whatever_the_work_tree_is_now(releases: Releases) -> None:
    before = trace(releases.first)
    edit_sql()
    shutil.rmtree("data")
    shutil.rmtree("reports")
    assert trace(releases.first) == before
    assert trace(releases.first, verify=True) == before


def test_without_mlflow_and_prefect_a_trace_says_all_that_it_said(releases: Releases) -> None:
    before = cli_json("trace", "production", "--verify")
    for path in Path().glob("mlflow.db*"):
        path.unlink()
    shutil.rmtree("mlartifacts", ignore_errors=True)
    shutil.rmtree(".prefect", ignore_errors=True)
    assert cli_json("trace", "production", "--verify") == before
    assert len(list(every(trace(releases.first), "mlflow"))) == 1


def test_verify_hashes_again_and_names_what_does_not_match(releases: Releases) -> None:
    assert list(trace(releases.first, verify=True).problems()) == []
    release, store = record(releases.first), Store()
    raw, model = min(files_behind(release)), next(iter(release.model["files"]))
    for path in (raw, model):
        spoil(next(store.object_path(file.md5) for file in store.files(release.outputs()) if file.path == path))
    found = trace(releases.first, verify=True)
    assert sorted(found.problems()) == [
        f"file {raw}: it is altered",
        f"model {release.model['name']}: {model}: it is altered",
    ]
    assert list(trace(releases.first).problems()) == [], "not asked, not hashed"


def test_verify_looks_at_the_folder_that_serves(releases: Releases) -> None:
    name = next(iter(record(releases.first).model["files"]))
    spoil(Path(".lifecycle/releases", releases.first, name))
    (problem,) = trace(releases.first, verify=True).problems()
    assert f".lifecycle/releases/{releases.first}/{name} is altered" in problem


# A channel, over time


def test_a_channel_is_traced_to_what_it_serves_and_who_decided_that(releases: Releases) -> None:
    found = trace("production")
    assert [each.kind for each in found.below] == ["decision", "release"]
    assert found.below[1] == trace(releases.first)
    assert "promote" in found.below[0].name
    assert record(releases.first).observed["by"] in found.below[0].text


@pytest.fixture
def history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """Production served good from May 1, bad from May 3 noon, good again from May 5."""
    with_own_settings(new_repository(tmp_path / "repository"), monkeypatch)
    good, bad = ledgers.record("good"), ledgers.record("bad")
    for each in (good, bad):
        ledgers.release(book.load(), each)
    ledgers.promote(book.load(), good.id, "production", at="2020-05-01T00:00:00+00:00")
    ledgers.promote(book.load(), bad.id, "staging", at="2020-05-02T00:00:00+00:00")
    ledgers.promote(book.load(), bad.id, "production", at="2020-05-03T12:00:00+00:00")
    return ledgers.rollback(book.load(), "production", good.id, at="2020-05-05T00:00:00+00:00")


@pytest.mark.parametrize(
    ("time", "content"),
    [
        ("2020-05-01T00:00:00+00:00", "good"),
        ("2020-05-03T11:59", "good"),
        ("2020-05-03T12:00", "bad"),
        ("2020-05-03T13:59:59+02:00", "good"),
        ("2020-05-03T14:00:00+02:00", "bad"),
        ("2020-05-04", "bad"),
        ("2020-05-05", "good"),
        ("2030-01-01", "good"),
    ],
)
def test_a_channel_at_a_time_is_what_it_served_then(history: Ledger, time: str, content: str) -> None:
    at = serving_at(history, "production", time)
    assert history.release(at.release).statement["predicate"]["content"] == content


def test_each_time_of_serving_ends_where_the_next_begins(history: Ledger) -> None:
    production = [each for each in served(history) if each.channel == "production"]
    assert [each.until for each in production] == [*[each.since for each in production[1:]], None]
    assert [each.generation for each in production] == [1, 2, 3]


@pytest.mark.parametrize(
    ("channel", "time", "said"),
    [
        ("production", "2020-04-30", "its first release came at 2020-05-01T00:00:00"),
        ("canary", "2020-06-01", "nothing was ever promoted to it"),
        ("production", "soon", "'soon' is not a valid time; use 2013-08-01T12:00"),
    ],
)
def test_a_time_without_a_release_is_said(history: Ledger, channel: book.ChannelName, time: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        serving_at(history, channel, time)


# The work tree


def test_a_file_is_traced_through_the_stages_to_files_that_no_stage_made(releases: Releases) -> None:
    table = record(releases.first).materials["features"][0]["path"]
    found = trace(table)
    assert (found.name, found.data["md5"]) == (table, file_md5(Path(table)))
    stages = pipeline.locked()
    assert {each.name for each in every(found, "stage")} == {"ingest", "transform"}
    made = {out["path"] for stage in stages.values() for out in stage["outs"]}
    read = {dep["path"] for name in ("ingest", "transform") for dep in stages[name]["deps"]}
    assert {each.name for each in every(found, "file")} == {table, *(read - made)}
    assert trace(Path(table).name) == found
    assert {each.name for each in every(trace("reports/metrics.json"), "stage")} == set(stages)


def test_a_column_is_traced_to_columns_of_files(releases: Releases) -> None:
    sql = structure.of_work_tree()
    table = sql.find(Path(record(releases.first).model["feature_table"]).stem)
    assert table is not None
    tracer = Tracer(book.load(), Store())
    for name in sql.columns(table.id):
        found = tracer.trace(f"{table.name}.{name}")
        column = sql.find_column(f"{table.name}.{name}")
        assert column is not None
        assert {each.name for each in every(found)} == {
            f"{sql.nodes[each.node].name}.{each.name}" for each in {column, *sql.upstream(column)}
        }


def test_a_model_is_traced_to_its_files(releases: Releases) -> None:
    table = Path(record(releases.first).model["feature_table"]).stem
    found = trace(table)
    assert {each.name for each in every(found, "file")} == files_behind(record(releases.first))


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("productoin", "the nearest is production"),
        ("data/raw/nothing.parquet", "the nearest is data/raw/"),
        ("r-000000000000", "there is no release r-000000000000; the nearest is r-"),
        ("zzzzzzzz", "2 releases, the channels, predictions, files, SQL models and columns are"),
    ],
)
def test_what_is_not_known_is_one_line_with_the_nearest(releases: Releases, what: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        trace(what)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


# What does not match, in trace, status and verify alike


def spoil(path: Path) -> None:
    path.chmod(0o644)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def edit_sql() -> str:
    node = next(node for node in structure.of_work_tree().nodes.values() if node.kind == "model")
    with Path(node.file).open("a", encoding="utf-8") as file:
        file.write("-- by hand\n")
    return node.file


def swap_raw() -> str:
    """Two months of a table change places: of other content, and maybe of the same size."""
    raw = sorted(path for path in Path("data/raw").rglob("*.parquet") if path.parent != Path("data/raw"))
    one, other = raw[:2]
    content = other.read_bytes()
    one.unlink()  # it may be a link to the cache
    one.write_bytes(content)
    return str(one)


def put_in_an_old_table() -> str:
    table = Path(str(pipeline.artifacts()["features"]["path"]))
    content = table.read_bytes()
    table.unlink()
    table.write_bytes(content + b"old")
    return str(table)


def delete_a_raw_file() -> str:
    path = next(Path("data/raw").rglob("*.parquet"))
    path.unlink()
    return str(path)


def add_a_raw_file() -> str:
    path = Path("data/raw/by-hand.parquet")
    path.write_bytes(b"PAR1")
    return str(path)


def texts() -> dict[str, str]:
    """What the three commands call out of the feature table of the work tree, or of all of it."""
    table = str(pipeline.artifacts()["features"]["path"])
    model = lineage.trace(Path(table).stem, verify=False)
    file = lineage.trace(table, verify=False)
    verified = maintenance.verify("", everything=False, remote=False)
    assert (model.code or file.code) == bool(model.data["problems"] or file.data["problems"])
    status = project_status()
    return {
        "trace": model.text + file.text if model.code or file.code else "",
        "status": status.as_text() if status.differences else "",
        "verify": verified.text if verified.code else "",
    }


def test_a_work_tree_as_it_was_built_is_right(releases: Releases) -> None:
    assert texts() == {"trace": "", "status": "", "verify": ""}


@pytest.mark.parametrize("change", [edit_sql, swap_raw, put_in_an_old_table, add_a_raw_file])
def test_what_was_changed_by_hand_is_called_out_alike(releases: Releases, change: Callable[[], str]) -> None:
    changed = change()
    for command, text in texts().items():
        assert changed in text, command
        words = "is not the pipeline's work" if change is add_a_raw_file else "is not what the pipeline last saw here"
        assert any(changed in line and words in line for line in text.splitlines()), command


def test_a_deleted_file_is_called_out_and_no_reason_to_call_the_work_tree_wrong(releases: Releases) -> None:
    changed = delete_a_raw_file()
    assert any(changed in line and "is gone" in line for line in project_status().differences)
    table = str(pipeline.artifacts()["features"]["path"])
    assert any(changed in problem for problem in lineage.trace(table, verify=False).data["problems"])
    verified = maintenance.verify("", everything=False, remote=False)
    assert not verified.code
    assert f"{changed} is gone" in verified.text


def test_a_table_made_of_other_inputs_than_there_are_now_is_stale_in_all_three(releases: Releases) -> None:
    edit_params(releases.folder, {"data": {"through": book_month()}})
    table = str(pipeline.artifacts()["features"]["path"])
    (problem,) = (each for each in lineage.trace(table, verify=False).data["problems"] if table in each)
    assert "it is stale: " in problem
    assert "data.through" in problem
    assert "transform" in [each.stage for each in project_status().stages if not each.fresh]
    verified = maintenance.verify("", everything=False, remote=False)
    assert verified.code
    assert "stage transform is stale: " in verified.text


def book_month() -> str:
    """A watermark one month earlier than the one that was built."""
    return sorted({path.stem for path in Path("data/raw").rglob("????-??.parquet")})[-2]


def test_what_an_edited_file_does_not_touch_is_not_called_out(releases: Releases) -> None:
    put_in_an_old_table()
    raw = next(str(path) for path in Path("data/raw").rglob("*.parquet"))
    assert not lineage.trace(raw, verify=False).code
    assert not lineage.trace(Path(pipeline.artifacts()["features"]["path"]).stem, verify=False).code


def test_the_exit_code_says_whether_anything_differs(releases: Releases) -> None:
    assert cli("trace", "production", "--verify").stdout.endswith("everything matches\n")
    changed = swap_raw()
    done = cli("trace", changed)
    assert (done.returncode, done.stderr) == (1, "")
    assert "1 of these do not match:" in done.stdout
    assert cli("trace", "nothing-like-it").returncode == 1
