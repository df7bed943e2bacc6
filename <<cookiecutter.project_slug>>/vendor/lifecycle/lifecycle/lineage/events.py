"""OpenLineage run events (https://openlineage.io/spec), from dvc.lock, the kept SQL, release records and the ledger.

Equal facts give equal events: a run's id is derived from what ran, so an event that is sent twice is the same event. A
table has the same name in all of them, the one from the SQL; a file or folder of the pipeline is named by its path.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import (
    column_lineage_dataset,
    data_quality_assertions_dataset,
    dataset_version_dataset,
    datasource_dataset,
    error_message_run,
    job_type_job,
    nominal_time_run,
    output_statistics_output_dataset,
    parent_run,
    schema_dataset,
    source_code_location_job,
    sql_job,
)

from ..releases.ledger import Entry
from ..releases.record import Release
from ..releases.store import File, Output, Store
from . import structure
from .project import Project
from .structure import Column, Node, Structure

PIPELINE = "pipeline"
# Files below these folders are not data.
CODE = ("src/", "transform/")


@dataclass(frozen=True)
class Span:
    """When something ran, and how it ended: COMPLETE, FAIL or ABORT, with the message."""

    start: datetime
    end: datetime
    state: str = "COMPLETE"
    problem: str = ""


@dataclass(frozen=True)
class Ran:
    """A stage that ran: its entry in dvc.lock, and the state of each data test by dbt's id, if it has tests."""

    name: str
    span: Span
    locked: dict[str, Any]
    tests: dict[str, str]


@dataclass(frozen=True)
class Batch:
    """A file of predictions: its digest, when it was written, by which release, and its inputs (path -> digest)."""

    path: str
    digest: str
    rows: int
    at: str
    release: str
    inputs: dict[str, str]


@dataclass(frozen=True)
class Table:
    """A table that the pipeline keeps as files, by its name in the SQL. `version` changes with any of their bytes."""

    name: str
    pattern: str
    version: str
    files: int
    size: int
    rows: int
    columns: dict[str, str]


