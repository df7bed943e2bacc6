"""OpenLineage events (https://openlineage.io/spec) of what ran and what was decided, for catalogues that collect them.

Made from what is true anyway: dvc.lock, the kept SQL, the release records and the ledger. They are appended to
.lifecycle/openlineage.jsonl; with OPENLINEAGE_URL set, a process of its own sends what that file has and the receiver
has not, so that one that is slow or down costs a run nothing. Run ids follow from what ran: an event that is sent twice
is the same event.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, uuid5

from ..errors import one_line
from ..files import write_json
from ..lifecycle import git
from ..lifecycle import ledger as book
from ..lifecycle.ledger import Entry, Ledger
from ..lifecycle.pipeline import StageResult, artifacts, locked
from ..lifecycle.record import Release
from ..lifecycle.store import Output, Store
from . import structure
from .structure import Column, Structure

if TYPE_CHECKING:
    from openlineage.client.event_v2 import InputDataset, OutputDataset, RunEvent

FILE = Path(".lifecycle/openlineage.jsonl")
# How far the ledger is in the file, and how much of the file was sent.
STATE = Path(".lifecycle/openlineage.json")
LOG = Path("logs/openlineage.log")
PRODUCER = "https://github.com/OpenLineage/OpenLineage/tree/main/client/python"
SEND_SECONDS = 10
LARGE = 20_000_000


def namespace() -> str:
    """The project's name: that of its model."""
    return next(name for name, artifact in artifacts().items() if artifact["type"] == "model")


def run_id(*parts: str) -> str:
    """A run's UUID, the same for the same parts."""
    return str(uuid5(NAMESPACE_URL, "/".join((namespace(), *parts))))


# Stages


def of_stages(results: Iterable[StageResult], flow_run: str | None, failed: tuple[str, str] | None) -> list["RunEvent"]:
    """What ran in one run of the pipeline: a START and an end for each stage that did, and for each model of the SQL.

    Args:
        results: of its stages; those that had nothing to do have no event.
        flow_run: Prefect's id, the parent of them all.
        failed: the stage that ended the run, and why.
    """
    from openlineage.client.facet_v2 import error_message_run

    parent = flow_run or run_id("run", datetime.now(UTC).isoformat())
    events: list[RunEvent] = []
    end = datetime.now(UTC)
    ran = [each for each in results if each.outcome == "ran"]
    start = end - timedelta(seconds=sum(each.seconds for each in ran))
    for each in ran:
        stop = start + timedelta(seconds=each.seconds)
        events += _stage(each.stage, parent, start, stop)
        start = stop
    if failed:
        stage, reason = failed
        facet = error_message_run.ErrorMessageRunFacet(message=reason, programmingLanguage="python")
        for kind in ("START", "FAIL"):
            facets = {"errorMessage": facet} if kind == "FAIL" else {}
            events.append(_event(kind, end, stage, run_id(parent, stage), parent, "STAGE", facets))
    return events


def _stage(name: str, parent: str, start: datetime, end: datetime) -> Iterator["RunEvent"]:
    entry = locked()[name]
    inputs = [_input(dep["path"], dep["md5"]) for dep in entry.get("deps", []) if not dep["path"].startswith("src/")]
    store = Store()
    outputs = [_output(Output(out["path"], out["md5"], out.get("size")), store) for out in entry["outs"]]
    own = run_id(parent, name)
    yield _event("START", start, name, own, parent, "STAGE")
    if any(out["path"] == str(structure.FOLDER) for out in entry["outs"]):
        sql = structure.of_work_tree()
        for node in sql.nodes.values():
            if node.kind == "model":
                yield from _model(sql, node.id, parent, start, end)
    yield _event("COMPLETE", end, name, own, parent, "STAGE", inputs=inputs, outputs=outputs)


