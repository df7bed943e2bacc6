"""OpenLineage events: of what ran and what was decided, once each, and never in anybody's way."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from << cookiecutter.package_name >>.commands import channels as commands
from << cookiecutter.package_name >>.lifecycle import ledger
from << cookiecutter.package_name >>.lifecycle.pipeline import Pipeline, StageResult
from << cookiecutter.package_name >>.lineage import openlineage, structure

from support import Releases, environment, wait_until


def events() -> list[dict[str, Any]]:
    return [json.loads(line) for line in openlineage.FILE.read_text(encoding="utf-8").splitlines()]


def stages() -> list[StageResult]:
    return [StageResult(stage.name, "ran", 1.0) for stage in Pipeline().stages()]


@pytest.fixture
def silent(releases: Releases) -> Releases:
    """Releases of which nothing was told yet."""
    openlineage.FILE.unlink(missing_ok=True)
    openlineage.STATE.unlink(missing_ok=True)
    return releases


def test_each_stage_and_each_model_of_the_sql_starts_and_completes_below_one_run(silent: Releases) -> None:
    assert openlineage.tell_of_stages(stages(), None) == []
    models = [node.name for node in structure.of_work_tree().nodes.values() if node.kind == "model"]
    for kind in ("START", "COMPLETE"):
        names = [each["job"]["name"] for each in events() if each["eventType"] == kind]
        assert sorted(names) == sorted([*models, *(stage.name for stage in Pipeline().stages())])
    assert len({each["run"]["facets"]["parent"]["run"]["runId"] for each in events()}) == 1


def test_a_model_s_event_has_its_sql_its_columns_and_the_tests_it_passed(silent: Releases) -> None:
    openlineage.tell_of_stages(stages(), None)
    sql = structure.of_work_tree()
    table = sql.find(Path(ledger.load().release(silent.second).model["feature_table"]).stem)
    assert table is not None
    [event] = [each for each in events() if each["job"]["name"] == table.name and each["eventType"] == "COMPLETE"]
    [output] = event["outputs"]
    assert event["job"]["facets"]["sql"]["query"] == table.sql
    assert [field["name"] for field in output["facets"]["schema"]["fields"]] == sql.columns(table.id)
    lineage = output["facets"]["columnLineage"]["fields"]
    for column in sql.columns(table.id):
        origins = sorted(
            (sql.nodes[origin.node].name, origin.name) for origin in sql.origins(structure.Column(table.id, column))[0]
        )
        assert sorted((each["name"], each["field"]) for each in lineage[column].get("inputFields", [])) == origins
    assert len(output["facets"]["dataQualityAssertions"]["assertions"]) == sum(
        table.id in test["reads"] for test in sql.tests.values()
    )


def test_the_bytes_of_an_output_are_those_of_dvc_lock(silent: Releases) -> None:
    openlineage.tell_of_stages(stages(), None)
    found = {out["name"]: out["facets"]["version"]["datasetVersion"] for each in events() for out in each["outputs"]}
    release = ledger.load().release(silent.second)
    assert {out.path: out.md5 for out in release.outputs()}.items() <= found.items()


def test_a_stage_that_failed_says_why(silent: Releases) -> None:
    assert openlineage.tell_of_stages([], None, failed=("train", "it exited with 3")) == []
    assert [each["eventType"] for each in events()] == ["START", "FAIL"]
    assert events()[1]["run"]["facets"]["errorMessage"]["message"] == "it exited with 3"


def test_nothing_that_ran_is_no_event(silent: Releases) -> None:
    assert openlineage.tell_of_stages([StageResult("train", "cached", 0.1)], None) == []
    assert not openlineage.FILE.exists()


def test_the_ledger_s_decisions_are_told_once(silent: Releases) -> None:
    entries = [entry for _, entry in ledger.load().entries() if entry.kind != "approve"]
    assert openlineage.tell_of_ledger() == openlineage.tell_of_ledger() == []
    assert len(events()) == 2 * len(entries)
    commands.promote(silent.second, "production", "", "", None)
    wait_until(lambda: len(events()) > 2 * len(entries))
    done = events()[-1]
    assert (done["job"]["name"], done["inputs"][0]["name"]) == ("promote", f"releases/{silent.second}")
    assert done["outputs"][0]["name"] == "channels/production"
    assert len(events()) == 2 * len(entries) + 2


class Receiver(BaseHTTPRequestHandler):
    """Takes events as `mode` says."""

    mode = "good"
    taken: list[dict[str, Any]] = []  # noqa: RUF012 - one list for all of them

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.mode == "hangs":
            time.sleep(20)
        self.send_response(500 if self.mode == "fails" else 200)
        self.end_headers()
        if self.mode == "good":
            self.taken.append(json.loads(body))

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Receiver]]:
    monkeypatch.setattr(Receiver, "mode", "good")
    monkeypatch.setattr(Receiver, "taken", [])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("OPENLINEAGE_URL", f"http://127.0.0.1:{server.server_port}")
    yield Receiver
    server.shutdown()


def send_now(releases: Releases, url: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", openlineage.__name__]
    more = {"OPENLINEAGE_URL": url} if url else {}
    return subprocess.run(
        command, cwd=releases.folder, env=environment(releases.folder, **more), capture_output=True, text=True
    )


def test_what_a_receiver_did_not_take_it_gets_the_next_time_and_nothing_twice(
    silent: Releases, receiver: type[Receiver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openlineage, "tell_later", lambda: None)
    openlineage.tell_of_ledger()
    receiver.mode = "fails"
    assert send_now(silent).returncode == 1
    assert send_now(silent, "http://127.0.0.1:9").returncode == 1
    receiver.mode = "good"
    assert send_now(silent).returncode == 0
    assert send_now(silent).stdout == "0 events sent\n"
    assert receiver.taken == events()


def test_a_receiver_that_hangs_costs_nothing(silent: Releases, receiver: type[Receiver]) -> None:
    receiver.mode = "hangs"
    openlineage.tell_of_stages([], None, failed=("warm", "up"))
    start = time.monotonic()
    assert openlineage.tell_of_ledger() == []
    assert time.monotonic() - start < 5


def test_a_disk_that_does_not_take_the_file_is_a_note(silent: Releases) -> None:
    openlineage.FILE.mkdir()
    [note] = openlineage.tell_of_ledger()
    assert note.startswith("OpenLineage was not told: ")