class Events:
    """The events of one project."""

    def __init__(self, project: Project, sql: Structure | None, store: Store) -> None:
        """Args: sql: the SQL that was kept with the results; None if there is none."""
        self._project, self._sql, self._store = project, sql, store

    def run_id(self, *parts: str) -> str:
        """Return a run's UUID, always the same for the same parts."""
        return str(uuid5(NAMESPACE_URL, "/".join((self._project.name, *parts))))

    # The pipeline

    def pipeline(self, run: str, span: Span, nominal: datetime) -> Iterator[RunEvent]:
        """Yield events for the whole run."""
        yield from self._run(span, PIPELINE, run, "PIPELINE", nominal=nominal)

    def stage(self, ran: Ran, run: str) -> Iterator[RunEvent]:
        """Yield events for a stage that ran in `run`, and for each SQL model if this stage builds them."""
        own, outs = self.run_id(run, ran.name), ran.locked.get("outs", [])
        outputs = [Output(out["path"], out["md5"], out.get("size", 0)) for out in outs]
        inputs = [
            Output(dep["path"], dep["md5"], 0) for dep in ran.locked.get("deps", []) if not dep["path"].startswith(CODE)
        ]
        if any(out.path == str(structure.FOLDER) for out in outputs) and self._sql:
            yield from self._sql_events(self._sql, ran, run, own, inputs, outputs)
        yield from self._run(
            ran.span,
            ran.name,
            own,
            "STAGE",
            parent=(PIPELINE, run),
            root=run,
            inputs=[each for source in inputs for each in self._inputs(source)],
            outputs=[each for out in outputs for each in self._outputs(out)],
        )

    def failed(self, stage: str, run: str, span: Span) -> Iterator[RunEvent]:
        """Yield events for a stage that failed."""
        yield from self._run(span, stage, self.run_id(run, stage), "STAGE", parent=(PIPELINE, run), root=run)

    # The SQL

    def _sql_events(
        self, sql: Structure, ran: Ran, run: str, stage: str, inputs: list[Output], outputs: list[Output]
    ) -> Iterator[RunEvent]:
        kept = {table.name: table for out in (*inputs, *outputs) for table in self._tables(out)}
        made_from = "\n".join(sorted(f"{each.path} {each.md5}" for each in inputs))
        versions = {}
        for node in sql.nodes.values():
            own = hashlib.sha256(f"{node.digest}\n{made_from}".encode()).hexdigest() if node.sql else node.file_sha256
            versions[node.name] = kept[node.name].version if node.name in kept else own
        for node in sql.nodes.values():
            if node.kind == "model":
                reads = [sql.nodes[each].name for each in node.reads]
                job = {"sql": sql_job.SQLJobFacet(node.sql, "duckdb")}
                yield from self._run(
                    ran.span,
                    node.name,
                    self.run_id(run, node.id),
                    "MODEL",
                    job=job,
                    file=node.file,
                    inputs=[InputDataset(self._project.name, name, facets=_version(versions[name])) for name in reads],
                    outputs=[self._model(sql, node, versions[node.name], kept.get(node.name))],
                    parent=(ran.name, stage),
                    root=run,
                )
        tested = list(self._tested(sql, ran.tests, versions))
        if tested:
            name = f"{ran.name}.tests"
            own, above = self.run_id(run, name), (ran.name, stage)
            yield from self._run(ran.span, name, own, "TEST", parent=above, root=run, inputs=tested)

    def _model(self, sql: Structure, node: Node, version: str, kept: Table | None) -> OutputDataset:
        """Return the table of a model, with the origin of each column."""
        fields = {}
        for column in sql.columns(node.id):
            origins, problem = sql.origins(Column(node.id, column))
            found = [
                column_lineage_dataset.InputField(self._project.name, sql.nodes[each.node].name, each.name)
                for each in sorted(origins)
            ]
            fields[column] = column_lineage_dataset.Fields(found, transformationDescription=problem or None)
        types = kept.columns if kept else dict.fromkeys(fields)
        facets = {
            "columnLineage": column_lineage_dataset.ColumnLineageDatasetFacet(fields),
            **_schema(types),
            **_version(version),
        }
        if kept:
            return self._table(kept, facets)
        database = node.relation.replace('"', "").split(".")[0]
        facets |= {"dataSource": datasource_dataset.DatasourceDatasetFacet(database, f"duckdb:{database}")}
        return OutputDataset(self._project.name, node.name, facets=facets)

    def _tested(self, sql: Structure, states: dict[str, str], versions: dict[str, str]) -> Iterator[InputDataset]:
        """Yield every table that has data tests, with their results."""
        found = defaultdict(list)
        for test, about in sql.tests.items():
            if test not in states:
                continue
            column, warns = about["column"], states[test] == "warn"
            made = data_quality_assertions_dataset.Assertion(
                test.split(".")[2], states[test] == "pass", column, severity="warn" if warns else "error"
            )
            for node in (sql.nodes[each] for each in about["reads"] if each in sql.nodes):
                if column is None or column in sql.columns(node.id):
                    found[node.name].append(made)
        for name, assertions in sorted(found.items()):
            facet = data_quality_assertions_dataset.DataQualityAssertionsDatasetFacet(assertions)
            checked: dict[str, Any] = {"dataQualityAssertions": facet}
            yield InputDataset(self._project.name, name, inputFacets=checked, facets=_version(versions[name]))

    # Files

    @cached_property
    def _patterns(self) -> dict[str, str]:
        """The names in the SQL of tables that the pipeline keeps as files, by the pattern of the files."""
        if not self._sql:
            return {}
        found = {node.files: node.name for node in self._sql.nodes.values() if node.kind == "source"}
        for path in self._project.tables:
            node = self._sql.find(Path(path).stem)
            found[path] = node.name if node else path
        return found

    def _tables(self, output: Output) -> list[Table]:
        below = {
            name: pattern for pattern, name in self._patterns.items() if f"{pattern}/".startswith(f"{output.path}/")
        }
        files = self._store.files([output]) if below else []
        found = []
        for name, pattern in sorted(below.items()):
            own = sorted((file for file in files if fnmatchcase(file.path, pattern)), key=lambda each: each.path)
            if own:
                found.append(_read(name, pattern, tuple(own), self._store.cache))
        return found

    def _inputs(self, source: Output) -> Iterator[InputDataset]:
        yield InputDataset(self._project.name, source.path, facets={**self._place(source.path), **_version(source.md5)})
        for table in self._tables(source):
            yield InputDataset(self._project.name, table.name, facets=_version(table.version))

    def _outputs(self, output: Output) -> Iterator[OutputDataset]:
        files = self._store.files([output])
        size = sum(self._store.object_path(file.md5).stat().st_size for file in files)
        facets = {**self._place(output.path), **_version(output.md5)}
        yield OutputDataset(self._project.name, output.path, _statistics(size, len(files)), facets=facets)
        for table in self._tables(output):
            yield self._table(table, {**_schema(table.columns), **_version(table.version)})

    def _table(self, table: Table, facets: dict[str, Any]) -> OutputDataset:
        statistics = _statistics(table.size, table.files, table.rows)
        place = self._place(table.pattern.split("*")[0].rstrip("/"))
        return OutputDataset(self._project.name, table.name, statistics, facets={**facets, **place})

    def _place(self, path: str) -> dict[str, Any]:
        uri = (self._project.folder / path).as_uri()
        return {"dataSource": datasource_dataset.DatasourceDatasetFacet(self._project.name, uri)}

    # Decisions

    def entry(self, entry: Entry, release: Release | None) -> Iterator[RunEvent]:
        """Yield the events of a release, promotion or rollback. An approval moves no data, so it is not a run."""
        if entry.kind not in ("release", "promote", "rollback"):
            return
        inputs, outputs, name = [], [], self._project.name
        if release and entry.kind == "release":
            model = next(each for each in release.outputs() if each.path == release.model["path"])
            gates = [_gate(gate) for gate in release.evidence["gates"] or []]
            facet = data_quality_assertions_dataset.DataQualityAssertionsDatasetFacet(gates)
            checked: dict[str, Any] = {"dataQualityAssertions": facet} if gates else {}
            inputs.append(InputDataset(name, model.path, inputFacets=checked, facets=_version(model.md5)))
            kept = [out for out in release.outputs() if out != model]
            inputs += [InputDataset(name, out.path, facets=_version(out.md5)) for out in kept]
            total = _statistics(sum(out.size for out in release.outputs()), len(release.outputs()))
            outputs.append(OutputDataset(name, f"releases/{release.id}", total, facets=_version(release.digest)))
        elif entry.release:
            facets = _version(release.digest) if release else {}
            inputs.append(InputDataset(name, f"releases/{entry.release}", facets=facets))
        if entry.channel:
            facets = _version(f"{entry.generation}: {entry.release or 'nothing'}")
            outputs.append(OutputDataset(name, f"channels/{entry.channel}", facets=facets))
        at = datetime.fromisoformat(entry.at)
        own = self.run_id("ledger", str(entry.number), entry.at)
        commit = release.commit if release else None
        yield from self._run(
            Span(at, at), entry.kind, own, "DECISION", file="params.yaml", commit=commit, inputs=inputs, outputs=outputs
        )

    # Batches of predictions

    def batch(self, batch: Batch, flow_run: str | None) -> Iterator[RunEvent]:
        """Yield events for a file of predictions that was written."""
        at, name = datetime.fromisoformat(batch.at), self._project.name
        inputs = [InputDataset(name, f"releases/{batch.release}")]
        for path, digest in sorted(batch.inputs.items()):
            facets = _version(digest)
            inputs.append(InputDataset(name, self._patterns.get(path, path), facets=facets))
        facets = {**self._place(batch.path), **_version(batch.digest)}
        yield from self._run(
            Span(at, at),
            "score",
            self.run_id("score", batch.path, batch.digest),
            "BATCH_SCORING",
            parent=("scoring", flow_run) if flow_run else None,
            root=flow_run,
            file="params.yaml",
            inputs=inputs,
            outputs=[OutputDataset(name, batch.path, _statistics(None, 1, batch.rows), facets=facets)],
        )

    # Parts that all events have

    def _run(
        self,
        span: Span,
        name: str,
        run: str,
        kind: str,
        *,
        parent: tuple[str, str] | None = None,
        root: str | None = None,
        nominal: datetime | None = None,
        file: str = "dvc.yaml",
        commit: str | None = None,
        job: dict[str, Any] | None = None,
        inputs: list[InputDataset] | None = None,
        outputs: list[OutputDataset] | None = None,
    ) -> Iterator[RunEvent]:
        """Yield the START of a run and its end. The end lists what was read and written, and any error."""
        namespace = self._project.name
        run_facets: dict[str, Any] = {
            "nominalTime": nominal_time_run.NominalTimeRunFacet((nominal or span.start).isoformat())
        }
        if parent and root:
            above = parent_run.Run(parent[1]), parent_run.Job(namespace, parent[0])
            top = PIPELINE if kind != "BATCH_SCORING" else parent[0]
            whole = parent_run.Root(parent_run.RootRun(root), parent_run.RootJob(namespace, top))
            run_facets["parent"] = parent_run.ParentRunFacet(*above, whole)
        integration = {"MODEL": "DBT", "TEST": "DBT", "STAGE": "DVC", "DECISION": "LEDGER"}.get(kind, "PREFECT")
        job_facets = {
            "jobType": job_type_job.JobTypeJobFacet("BATCH", integration, kind),
            "sourceCodeLocation": self._source(file, commit),
            **(job or {}),
        }
        problem = (
            {"errorMessage": error_message_run.ErrorMessageRunFacet(span.problem, "python")} if span.problem else {}
        )
        yield RunEvent(
            eventTime=span.start.isoformat(),
            producer=self._project.address,
            eventType=RunState.START,
            run=Run(run, run_facets),
            job=Job(namespace, name, job_facets),
        )
        yield RunEvent(
            eventTime=span.end.isoformat(),
            producer=self._project.address,
            eventType=RunState[span.state],
            run=Run(run, run_facets | problem),
            job=Job(namespace, name, job_facets),
            inputs=inputs or [],
            outputs=outputs or [],
        )

    def _source(self, file: str, commit: str | None) -> source_code_location_job.SourceCodeLocationJobFacet:
        version = commit or (None if file in self._project.changed else self._project.commit)
        return source_code_location_job.SourceCodeLocationJobFacet(
            "git", self._project.url(file, version), self._project.repository, self._project.prefix + file, version
        )