def _model(sql: Structure, name: str, parent: str, start: datetime, end: datetime) -> Iterator["RunEvent"]:
    """A model of the SQL: its query, where each column comes from, and the tests that it passed."""
    from openlineage.client.event_v2 import InputDataset, OutputDataset
    from openlineage.client.facet_v2 import (
        column_lineage_dataset,
        data_quality_assertions_dataset,
        schema_dataset,
        sql_job,
    )

    node, own = sql.nodes[name], run_id(parent, name)
    fields = {}
    for column in sql.columns(name):
        origins, problem = sql.origins(Column(name, column))
        found = [
            column_lineage_dataset.InputField(namespace(), sql.nodes[origin.node].name, origin.name)
            for origin in sorted(origins)
        ]
        fields[column] = column_lineage_dataset.Fields(found, transformationDescription=problem or None)
    tests = [
        data_quality_assertions_dataset.Assertion(assertion=test.split(".")[2], success=True, column=each["column"])
        for test, each in sql.tests.items()
        if name in each["reads"]
    ]
    facets: dict[str, Any] = {
        "schema": schema_dataset.SchemaDatasetFacet([schema_dataset.SchemaDatasetFacetFields(each) for each in fields]),
        "columnLineage": column_lineage_dataset.ColumnLineageDatasetFacet(fields),
        **_place(node.relation),
        **_version(node.digest),
    }
    if tests:
        facets["dataQualityAssertions"] = data_quality_assertions_dataset.DataQualityAssertionsDatasetFacet(tests)
    job = {"sql": sql_job.SQLJobFacet(node.sql, "duckdb"), **_source(node.file)}
    yield _event("START", start, node.name, own, parent, "MODEL", job=job)
    yield _event(
        "COMPLETE",
        end,
        node.name,
        own,
        parent,
        "MODEL",
        job=job,
        inputs=[InputDataset(namespace(), sql.nodes[each].name) for each in node.reads],
        outputs=[OutputDataset(namespace(), node.name, facets=facets)],
    )


def _input(path: str, md5: str) -> "InputDataset":
    from openlineage.client.event_v2 import InputDataset

    return InputDataset(namespace(), path, facets={**_place(path), **_version(md5)})


def _output(output: Output, store: Store) -> "OutputDataset":
    from openlineage.client.event_v2 import OutputDataset
    from openlineage.client.facet_v2 import output_statistics_output_dataset

    files = store.files([output])
    statistics = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
        size=sum(store.object_path(file.md5).stat().st_size for file in files), fileCount=len(files)
    )
    facets = {**_place(output.path), **_version(output.md5)}
    return OutputDataset(namespace(), output.path, {"outputStatistics": statistics}, facets=facets)


# Decisions


def of_entry(entry: Entry, release: Release | None) -> list["RunEvent"]:
    """A release, a promotion or a rollback, as the ledger has it."""
    from openlineage.client.event_v2 import InputDataset, OutputDataset
    from openlineage.client.facet_v2 import output_statistics_output_dataset, schema_dataset

    if entry.kind not in ("release", "promote", "rollback"):
        return []
    at = datetime.fromisoformat(entry.at)
    own = run_id("ledger", str(entry.number), entry.at)
    inputs: list[InputDataset] = []
    outputs: list[OutputDataset] = []
    if release and entry.kind == "release":
        for table in release.materials["features"]:
            fields = [schema_dataset.SchemaDatasetFacetFields(*each) for each in table["columns"].items()]
            facets = {"schema": schema_dataset.SchemaDatasetFacet(fields), **_version(table["sha256"])}
            inputs.append(InputDataset(namespace(), table["path"], facets=facets))
        inputs.append(InputDataset(namespace(), release.model["path"], facets=_version(_output_md5(release))))
        rows = sum(table["rows"] for table in release.materials["features"])
        statistics = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(rowCount=rows)
        facets = _version(release.digest)
        outputs.append(OutputDataset(namespace(), f"releases/{release.id}", {"training": statistics}, facets=facets))
    elif entry.release:
        inputs.append(InputDataset(namespace(), f"releases/{entry.release}"))
    if entry.channel:
        facets = _version(f"{entry.release or 'nothing'}, generation {entry.generation}")
        outputs.append(OutputDataset(namespace(), f"channels/{entry.channel}", facets=facets))
    job = _source("params.yaml", release.commit if release else "")
    return [
        _event("START", at, entry.kind, own, None, "DECISION", job=job),
        _event("COMPLETE", at, entry.kind, own, None, "DECISION", job=job, inputs=inputs, outputs=outputs),
    ]


def _output_md5(release: Release) -> str:
    return next(out.md5 for out in release.outputs(release.model["path"]))


# What all events have


def _event(
    kind: str,
    at: datetime,
    name: str,
    run: str,
    parent: str | None,
    job_type: str,
    facets: dict[str, Any] | None = None,
    job: dict[str, Any] | None = None,
    inputs: "list[InputDataset] | None" = None,
    outputs: "list[OutputDataset] | None" = None,
) -> "RunEvent":
    from openlineage.client.event_v2 import Job, Run, RunEvent, RunState
    from openlineage.client.facet_v2 import job_type_job, nominal_time_run, parent_run

    run_facets: dict[str, Any] = {"nominalTime": nominal_time_run.NominalTimeRunFacet(at.isoformat()), **(facets or {})}
    if parent:
        root = parent_run.Root(parent_run.RootRun(parent), parent_run.RootJob(namespace(), "pipeline"))
        above = parent_run.Run(parent), parent_run.Job(namespace(), "pipeline")
        run_facets["parent"] = parent_run.ParentRunFacet(*above, root)
    integration = {"STAGE": "DVC", "MODEL": "DBT", "DECISION": "LEDGER"}[job_type]
    own = {"jobType": job_type_job.JobTypeJobFacet("BATCH", integration, job_type)}
    return RunEvent(
        eventType=RunState[kind],
        eventTime=at.isoformat(),
        producer=PRODUCER,
        run=Run(run, run_facets),
        job=Job(namespace(), name, {**own, **(job if job is not None else _source("dvc.yaml"))}),
        inputs=inputs or [],
        outputs=outputs or [],
    )


