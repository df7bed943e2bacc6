"""MLflow tracking: one run for each distinct pipeline result, and a registered version of its model.

Nothing here decides anything. A run can be logged again from dvc.lock and the files it names. A result that MLflow
already has is not logged twice.
"""

import contextlib
import csv
import json
import os
import sqlite3
import sys
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from .. import project
from ..errors import UserError, one_line, redacted, redacted_traceback
from ..files import sha256, write_json
from ..params import PARAMS_FILE
from ..progress import note
from . import databases, git
from .pipeline import LOCK_FILE, PIPELINE_FILE, artifacts, flat, outputs, result_digest

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Metric, Param
    from mlflow.models import ModelSignature

TRACKED_FILE = Path(".lifecycle/tracked.json")
DATABASE = Path("mlflow.db")
METRICS_FILE = Path("reports/metrics.json")
GATES_FILE = Path("reports/gates.json")
REPORTS = Path("reports")

# Files under git that a run writes itself: they do not count as unsaved work.
WRITTEN_BY_RUNS = (str(LOCK_FILE), "data/source.json")

CHALLENGER = "challenger"
RESULT_TAG = "result_digest"
# Set last: a run without it was interrupted.
DONE_TAG = "model_uri"
# A plot over one of these is a curve that grew during training.
STEPS = ("round", "step", "epoch", "iteration")


@dataclass(frozen=True)
class Tracked:
    """Where MLflow keeps a pipeline result. `version` is None if a gate failed: such a model gets no version."""

    result_digest: str
    tracking_uri: str
    run_id: str
    model_name: str
    version: int | None
    logged_at: str


def tracking_uri() -> str:
    """Return MLFLOW_TRACKING_URI, or the URI of a SQLite file in the project."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{DATABASE.resolve()}"


def own_database() -> Path | None:
    """Return the project's own SQLite file, if it is the one in use."""
    own = DATABASE.resolve()
    return own if tracking_uri() == f"sqlite:///{own}" else None


def noted_uri() -> str:
    """Return the tracking URI for project files: without its password, and without the folder, which may move."""
    return f"sqlite:///{DATABASE}" if own_database() else redacted(tracking_uri())


def is_there(noted: object) -> bool:
    """Return whether a stored URI is the MLflow in use now. If its file is gone, it has to be created again."""
    uri = tracking_uri()
    there = not uri.startswith("sqlite:///") or Path(uri.removeprefix("sqlite:///")).exists()
    return there and noted == noted_uri()


def follow_project() -> list[str]:
    """Make sure that MLflow's artifacts are in this folder, if MLflow is the project's own. Return what was done.

    Raises:
        UserError: the database is damaged.
    """
    database = own_database()
    if database is None or not database.exists():
        return []
    try:
        return databases.follow_project(database)
    except sqlite3.DatabaseError as error:
        if databases.damage(database):
            raise UserError(damaged(database)) from None
        raise UserError(f"{database} cannot be used: {one_line(error)}") from None


def damaged(database: Path) -> str:
    """Return the message for a damaged project database."""
    return (
        f"MLflow's database {database} is damaged: `doctor` moves it aside, and makes a new one from the ledger and DVC"
    )


