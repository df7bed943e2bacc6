"""OpenLineage events: of what ran and what was decided, once each, and never in anybody's way."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lifecycle.commands import channels as commands
from lifecycle.commands.score import score
from lifecycle.lineage import openlineage, project, structure
from lifecycle.params import load_params
from lifecycle.releases import channels, git, ledger
from lifecycle.releases.pipeline import Pipeline, StageError, StageResult, locked
from lifecycle.releases.policy import Policy
from lifecycle.releases.store import Store
from lifecycle.testing import Releases, environment, wait_until

FLOW_RUN = "0197d3a0-0000-7000-8000-000000000001"


def lines() -> list[dict[str, Any]]:
    return [json.loads(line) for line in openlineage.FILE.read_text(encoding="utf-8").splitlines()]


def ended(name: str) -> dict[str, Any]:
    [event] = [each for each in lines() if each["job"]["name"] == name and each["eventType"] != "START"]
    return event


def tell(*names: str, outcome: Any = "ran", error: BaseException | None = None) -> list[str]:
    """What a run of the pipeline tells of its stages; returns what it has to say."""
    notes: list[str] = []
    with openlineage.run_of_pipeline(FLOW_RUN, None, notes.append) as recorder:
        for name in names:
            recorder.stage(StageResult(name, outcome, 0.01))
        if error:
            raise error
    return notes


def stages() -> list[str]:
    return [stage.name for stage in Pipeline().stages()]


def models() -> list[str]:
    return [node.name for node in structure.of_work_tree().nodes.values() if node.kind == "model"]


@pytest.fixture
def silent(releases: Releases) -> Releases:
    """Releases of which nothing was told yet."""
    for path in Path(".lifecycle").glob("openlineage*"):
        path.unlink()
    return releases


def feature_table() -> tuple[str, str]:
    """Its name in the SQL, and its path."""
    path = ledger.load().release("production").model["feature_table"]
    node = structure.of_work_tree().find(Path(path).stem)
    assert node is not None
    return node.name, path


def test_every_stage_model_and_test_starts_and_completes_below_one_run(silent: Releases) -> None:
    assert tell(*stages()) == []
    for kind in ("START", "COMPLETE"):
        names = {each["job"]["name"] for each in lines() if each["eventType"] == kind}
        assert {*models(), *stages(), "pipeline"} <= names
        assert {name.rpartition(".")[2] for name in names - {*models(), *stages()}} == {"pipeline", "tests"}
    runs = {each["run"]["runId"]: each["job"]["name"] for each in lines()}
    assert runs[FLOW_RUN] == "pipeline"
    for event in lines():
        if parent := event["run"]["facets"].get("parent"):
            assert runs[parent["run"]["runId"]] == parent["job"]["name"]
            assert parent["root"]["run"]["runId"] == FLOW_RUN
        else:
            assert event["run"]["runId"] == FLOW_RUN


def test_the_datasets_join_what_ran_from_the_source_to_the_model(silent: Releases) -> None:
    """Whatever is read was written by something else, but for what comes from outside: a chain without a gap."""
    tell(*stages())
    written = {out["name"] for each in lines() for out in each["outputs"]}
    read = {each["name"] for event in lines() for each in event["inputs"]}
    seeds = {node.name for node in structure.of_work_tree().nodes.values() if node.kind == "seed"}
    outs = {out["path"] for stage in locked().values() for out in stage["outs"]}
    outside = {dep["path"] for stage in locked().values() for dep in stage["deps"]} - outs
    assert read - written <= seeds | outside
    assert feature_table()[0] in read & written
    versions: dict[str, set[str]] = {}
    for event in lines():
        for each in (*event["inputs"], *event["outputs"]):
            versions.setdefault(each["name"], set()).add(each["facets"]["version"]["datasetVersion"])
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}


def test_a_model_s_event_has_its_sql_and_where_its_columns_come_from(silent: Releases) -> None:
    tell(*stages())
    sql, (name, path) = structure.of_work_tree(), feature_table()
    table, event = sql.find(name), ended(name)
    assert table is not None
    [output] = event["outputs"]
    assert event["job"]["facets"]["sql"]["query"] == table.sql
    assert event["job"]["facets"]["sourceCodeLocation"]["path"] == table.file
    lineage = output["facets"]["columnLineage"]["fields"]
    for column in sql.columns(table.id):
        origins = sorted(
            (sql.nodes[origin.node].name, origin.name) for origin in sql.origins(structure.Column(table.id, column))[0]
        )
        assert sorted((each["name"], each["field"]) for each in lineage[column].get("inputFields", [])) == origins
    [released] = [each for each in ledger.load().release("staging").materials["features"] if each["path"] == path]
    columns = {each["name"]: each["type"] for each in output["facets"]["schema"]["fields"]}
    assert columns == released["columns"]
    assert output["outputFacets"]["outputStatistics"]["rowCount"] == released["rows"]


def test_data_tests_are_told_with_what_came_of_them(silent: Releases) -> None:
    """One that only warned has not passed."""
    results = json.loads(openlineage.TEST_RESULTS.read_text(encoding="utf-8"))
    warned = next(each for each in results["results"] if each["unique_id"].startswith("test."))
    warned["status"] = "warn"
    openlineage.TEST_RESULTS.write_text(json.dumps(results), encoding="utf-8")
    tell(*stages())
    [name] = [each["job"]["name"] for each in lines() if each["job"]["facets"]["jobType"]["jobType"] == "TEST"][:1]
    found = {
        (each["assertion"], each["success"], each["severity"])
        for table in ended(name)["inputs"]
        for each in table["inputFacets"]["dataQualityAssertions"]["assertions"]
    }
    assert {(each, False, "warn") for each, success, _ in found if not success} == {
        (warned["unique_id"].split(".")[2], False, "warn")
    }
    assert len(found) == len(structure.of_work_tree().tests)


def test_the_bytes_of_an_output_are_those_of_dvc_lock(silent: Releases) -> None:
    tell(*stages())
    found = {out["name"]: out["facets"]["version"]["datasetVersion"] for each in lines() for out in each["outputs"]}
    release = ledger.load().release(silent.second)
    assert {out.path: out.md5 for out in release.outputs()}.items() <= found.items()


def test_a_stage_that_failed_says_why_and_so_does_the_run(silent: Releases) -> None:
    with pytest.raises(StageError):
        tell("ingest", error=StageError("train", "it exited with 3", Path("x.log"), for_good=True))
    for name, reason in (("train", "it exited with 3"), ("pipeline", "stage train failed: it exited with 3")):
        assert ended(name)["eventType"] == "FAIL"
        assert ended(name)["run"]["facets"]["errorMessage"]["message"].startswith(reason)
    assert ended("ingest")["eventType"] == "COMPLETE"


def test_a_run_that_somebody_stopped_is_aborted(silent: Releases) -> None:
    with pytest.raises(KeyboardInterrupt):
        tell(error=KeyboardInterrupt())
    assert ended("pipeline")["eventType"] == "ABORT"


def test_nothing_that_ran_is_no_event(silent: Releases) -> None:
    assert tell(*stages(), outcome="cached") == []
    assert not openlineage.FILE.exists()


def test_a_lock_file_that_cannot_be_read_is_no_trouble_for_the_run(silent: Releases) -> None:
    Path("dvc.lock").write_text("stages: {a: [", encoding="utf-8")
    assert tell("ingest") == []


def test_trouble_with_an_event_is_a_note_and_no_trouble_for_the_run(silent: Releases) -> None:
    Path(".dvc/cache/files").rename("away")
    [note] = tell(*stages())
    assert note.startswith("OpenLineage events could not be written: ")


def test_the_ledger_s_decisions_are_told_once(silent: Releases) -> None:
    entries = [entry for _, entry in ledger.load().entries() if entry.kind != "approve"]
    assert openlineage.tell_of_ledger() == openlineage.tell_of_ledger() == []
    assert len(lines()) == 2 * len(entries)
    release = ledger.load().release(silent.first)
    made = next(each for each in lines() if each["eventType"] == "COMPLETE")
    [model] = [each for each in made["inputs"] if each["name"] == release.model["path"]]
    gates = model["inputFacets"]["dataQualityAssertions"]["assertions"]
    assert [each["assertion"] for each in gates] == [gate["name"] for gate in release.evidence["gates"]]
    assert made["job"]["facets"]["sourceCodeLocation"]["version"] == release.commit
    commands.promote(silent.second, "production")
    wait_until(lambda: len(lines()) > 2 * len(entries))
    done = lines()[-1]
    assert (done["job"]["name"], done["inputs"][0]["name"]) == ("promote", f"releases/{silent.second}")
    assert done["outputs"][0]["name"] == "channels/production"
    assert len(lines()) == 2 * len(entries) + 2


def test_a_ledger_that_went_another_way_is_told_from_there_on(silent: Releases) -> None:
    """A rollback without a network that was given up, say: its successor has the same number."""
    openlineage.tell_of_ledger()
    before, params = ledger.load(), load_params()
    release, policy = before.release(silent.second), Policy(params.promotion, params.evaluate)
    channels.promote(before, release, "canary", policy, Store())
    openlineage.tell_of_ledger()
    told = len(lines())
    for ref in (ledger.REF, ledger.SEEN):
        git.git("update-ref", ref, before.tip or "")
    channels.promote(ledger.load(), release, "canary", policy, Store(), reason="the other way")
    assert openlineage.tell_of_ledger() == []
    assert len(lines()) == told + 2


def test_scored_months_come_from_a_release_and_the_table_once(silent: Releases) -> None:
    first = score("production").data["months"]
    assert score("production").data["months"] != first  # nothing was left to do
    done = [each for each in lines() if each["eventType"] == "COMPLETE"]
    assert [each["outputs"][0]["name"] for each in done] == [each["file"] for each in first]
    assert [each["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] for each in done] == [
        each["rows"] for each in first
    ]
    name, path = feature_table()
    assert [each["name"] for each in done[0]["inputs"]] == [f"releases/{silent.first}", name]
    table = done[0]["inputs"][1]["facets"]["version"]["datasetVersion"]
    tell(*stages())
    [written] = [
        out for each in lines() for out in each["outputs"] if out["name"] == name and each["job"]["name"] == name
    ]
    assert table == written["facets"]["version"]["datasetVersion"], path


@pytest.mark.parametrize(
    ("remote", "page"),
    [
        ("git@git.example.com:team/project.git", "https://git.example.com/team/project"),
        ("ssh://git@git.example.com:2222/team/project.git", "https://git.example.com/team/project"),
        # pragma: allowlist nextline secret
        ("https://me:secret@git.example.com:8443/team/project", "https://git.example.com:8443/team/project"),
        ("/srv/git/project.git", None),
        ("../project.git", None),
        ("file:///srv/git/project.git", None),
        ("C:\\\\git\\\\project", None),
    ],
)
def test_where_the_code_can_be_looked_at(remote: str, page: str | None) -> None:
    assert project.web_address(remote) == page


class Receiver(BaseHTTPRequestHandler):
    """Takes events as `mode` says."""

    mode = "good"
    taken: list[dict[str, Any]] = []  # noqa: RUF012 - one list for all of them

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.mode == "hangs":
            time.sleep(20)
        refused = self.mode == "refuses promotions" and json.loads(body)["job"]["name"] == "promote"
        self.send_response(500 if self.mode == "fails" else 422 if refused else 200)
        self.end_headers()
        if self.mode != "fails" and not refused:
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
    assert receiver.taken == lines()


def test_an_event_that_a_receiver_will_never_take_holds_nothing_up(
    silent: Releases, receiver: type[Receiver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openlineage, "tell_later", lambda: None)
    openlineage.tell_of_ledger()
    receiver.mode = "refuses promotions"
    done = send_now(silent)
    assert done.returncode == 0, done.stderr
    assert receiver.taken == [each for each in lines() if each["job"]["name"] != "promote"]
    assert "refused, left out: " in done.stdout


def test_a_file_that_grows_large_is_put_aside_and_sent_to_its_end(
    silent: Releases, receiver: type[Receiver], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept is bounded, and a sender that was in the middle of a file loses nothing of it."""
    monkeypatch.setattr(openlineage, "tell_later", lambda: None)
    openlineage.tell_of_ledger()
    wanted = lines()
    receiver.mode = "fails"
    assert send_now(silent).returncode == 1
    monkeypatch.setattr(openlineage, "LARGE", 1)
    with pytest.raises(KeyboardInterrupt):
        tell(error=KeyboardInterrupt())
    assert not openlineage.FILE.exists()
    monkeypatch.setattr(openlineage, "LARGE", 10**6)
    with pytest.raises(KeyboardInterrupt):
        tell(error=KeyboardInterrupt())
    receiver.mode = "good"
    assert send_now(silent).returncode == 0
    assert receiver.taken[: len(wanted)] == wanted
    assert receiver.taken[-2:] == lines()
    assert len(receiver.taken) == len(wanted) + 4
    assert send_now(silent).stdout == "0 events sent\n"


