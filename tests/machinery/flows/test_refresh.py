"""The flow comes to what the command does, and the monitor sees how old the online table is."""

import json
from dataclasses import asdict, replace
from datetime import datetime, timedelta

import pytest

from lifecycle.files import write_json
from lifecycle.monitoring.measure import freshness
from lifecycle.monitoring.window import connect
from lifecycle.params import load_params
from lifecycle.releases import online
from lifecycle.testing import Releases, digests


def test_the_flow_brings_the_online_table_up_to_date_once(
    api: str, releases: Releases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", api)
    from prefect.artifacts import Artifact

    from lifecycle.flows.refresh import refresh

    done = refresh()
    assert done["new"]
    (table,) = online.current()
    assert done == {"new": True} | asdict(table)
    before = digests(online.FOLDER)
    assert not refresh()["new"]
    assert digests(online.FOLDER) == before
    artifact = Artifact.get("online")
    assert artifact is not None
    assert [row["online"] for row in json.loads(artifact.data)] == [table.name]
    # An hour behind is an hour, of the table and not of the feature table.
    newest = datetime.fromisoformat(table.newest)
    sources = {"online": load_params().monitoring.freshness["online"]}
    write_json(online.POINTER, [asdict(replace(table, newest=(newest - timedelta(hours=1)).isoformat()))])
    measured, notes = freshness(connect(), sources, newest, newest)
    assert ([each.value for each in measured.figures], notes) == ([1.0], [])
    online.POINTER.unlink()
    assert freshness(connect(), sources, newest, newest)[0].figures == []