def _version(digest: str) -> dict[str, Any]:
    from openlineage.client.facet_v2 import dataset_version_dataset

    return {"version": dataset_version_dataset.DatasetVersionDatasetFacet(digest)} if digest else {}


def _place(path: str) -> dict[str, Any]:
    from openlineage.client.facet_v2 import datasource_dataset

    return {"dataSource": datasource_dataset.DatasourceDatasetFacet(namespace(), Path(path).resolve().as_uri())}


def _source(file: str, commit: str = "") -> dict[str, Any]:
    from openlineage.client.facet_v2 import source_code_location_job

    version = commit or git.resolve("HEAD") or ""
    url = Path(file).resolve().as_uri()
    return {"sourceCodeLocation": source_code_location_job.SourceCodeLocationJobFacet("git", url, version=version)}


# Out of here


def tell_of_stages(
    results: Iterable[StageResult], flow_run: str | None, failed: tuple[str, str] | None = None
) -> list[str]:
    """Write the events of a run of the pipeline; returns what there is to say. Nothing depends on it."""
    ran = [each for each in results if each.outcome == "ran"]
    if not ran and not failed:
        return []
    return _tell(lambda: _write(of_stages(ran, flow_run, failed)))


def tell_of_ledger() -> list[str]:
    """Write the events of the ledger's entries that have none yet; returns what there is to say."""
    return _tell(lambda: _follow(book.load()))


def tell_later() -> None:
    """The same in a process of its own, for who cannot wait; it sends what was not sent, too."""
    LOG.parent.mkdir(exist_ok=True)
    with LOG.open("w", encoding="utf-8") as log:
        subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _tell(write: Callable[[], None]) -> list[str]:
    try:
        write()
        if os.environ.get("OPENLINEAGE_URL"):
            tell_later()
    except Exception as error:  # whatever it is: what was done is done, and does not fail for an event
        return [f"OpenLineage was not told: {one_line(error)}"]
    return []


def _write(events: Iterable["RunEvent"]) -> None:
    """Append events to the file, each a line. A file that has grown large is put aside once all of it was sent."""
    from openlineage.client.serde import Serde

    lines = "".join(f"{Serde.to_json(event)}\n" for event in events)
    FILE.parent.mkdir(parents=True, exist_ok=True)
    size = FILE.stat().st_size if FILE.exists() else 0
    if size > LARGE and (_state()["sent"] >= size or not os.environ.get("OPENLINEAGE_URL")):
        FILE.replace(FILE.with_suffix(".old.jsonl"))
        write_json(STATE, _state() | {"sent": 0})
    with FILE.open("a", encoding="utf-8") as file:
        file.write(lines)


def _follow(ledger: Ledger) -> None:
    done = _state()["entry"]
    new = sorted((entry for _, entry in ledger.entries() if entry.number > done), key=lambda each: each.number)
    if not new:
        return
    known = {release.id: release for release in ledger.read_releases({each.release for each in new if each.release})}
    _write(event for entry in new for event in of_entry(entry, known.get(entry.release or "")))
    write_json(STATE, _state() | {"entry": new[-1].number})


def _state() -> dict[str, int]:
    try:
        found: dict[str, int] = json.loads(STATE.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        found = {}
    return {"entry": 0, "sent": 0} | found


def send() -> int:
    """Send what the file has and the receiver at OPENLINEAGE_URL has not; returns how many events.

    Raises:
        Exception: of the client, when one does not get through; the next call begins with that one.
    """
    from openlineage.client.transport.http import HttpConfig, HttpTransport

    config: dict[str, Any] = {"url": os.environ["OPENLINEAGE_URL"], "timeout": SEND_SECONDS, "retry": {"total": 0}}
    if key := os.environ.get("OPENLINEAGE_API_KEY"):
        config["auth"] = {"type": "api_key", "apiKey": key}
    transport = HttpTransport(HttpConfig.from_dict(config))
    count = 0
    with FILE.open("rb") as file:
        file.seek(_state()["sent"])
        while (line := file.readline()).endswith(b"\n"):
            transport.emit(json.loads(line))
            count += 1
            write_json(STATE, _state() | {"sent": file.tell()})
    return count


if __name__ == "__main__":
    _follow(book.load())
    if os.environ.get("OPENLINEAGE_URL"):
        print(f"{send()} events sent")