@contextlib.contextmanager
def in_words(what: str, way_on: str) -> Iterator[None]:
    """Turn MLflow's errors into one line: `WHAT: its reason. WAY ON`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if (database := own_database()) and databases.damage(database):
            raise UserError(damaged(database)) from None
        from mlflow.exceptions import MlflowException

        if not isinstance(error, MlflowException):
            raise
        raise UserError(f"{what}: {one_line(error)}. {way_on}") from None


def last_tracked() -> Tracked | None:
    """Return the outcome of this project's last run, as recorded on this machine."""
    try:
        return Tracked(**json.loads(TRACKED_FILE.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def is_tracked() -> bool:
    """Return whether the current pipeline result is known to be in MLflow, without importing MLflow."""
    last = last_tracked()
    if last is None or not LOCK_FILE.exists():
        return False
    return is_there(last.tracking_uri) and last.result_digest == result_digest()


def gates() -> list[dict[str, Any]]:
    """Return the gates of the current result: name, threshold, value, pass."""
    found: list[dict[str, Any]] = json.loads(GATES_FILE.read_text(encoding="utf-8"))
    return found


def failed_gates() -> list[str]:
    """Return the gates that the current result fails, each with its bound and value."""
    return [f"{gate['name']} is {gate['value']}, gate {gate['threshold']}" for gate in gates() if not gate["pass"]]


def warm_up() -> None:
    """Import MLflow and open its database while a stage runs in another process."""
    open_client().search_experiments(max_results=1)


# Settings that MLflow reads when imported: no terminal noise, and only seconds of retries instead of minutes, since a
# server that is down stays down longer than a command should take.
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def open_client() -> "MlflowClient":
    """Return MLflow's client for this project's server or file."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    for done in follow_project():
        note(done)
    import mlflow

    mlflow.set_tracking_uri(tracking_uri())
    return mlflow.MlflowClient()


def track(flow_run_id: str | None = None, commit: str | None = None) -> Tracked:
    """Make sure that MLflow has the current pipeline result, with its model as the challenger.

    Args:
        flow_run_id: the Prefect flow run that built it.
        commit: the commit that the result belongs to; for a folder that is not a repository.

    Raises:
        UserError: MLflow cannot be reached.
    """
    what = f"the result is built, but MLflow at {tracking_uri()} could not take it"
    with in_words(what, "Run again when it is back; no stage will run twice"):
        return _track(flow_run_id, commit)


def _track(flow_run_id: str | None, commit: str | None) -> Tracked:
    client = open_client()
    name = next(name for name, artifact in artifacts().items() if artifact["type"] == "model")
    digest = result_digest()
    experiment = experiment_of(client, name)
    run_id = _finished_run(client, experiment, digest)
    if run_id is None:
        _drop_versions(client, name, digest)
        run_id = _log_run(client, experiment, name, digest, _tags(digest, flow_run_id, commit))
    version = _challenge(client, name, digest)
    tracked = Tracked(digest, noted_uri(), run_id, name, version, datetime.now(UTC).isoformat(timespec="seconds"))
    write_json(TRACKED_FILE, asdict(tracked))
    return tracked


def experiment_of(client: "MlflowClient", name: str) -> str:
    """Return the id of the experiment with this name. Create it if it does not exist."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    database = tracking_uri().removeprefix("sqlite:///")
    location = (Path(database).with_name("mlartifacts") / name).as_uri() if database != tracking_uri() else None
    return str(client.create_experiment(name, artifact_location=location))


def _finished_run(client: "MlflowClient", experiment: str, digest: str) -> str | None:
    """Return the completed run of this result. Deletes interrupted runs of it."""
    finished = None
    for run in client.search_runs([experiment], f"tags.{RESULT_TAG} = '{digest}'"):
        if DONE_TAG in run.data.tags:
            finished = str(run.info.run_id)
        else:
            client.delete_run(run.info.run_id)
    return finished


def _drop_versions(client: "MlflowClient", name: str, digest: str) -> None:
    for version in _versions(client, name, digest):
        client.delete_model_version(name, str(version))


def _versions(client: "MlflowClient", name: str, digest: str) -> list[int]:
    found = client.search_model_versions(f"name = '{name}'")
    return sorted(int(each.version) for each in found if each.tags.get(RESULT_TAG) == digest)


def _challenge(client: "MlflowClient", name: str, digest: str) -> int | None:
    versions = _versions(client, name, digest)
    if not versions:
        return None
    held = client.get_registered_model(name).aliases.get(CHALLENGER)
    if str(held) != str(versions[-1]):
        client.set_registered_model_alias(name, CHALLENGER, str(versions[-1]))
    return versions[-1]


def challenge_again(client: "MlflowClient") -> list[str]:
    """Make sure the current result is still the challenger in the project's own MLflow. Return what was done."""
    last = last_tracked()
    if last is None or not own_database() or not is_tracked():
        return []
    held = client.get_registered_model(last.model_name).aliases.get(CHALLENGER) if last.version else None
    now = _challenge(client, last.model_name, last.result_digest)
    if now is None or str(held) == str(now):
        return []
    return [f"alias {CHALLENGER} is {last.model_name} version {now}" + (f", was {held}" if held else "")]


def _log_run(client: "MlflowClient", experiment: str, name: str, digest: str, tags: dict[str, str]) -> str:
    from mlflow.entities import Param

    failed = failed_gates()
    tags |= {"gates": f"failed: {'; '.join(failed)}" if failed else "passed"}
    run_id = str(client.create_run(experiment, tags=tags, run_name=f"{name}-{digest[:8]}").info.run_id)
    params = [Param(key, str(value)) for key, value in flat(yaml.safe_load(PARAMS_FILE.read_text(encoding="utf-8")))]
    log_values(client, run_id, list(_metrics()), params)
    client.log_inputs(run_id, list(_datasets()))
    client.log_artifacts(run_id, str(REPORTS), "reports")
    for file in (PIPELINE_FILE, LOCK_FILE, PARAMS_FILE):
        client.log_artifact(run_id, str(file), "pipeline")
    model_id, uri = _log_model(run_id)
    if not failed:
        _register(client, name, uri, run_id, model_id, digest)
    client.set_terminated(run_id, "FINISHED")
    client.set_tag(run_id, DONE_TAG, uri)
    return run_id


def log_values(client: "MlflowClient", run_id: str, metrics: "list[Metric]", params: "list[Param]") -> None:
    """Log any number of metrics and parameters. MLflow takes at most 1,000 and 100 in one call."""
    for start in range(0, max(len(metrics), len(params)), 100):
        client.log_batch(run_id, metrics[start : start + 100], params[start : start + 100])


def _tags(digest: str, flow_run_id: str | None, commit: str | None) -> dict[str, str]:
    tags = {RESULT_TAG: digest, "dvc.lock": f"sha256:{sha256(LOCK_FILE)}", "mlflow.source.name": PIPELINE_FILE.name}
    source = git.Commit(commit, ()) if commit else git.head()
    if source:
        changed = [file for file in source.changed if file not in WRITTEN_BY_RUNS]
        tags |= {"mlflow.source.git.commit": source.sha, "git.dirty": ", ".join(changed)[:1000] or "no"}
    if flow_run_id:
        tags["prefect.flow_run_id"] = flow_run_id
    return tags


def _metrics() -> Iterator["Metric"]:
    from mlflow.entities import Metric

    now = int(datetime.now(UTC).timestamp() * 1000)
    for key, value in flat(json.loads(METRICS_FILE.read_text(encoding="utf-8"))):
        yield Metric(key, float(value), now, 0)
    for path, step, columns in curves():
        with Path(path).open(encoding="utf-8") as file:
            for row in csv.DictReader(file):
                for column in columns:
                    yield Metric(column, float(row[column]), now, int(row[step]))


def curves() -> Iterator[tuple[str, str, list[str]]]:
    """Yield the curves that grow during training, from the plots in dvc.yaml: file, column of the step, columns."""
    for plot in yaml.safe_load(PIPELINE_FILE.read_text(encoding="utf-8")).get("plots", []):
        for definition in plot.values():
            if definition.get("x") in STEPS:
                for path, columns in definition["y"].items():
                    yield path, definition["x"], [columns] if isinstance(columns, str) else columns


def _datasets() -> Iterator["DatasetInput"]:
    """Yield everything the pipeline built under data/, by digest of its content (MLflow's digest covers few rows)."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    for out in sorted(outputs(), key=lambda out: str(out["path"])):
        path = out["path"]
        if path.startswith("data/"):
            profile = {key: out[key] for key in ("size", "nfiles") if key in out}
            yield DatasetInput(
                Dataset(
                    name=path,
                    digest=out["md5"].removesuffix(".dir"),
                    source_type="local",
                    source=json.dumps({"uri": path, "dvc_md5": out["md5"]}),
                    profile=json.dumps(profile),
                ),
                [InputTag("mlflow.data.context", "training")],
            )


def _log_model(run_id: str) -> tuple[str, str]:
    """Log the model. Return MLflow's id of the model, and its URI."""
    import mlflow

    own = project.here()
    folder = next(Path(artifact["path"]) for artifact in artifacts().values() if artifact["type"] == "model")
    with mlflow.start_run(run_id=run_id), warnings.catch_warnings():
        # Our own signature allows missing values. Do not pass an example: MLflow would infer one from it.
        warnings.filterwarnings("ignore", message=".*input example", category=UserWarning)
        logged = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(__file__).with_name("pyfunc.py")),
            model_config={"module": own.model},
            artifacts={"model": str(folder)},
            code_paths=[str(Path("src", own.package))],
            # From the locked environment: MLflow's own detection takes 10 s.
            pip_requirements=[
                f"{name}=={installed_version(name)}" for name in ("mlflow", *project.model().REQUIREMENTS)
            ],
            signature=_signature(folder),
        )
    return str(logged.model_id), str(logged.model_uri)