def test_half_a_line_that_a_kill_left_is_left_out(silent: Releases, receiver: type[Receiver]) -> None:
    openlineage.FILE.write_text('{"half', encoding="utf-8")
    openlineage.tell_of_ledger()
    until = time.monotonic() + 60
    while not receiver.taken or receiver.taken[-1] != json.loads(openlineage.FILE.read_text().splitlines()[-1]):
        assert time.monotonic() < until, openlineage.LOG.read_text()
        time.sleep(0.1)
    assert len(receiver.taken) == len(openlineage.FILE.read_text().splitlines()) - 1


@pytest.mark.parametrize("mode", ["good", "hangs", "dead"])
def test_whatever_the_receiver_does_a_run_takes_as_long_as_without(
    mode: str, silent: Releases, receiver: type[Receiver], monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver.mode = mode
    url = "http://127.0.0.1:9" if mode == "dead" else os.environ["OPENLINEAGE_URL"]
    tell(*stages())  # imports
    without, with_it = [], []
    for _ in range(3):  # the best of three: the machine may be busy
        for there, seconds in (("", without), (url, with_it)):
            monkeypatch.setenv("OPENLINEAGE_URL", there)
            start = time.monotonic()
            assert tell(*stages()) == []
            seconds.append(time.monotonic() - start)
    assert min(with_it) < min(without) + 0.5


def test_what_is_after_a_rollback_cannot_fail_it(silent: Releases) -> None:
    """It has happened by then. A disk that takes no more, say."""
    commands.promote(silent.second, "production")
    for log in (Path("logs/openlineage.log"), Path("logs/attach.log")):
        log.unlink(missing_ok=True)
        log.mkdir()
    assert commands.rollback("production", "worse").data["release"] == silent.first


def test_a_disk_that_does_not_take_the_file_is_a_note(silent: Releases) -> None:
    openlineage.FILE.mkdir()
    [note] = openlineage.tell_of_ledger()
    assert note.startswith("OpenLineage events could not be written: ")