@lru_cache(maxsize=100)  # one stage's output is the next one's input
def _read(name: str, pattern: str, files: tuple[File, ...], cache: Path) -> Table:
    import pyarrow.parquet as pq

    paths = [cache / file.md5[:2] / file.md5[2:] for file in files]
    about = [pq.read_metadata(path) for path in paths]
    listed = "\n".join(f"{file.path} {file.md5}" for file in files)
    return Table(
        name,
        pattern,
        files[0].md5 if len(files) == 1 else hashlib.sha256(listed.encode()).hexdigest(),
        len(files),
        sum(path.stat().st_size for path in paths),
        sum(each.num_rows for each in about),
        {field.name: str(field.type) for field in about[0].schema.to_arrow_schema()},
    )


def _version(digest: str) -> dict[str, Any]:
    return {"version": dataset_version_dataset.DatasetVersionDatasetFacet(digest)}


def _schema(columns: dict[str, Any]) -> dict[str, Any]:
    fields = [schema_dataset.SchemaDatasetFacetFields(name, kind) for name, kind in columns.items()]
    return {"schema": schema_dataset.SchemaDatasetFacet(fields)}


def _statistics(size: int | None, files: int, rows: int | None = None) -> dict[str, Any]:
    facet = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(rows, size, files)
    return {"outputStatistics": facet}


def _gate(gate: dict[str, Any]) -> data_quality_assertions_dataset.Assertion:
    return data_quality_assertions_dataset.Assertion(
        gate["name"], gate["pass"], expected=json.dumps(gate["threshold"], sort_keys=True), actual=str(gate["value"])
    )
