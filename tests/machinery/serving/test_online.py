"""Features filled in at request time: the same bits as offline, from one table, of the right SQL, or refused."""

import json
import os
import shutil
import struct
import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lifecycle.errors import UserError
from lifecycle.files import write_json
from lifecycle.params import MonitoredColumns, load_params
from lifecycle.predictions import ids
from lifecycle.processes import wait_until
from lifecycle.releases import ledger as book
from lifecycle.releases import online, scoring
from lifecycle.releases.features import Built, built_for
from lifecycle.releases.online import OnlineTable
from lifecycle.releases.store import Store
from lifecycle.serving import app
from lifecycle.serving.loader import FEW_ROWS, Loader
from lifecycle.serving.online import Opened
from lifecycle.testing import Releases, cli, cli_json, copy_project, digests

from clients import Serve, Served
from workers import Worker

COLUMNS = MonitoredColumns(key="id", time="at", month="month", label="y")


def columns() -> MonitoredColumns:
    return load_params().monitoring.columns


def refresh() -> OnlineTable:
    return online.refresh(columns()).table


def features(release: str) -> tuple[list[Any], pa.Table]:
    """The keys and the features of every row, as batch scoring reads them."""
    made = book.load().release(release)
    rows = pq.read_table(built_for(made, Store()).file).sort_by(columns().key)
    return rows[columns().key].to_pylist(), rows.select(list(made.model["features"]))


def bits(values: list[Any]) -> list[Any]:
    """Values that are equal where every bit and the type of the value is."""
    return [struct.pack("<d", each) if isinstance(each, float) else (type(each), each) for each in values]


def test_every_row_has_the_same_features_and_score_online_and_offline(releases: Releases) -> None:
    refresh()
    loader = Loader(load_params().serving, columns().key)
    loader.look()
    channel = loader.table.production
    assert channel
    keys, offline = features(releases.first)
    key, filled, scores = columns().key, [], []
    for start in range(0, len(keys), FEW_ROWS):
        body = json.dumps({"rows": [{key: each} for each in keys[start : start + FEW_ROWS]]}).encode()
        some = app.fill(app.read(body, ids.new(), FEW_ROWS, loader.key), channel, loader.table)
        filled += some.values
        scores += channel.loaded.score(some.values)
    assert len(filled) == offline.num_rows > 1000
    order = [field.name for field in channel.loaded.schema.fields]
    for name, values in zip(order, zip(*filled, strict=True), strict=True):
        as_the_model_gets_it = pa.array(values, offline.schema.field(name).type)
        assert bits(as_the_model_gets_it.to_pylist()) == bits(offline[name].to_pylist()), name
    jobs, _ = scoring.plan("production", [], columns())
    batch = pa.concat_tables([pq.read_table(done.file) for done in scoring.score(jobs, workers=1)]).sort_by("key")
    assert batch["key"].to_pylist() == list(map(str, keys))
    assert bits(scores) == bits(batch["score"].to_pylist())


AWKWARD: dict[str, pa.Array] = {
    "double": pa.array([-0.0, 0.0, 5e-324, 1.7976931348623157e308, 0.1 + 0.2, 2.0**53 + 2, None], pa.float64()),
    "float": pa.array([-0.0, 1e-45, 3.4028234663852886e38, 0.1, 16777217.0, 3.0, None], pa.float32()),
    "int64": pa.array([-(2**63), 2**63 - 1, 2**53 + 1, 0, -1, 1, None], pa.int64()),
    "uint32": pa.array([0, 2**32 - 1, 1, 2, 3, 4, None], pa.uint32()),
    "bool": pa.array([True, False, None, True, False, True, None], pa.bool_()),
    "string": pa.array(["", " ", "a\0b", "ä\U0001f6eb", "'; --", "1", None], pa.string()),
    'a "quoted" name': pa.array(["1", "01", "1.0", "1e3", "nan", "null", None], pa.large_string()),
}