def _signature(folder: Path) -> "ModelSignature":
    from mlflow.models import ModelSignature
    from mlflow.types.schema import AnyType, ColSpec, Schema, TensorSpec

    # A number may be an integer, a float or missing, and pandas has a type for each. With "double", MLflow refuses a
    # column of plain integers; with "long", one with a missing value.
    inputs: list[ColSpec | TensorSpec] = [
        ColSpec("string" if each.type == "string" else AnyType(), each.name, required=False)
        for each in project.model().load(folder).features
    ]
    return ModelSignature(Schema(inputs), Schema([ColSpec("double", "prediction")]))


def register_again(client: "MlflowClient", name: str, digest: str) -> bool:
    """Create a version again for a result that has a run but whose version was deleted. False without a run."""
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        return False
    for run in client.search_runs([experiment.experiment_id], f"tags.{RESULT_TAG} = '{digest}'"):
        if uri := run.data.tags.get(DONE_TAG):
            _register(client, name, uri, str(run.info.run_id), uri.removeprefix("models:/"), digest)
            return True
    return False


def _register(client: "MlflowClient", name: str, uri: str, run_id: str, model_id: str, digest: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(name)
    except MlflowException:
        client.create_registered_model(name)
    # A server rejects a source that does not belong to the model named by its id.
    client.create_model_version(name, uri, run_id, tags={RESULT_TAG: digest}, model_id=model_id, await_creation_for=0)


if __name__ == "__main__":
    with redacted_traceback():
        track(commit=sys.argv[1])
