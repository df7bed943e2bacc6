"""Who may ask cannot move production: not with false features, not by asking for one row again and again."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml

from lifecycle.monitoring import canary, gauges, operation
from lifecycle.params import load_params
from lifecycle.processes import wait_until
from lifecycle.releases import ledger as book
from lifecycle.releases import online
from lifecycle.serving import app
from lifecycle.serving.schema import InvalidError, Problem
from lifecycle.testing import Releases, cli

from clients import Served, running
from workers import move

ROWS = 600


@pytest.fixture
def server(releases: Releases) -> Iterator[Served]:
    """The second release serves production, after the first; one bad hour of the log is a breach."""
    file = Path("params.yaml")
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    content["monitoring"] |= {"log_window": "hour", "consecutive": {"month": 1, "day": 1, "hour": 1}, "min_rows": 100}
    # Of a busy machine's latency nothing follows here.
    rules = [{"check": check, "do": "rollback"} for check in ("skill_drop", "ranking_drop", "errors")]
    content["monitoring"]["triggers"]["rules"] = rules
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    move(releases.second, "production")
    with running(load_params().serving) as made:
        yield made


def rows_of(release_id: str) -> list[dict[str, Any]]:
    """Rows whose outcome is known, with their keys, the least likely first."""
    release, columns = book.load().release(release_id), load_params().monitoring.columns
    table = pq.read_table(release.model["feature_table"])
    table = table.filter(pc.is_valid(table[columns.label])).slice(0, ROWS)
    names = [name for name in release.model["features"] if name != columns.key]
    rows = sorted(table.to_pylist(), key=lambda row: (row[columns.label], str(row[columns.key])))
    return [{columns.key: row[columns.key]} | {name: row[name] for name in names} for row in rows]


def send(server: Served, rows: list[dict[str, Any]]) -> None:
    """As one request; returns when it is logged."""
    status, answer = server.predict({"rows": rows})
    assert status == 200, answer
    server.logged(answer["prediction_id"], len(rows))


def look() -> operation.Done:
    return operation.run("production", [], datetime.now(UTC).replace(tzinfo=None), build=lambda: None)


def false(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """True keys, each with the features of a row that ended otherwise."""
    key = load_params().monitoring.columns.key
    return [other | {key: row[key]} for row, other in zip(rows, reversed(rows), strict=True)]


def of_log(done: operation.Done, check: str) -> Any:
    return next(each.now for each in done.found.series if (each.source, each.check) == ("log", check))


@pytest.mark.parametrize("refreshed", [True, False], ids=["online table", "no online table"])
def test_false_features_under_true_keys_cannot_roll_production_back(
    refreshed: bool, releases: Releases, server: Served
) -> None:
    if refreshed:
        online.refresh(load_params().monitoring.columns)
        wait_until(lambda: server.loader.table.online.tables)
    rows = rows_of(releases.second)
    foreign = {"Content-Type": "text/plain", "Origin": "https://evil.example"}
    for _ in range(3):
        assert server.predict({"rows": false(rows)}, **foreign)[0] == 403
    assert server.predict({"rows": false(rows)}, **{"Content-Type": "text/plain"})[0] == 415
    send(server, false(rows))
    done = look()
    assert not [each for each in done.acted if "serves" in each or "hold" in each]
    assert book.load().channels()["production"].release == releases.second
    # Some rows may be equal to their opposites.
    [(window, left_out)] = done.found.left_out.items()
    assert 0.9 * ROWS < left_out <= ROWS
    shown = json.loads(cli("monitor", "--json").stdout)
    assert shown["left_out"] == {window: left_out}
    gauge = f'monitor_left_out_rows{{release="{releases.second}"}} {left_out}\n'
    assert gauge in gauges.FILE.read_text(encoding="utf-8")
    send(server, rows)
    done = look()
    assert done.found.left_out == {window: left_out}
    assert [each.measured.rows for each in done.found.seen if each.measured.source == "log"] == [2 * ROWS - left_out]
    assert of_log(done, "unlabelled").value == 0
    assert book.load().channels()["production"].release == releases.second
    if refreshed:
        assert f'serving_disagreeing_total{{channel="production"}} {left_out}.0' in server.get("/metrics")
        assert len(canary.read_log("2000-01-01T00:00:00+00:00")) == 2 * ROWS - left_out


def test_a_refusal_by_a_canary_is_evidence_only_with_the_features_of_the_key(
    releases: Releases, server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    online.refresh(load_params().monitoring.columns)
    wait_until(lambda: server.loader.table.online.tables)
    move(releases.first, "canary", traffic=1.0)
    server.wait_for("canary", releases.first)

    def refusing(asked: app.Asked, channel: Any, table: Any) -> app.Filled:
        if channel.name == "canary":
            raise InvalidError(Problem(None, None, "a category that it does not know"))
        return fill(asked, channel, table)

    fill = app.fill
    monkeypatch.setattr(app, "fill", refusing)
    rows = rows_of(releases.second)
    true, untrue = rows[0], false(rows)[0]
    for each in ([true], [untrue], [true, untrue]):
        status, answer = server.predict({"rows": each})
        assert (status, answer["channel"]) == (200, "production")
        server.logged(answer["prediction_id"], 2 * len(each))
    log = canary.read_log("2000-01-01T00:00:00+00:00")
    assert list(log["channel"]).count("canary") == 1
    assert list(log["channel"]).count("production") == 2


def test_a_key_that_is_asked_for_again_and_again_has_one_outcome(releases: Releases, server: Served) -> None:
    rows = rows_of(releases.second)
    send(server, rows[:200])
    before = look()
    send(server, [rows[0]] * ROWS)
    after = look()
    for check in ("skill_drop", "bias", "outcome", "unlabelled"):
        assert (of_log(after, check).value, of_log(after, check).rows) == (
            of_log(before, check).value,
            of_log(before, check).rows,
        )


def test_a_key_beside_the_row_is_held_to_the_same(releases: Releases, server: Served) -> None:
    """The monitor finds the outcome by the key of the request, where it has one."""
    online.refresh(load_params().monitoring.columns)
    wait_until(lambda: server.loader.table.online.tables)
    rows, key = rows_of(releases.second), load_params().monitoring.columns.key
    bare = {name: value for name, value in rows[0].items() if name != key}
    asked = [
        ({"row": rows[0], "key": rows[0][key]}, True),
        ({"row": {key: rows[0][key]}}, True),
        ({"row": bare, "key": rows[0][key]}, True),
        ({"row": {key: rows[-1][key]}, "key": rows[0][key]}, False),
        ({"row": bare, "key": rows[-1][key]}, False),
        ({"row": bare, "key": "nobody knows it"}, None),
        ({"row": bare}, None),
    ]
    for body, agrees in asked:
        status, answer = server.predict(body)
        assert status == 200, answer
        assert [line["agrees"] for line in server.logged(answer["prediction_id"])] == [agrees], body