def table_of(folder: Path, **more: pa.Array) -> OnlineTable:
    named = {"id": pa.array([f"k{number}" for number in range(7)]), "at": pa.array(range(7), pa.timestamp("us"))}
    named |= {"month": pa.array(["2013-01"] * 7), "y": pa.array([True] * 7)}
    file = folder / "made.parquet"
    pq.write_table(pa.table(named | AWKWARD | more), file)
    return online.build("0" * 12 + "-" + "1" * 12, Built("made.parquet", "0" * 32, file), "0" * 64, "1" * 64, COLUMNS)


def test_awkward_values_come_back_bit_by_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    about = table_of(tmp_path, when=pa.array([0] * 7, pa.timestamp("us")))
    assert list(about.columns) == list(AWKWARD)  # key, time, month, label and what no request can carry stay out
    assert about.newest == "1970-01-01T00:00:00.000006"
    opened = Opened(about)
    found = [opened.of_key(f"k{number}", tuple(AWKWARD)) for number in range(7)]
    for name, column in AWKWARD.items():
        assert bits(pa.array([row[name] for row in found if row], column.type).to_pylist()) == bits(column.to_pylist())
    assert opened.of_key("k7", tuple(AWKWARD)) is None


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"x": pa.array([1.0, None, float("nan"), 0, 0, 0, 0])}, "x of the feature table has NaN"),
        ({"x": pa.array([1.0, None, float("-inf"), 0, 0, 0, 0], pa.float32())}, "x of the feature table has NaN"),
        ({"x": pa.array([0, 2**63, 0, 0, 0, 0, 0], pa.uint64())}, "2\\^63"),
        ({"id": pa.array(["a", "b", "c", "d", "e", "f", "a"])}, "id a is in the feature table twice"),
        ({"id": pa.array(["a", "b", "c", "d", "e", "f", None])}, "1 rows without id"),
        ({"id": pa.array([float(number) for number in range(7)])}, "the key id is of type double"),
    ],
)
def test_what_would_not_come_back_the_same_is_refused(
    more: dict[str, pa.Array], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=said):
        table_of(tmp_path, **more)
    assert not list(online.FOLDER.glob("*.sqlite"))


def test_a_refresh_does_nothing_when_it_is_current_and_mends_what_is_damaged(releases: Releases) -> None:
    said = cli_json("refresh")
    assert said["new"]
    assert said["online"]["release"] == releases.second  # the newest of those with this feature table
    assert (said["online"]["rows"], said["online"]["key"]) == (len(features(releases.first)[0]), columns().key)
    before = digests(online.FOLDER)
    done = cli("refresh")
    assert done.returncode == 0, done.stderr
    assert "nothing to do" in done.stdout
    assert digests(online.FOLDER) == before
    (file,) = online.FOLDER.glob("*.sqlite")
    file.write_bytes(file.read_bytes()[:-4096])
    assert online.refresh(columns()).new
    online.POINTER.write_text("{")
    assert online.refresh(columns()).new
    made = digests(file)
    assert made == {str(file): before[str(file)]}  # equal features give equal bytes


def test_a_refresh_that_is_killed_leaves_nothing_half_made(releases: Releases, tmp_path: Path) -> None:
    with Worker() as worker:
        whole = tmp_path / "whole"
        copy_project(releases.folder, whole)
        ended = worker.do(whole, "refresh")
        made = [number for number, step in enumerate(ended.steps, 1) if str(online.FOLDER) in step]
        assert len(made) >= 4, ended.steps
        for die_at in made[:: len(made) // 4]:
            assert worker.do(releases.folder, "refresh", die_at=die_at).killed
            for table in online.current():
                assert Opened(table).about.rows == ended.result["rows"]
            assert not worker.do(releases.folder, "refresh").error
            assert sorted(path.name for path in online.FOLDER.iterdir()) == sorted(
                path.name for path in (whole / online.FOLDER).iterdir()
            )
            assert [each.sha256 for each in online.current()] == [ended.result["sha256"]]
            shutil.rmtree(online.FOLDER)


def test_what_a_row_leaves_out_is_filled_in_by_its_key_and_logged(releases: Releases, serve: Serve) -> None:
    about = refresh()
    server, key = serve(), columns().key
    keys, offline = features(releases.first)
    row = offline.slice(7, 1).to_pylist()[0]
    status, whole = server.predict({"row": row})
    assert (status, whole["online"]) == (200, None)
    status, filled = server.predict({"row": {key: keys[7]}})
    assert (status, filled["online"]) == (200, about.name), filled
    assert score(filled) == score(whole)
    (line,) = server.logged(filled["prediction_id"])
    assert (line["online"], line["key"]) == (about.name, str(keys[7]))
    assert {name: line["features"][name] for name in row} == row
    traced = cli("trace", filled["prediction_id"])
    assert f"online {about.name}" in traced.stdout, traced.stdout + traced.stderr
    assert releases.first in traced.stdout
    # What the caller sends wins; null is something.
    changed = row | dict.fromkeys(row, None)
    _, nothing_known = server.predict({"row": changed})
    _, nothing_taken = server.predict({"row": changed | {key: keys[7]}})
    assert (score(nothing_taken), nothing_taken["online"]) == (score(nothing_known), None)
    name = next(name for name in row if isinstance(row[name], float))
    _, by_hand = server.predict({"row": row | {name: 1e9}})
    _, partly = server.predict({"row": {key: keys[7], name: 1e9}, "key": "mine"})
    assert (score(partly), partly["online"]) == (score(by_hand), about.name)
    (line,) = server.logged(partly["prediction_id"])
    assert (line["features"][name], line["key"]) == (1e9, "mine")


def score(answer: dict[str, Any]) -> float:
    (found,) = answer["predictions"]
    return float(found["score"])


def test_keys_that_are_not_there_are_refused_row_by_row(releases: Releases, serve: Serve) -> None:
    refresh()
    server, key = serve(), columns().key
    keys, _ = features(releases.first)
    unknown = f"{keys[0]}?" if isinstance(keys[0], str) else max(keys) + 1
    for wrong, said in ((unknown, "has no"), (["x"], "got a list"), (None, "got null"), (1.5, "got 1.5")):
        status, answer = server.predict({"rows": [{key: keys[0]}, {key: wrong}]})
        assert status == 422
        ((error),) = answer["errors"]
        assert (error["row"], error["field"]) == (1, key)
        assert said in error["reason"]
    status, answer = server.predict({"row": {key: keys[0], "unheard_of": 1}})
    assert (status, answer["errors"][0]["field"]) == (422, "unheard_of")


def test_the_description_knows_the_key(releases: Releases, serve: Serve) -> None:
    import jsonschema

    found = serve().get("/openapi.json")["components"]["schemas"]
    keys, offline = features(releases.first)
    row = offline.slice(0, 1).to_pylist()[0]
    for right in ({columns().key: keys[0]}, row, row | {columns().key: keys[0]}):
        jsonschema.validate(right, found["Row"])
    for wrong in ({}, dict(list(row.items())[1:]), {"unheard_of": 1, columns().key: keys[0]}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, found["Row"])
    assert "online" in found["Answer"]["properties"]


def test_without_a_table_only_rows_that_need_one_are_refused(releases: Releases, serve: Serve) -> None:
    server, key = serve(), columns().key
    keys, offline = features(releases.first)
    row = offline.slice(0, 1).to_pylist()[0]

    def assert_refused(reason: str) -> None:
        status, answer = server.predict({"row": {key: keys[0]}})
        assert (status, answer["errors"][0]["field"]) == (503, key)
        assert reason in answer["errors"][0]["reason"]
        assert server.predict({"row": row})[0] == 200
        assert server.predict({"row": row | {key: keys[0]}})[0] == 200
        assert reason in server.get("/info")["channels"]["production"]["not_filled_in"]

    assert_refused("there is no online table here: `refresh` makes it")
    online.FOLDER.mkdir(parents=True, exist_ok=True)
    online.POINTER.write_text("[{}]")
    wait_until(lambda: server.get("/info")["online"]["problem"])
    assert_refused("current.json is damaged: `refresh` writes it again")
    about = refresh()
    wait_until(lambda: answered(server, keys[0]))
    assert server.get("/info")["online"]["tables"][0]["features_md5"] == about.features_md5
    assert f'serving_online_rows{{features="{about.features_md5}",online="{about.name}"' in server.get("/metrics")
    # Another SQL, and nothing but that.
    write_json(online.POINTER, [asdict(of_other_sql(about))])
    wait_until(lambda: not answered(server, keys[0]))
    sql = book.load().release(releases.first).sql_digest
    assert_refused(f"{releases.first} was built with the SQL {sql[:12]}, the online table here with ffffffffffff")
    refresh()
    wait_until(lambda: answered(server, keys[0]))
    assert [each["sql"] for each in server.get("/info")["online"]["tables"]] == [sql, "f" * 64]
    # What the pipeline builds by other SQL takes nothing from what serves.
    write_json(online.POINTER, [asdict(each) for each in reversed(online.current())])
    wait_until(lambda: server.get("/info")["online"]["tables"][0]["sql"] == "f" * 64)
    status, answer = server.predict({"row": {key: keys[0]}})
    assert (status, answer["online"]) == (200, about.name)


def of_other_sql(about: OnlineTable) -> OnlineTable:
    other = replace(about, name=f"{about.name[:12]}-{'f' * 12}", sql="f" * 64)
    os.link(about.path, other.path)
    return other


def answered(server: Served, key: Any) -> bool:
    return server.predict({"row": {columns().key: key}})[0] == 200


@pytest.mark.parametrize("damage", ["gone", "torn", "other bytes", "no pointer"])
def test_a_damaged_table_is_told_and_the_one_that_is_open_goes_on(
    damage: str, releases: Releases, serve: Serve
) -> None:
    about = refresh()
    server = serve()
    keys, _ = features(releases.first)
    if damage == "no pointer":
        online.POINTER.unlink()
    else:
        content = about.path.read_bytes()
        broken = replace(about, name=f"{'0' * 12}-{about.name[13:]}", built="later")
        if damage != "gone":
            broken.path.write_bytes(content[:4096] if damage == "torn" else content[:-1] + b"!")
        write_json(online.POINTER, [asdict(broken)])
    wait_until(lambda: server.get("/info")["online"]["problem"])
    assert "serving_online_behind 1.0" in server.get("/metrics")
    status, answer = server.predict({"row": {columns().key: keys[0]}})
    assert (status, answer["online"]) == (200, about.name)
    refresh()
    wait_until(lambda: not server.get("/info")["online"]["problem"])
    assert answered(server, keys[0])


def test_tables_change_under_load_and_no_answer_fails_or_is_mixed(releases: Releases, serve: Serve) -> None:
    first = refresh()
    server, key = serve(), columns().key
    keys, offline = features(releases.first)
    rows = [{key: each} for each in keys[:5]]
    second = with_rows_moved(first, releases.first)
    expected = {first.name: asked(server, offline.slice(0, 5)), second.name: asked(server, offline.slice(1, 5))}
    answers: list[tuple[int, Any]] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            answers.append(server.predict({"rows": rows}))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for table in (second, first) * 2:
            write_json(online.POINTER, [asdict(table)])
            wait_until(lambda table=table: answers and answers[-1][1].get("online") == table.name)  # type: ignore[misc]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    for status, answer in answers:
        assert status == 200, answer
        assert [each["score"] for each in answer["predictions"]] == expected[answer["online"]]
    assert {answer["online"] for _, answer in answers} == {first.name, second.name}


def asked(server: Served, rows: pa.Table) -> list[float]:
    _, answer = server.predict({"rows": rows.to_pylist()})
    return [each["score"] for each in answer["predictions"]]


def with_rows_moved(about: OnlineTable, release: str) -> OnlineTable:
    """A table in which each key has the features of the next one."""
    made: Callable[..., OnlineTable] = online.build
    rows = pq.read_table(built_for(book.load().release(release), Store()).file).sort_by(columns().key)
    moved = rows.take([*range(1, rows.num_rows), 0]).set_column(
        rows.column_names.index(columns().key), rows.schema.field(columns().key), rows[columns().key]
    )
    file = Path("moved.parquet")
    pq.write_table(moved, file)
    return made(f"{'a' * 12}-{about.sql[:12]}", Built(about.table, "a" * 32, file), "a" * 64, about.sql, columns())
