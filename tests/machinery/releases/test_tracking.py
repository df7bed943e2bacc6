"""MLflow, with a real server: what is logged, once and only once, and the model as others load it."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from lifecycle.errors import UserError
from lifecycle.params import load_params
from lifecycle.processes import free_port, server
from lifecycle.releases import tracking
from lifecycle.releases.pipeline import locked, result_digest
from lifecycle.testing import LEAVES, digests, environment, own

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


@pytest.fixture(scope="module")
def uri(fresh: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with a database of its own, empty; making its tables anew would take it long."""
    folder = tmp_path_factory.mktemp("mlflow")
    (folder / "mlflow.db").write_bytes((fresh / "mlflow.db").read_bytes())
    port = free_port()
    command = [str(Path(sys.executable).with_name("mlflow")), "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", "sqlite:///mlflow.db", "--artifacts-destination", "artifacts", "--workers", "1"]
    with server(command, f"http://127.0.0.1:{port}/health", folder, folder / "server.log", environment(folder)):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def name(built: Path, uri: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of a model that this test alone logs to the server; the test stands in a project whose stages have run."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    mine = str(request.node.name).replace("_", "-")[:60]
    pipeline = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))
    pipeline["artifacts"] = {mine: {"path": "model", "type": "model"}}
    Path("dvc.yaml").write_text(yaml.safe_dump(pipeline), encoding="utf-8")
    return mine


def client() -> "MlflowClient":
    return tracking.open_client()


def runs(name: str) -> list["Run"]:
    """Every run of the model's experiment that is not deleted."""
    found = client().get_experiment_by_name(name)
    return list(client().search_runs([found.experiment_id])) if found else []


def versions(name: str) -> list[int]:
    return sorted(int(each.version) for each in client().search_model_versions(f"name = '{name}'"))


def challenger(name: str) -> int:
    return int(client().get_model_version_by_alias(name, tracking.CHALLENGER).version)


def test_everything_about_a_result_is_logged_once(name: str) -> None:
    Path("notes.txt").write_text("not committed", encoding="utf-8")
    tracked = tracking.track("11111111-1111-1111-1111-111111111111")
    assert (tracked.model_name, tracked.version, challenger(name)) == (name, 1, 1)
    assert tracking.is_tracked()

    (run,) = runs(name)
    assert run.info.status == "FINISHED"
    assert run.data.params["train.num_leaves"] == str(LEAVES)
    assert run.data.params["data.through"] == load_params().data.through
    measured = json.loads(Path("reports/metrics.json").read_text(encoding="utf-8"))
    top = {name: value for name, value in measured.items() if isinstance(value, int | float)}
    assert top
    assert top.items() <= run.data.metrics.items()
    nested = {name: value for name, value in run.data.metrics.items() if name.startswith("baselines.")}
    baselines = pd.json_normalize(measured["baselines"]).loc[0]
    assert nested == {f"baselines.{name}": value for name, value in baselines.items()}
    curve = pd.read_csv("reports/learning_curve.csv")
    loss = curve.columns[-1]
    history = client().get_metric_history(run.info.run_id, loss)
    assert [point.step for point in history] == curve["round"].tolist()
    assert [point.value for point in history] == curve[loss].tolist()

    outs = {out["path"]: out["md5"] for stage in locked().values() for out in stage["outs"]}
    logged = {each.dataset.name: each.dataset.digest for each in run.inputs.dataset_inputs}
    data = {path: digest.removesuffix(".dir") for path, digest in outs.items() if path.startswith("data/")}
    assert logged == data
    assert set(data) == {"data/raw", "data/features"}

    tags = run.data.tags
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert tags["mlflow.source.git.commit"] == head
    assert {"notes.txt", "dvc.yaml"} <= set(tags["git.dirty"].split(", "))
    assert "dvc.lock" not in tags["git.dirty"]
    assert tags["dvc.lock"] == f"sha256:{digests(Path('dvc.lock'))['dvc.lock']}"
    assert tags["prefect.flow_run_id"] == "11111111-1111-1111-1111-111111111111"
    assert tags["result_digest"] == result_digest() == tracked.result_digest
    assert tags["gates"] == "passed"
    folders = [client().list_artifacts(tracked.run_id, folder) for folder in ("reports", "pipeline")]
    artifacts = {file.path for folder in folders for file in folder}
    assert {"reports/report.html", "reports/plots", "pipeline/dvc.lock", "pipeline/params.yaml"} <= artifacts

    # Once more, here and where nobody remembers.
    again = tracking.track("22222222-2222-2222-2222-222222222222")
    tracking.TRACKED_FILE.unlink()
    assert not tracking.is_tracked()
    elsewhere = tracking.track()
    assert again.run_id == elsewhere.run_id == tracked.run_id
    assert (len(runs(name)), versions(name), challenger(name)) == (1, [1], 1)


LOAD = """
import json, sys
import mlflow, pandas as pd
uri, rows, answer = sys.argv[1:]
mlflow.set_tracking_uri(uri)
loaded = mlflow.pyfunc.load_model(f"models:/{answer}@challenger")
frame = pd.read_parquet(rows)
found = {"columns": [each.name for each in loaded.metadata.signature.inputs]}
found["whole"] = [value.hex() for value in loaded.predict(frame).tolist()]
rows = json.loads(frame.head(20).to_json(orient="records"))
found["few"] = [value.hex() for value in loaded.predict(pd.DataFrame(rows)).tolist()]
found["nullable"] = [value.hex() for value in loaded.predict(frame.head(20).convert_dtypes()).tolist()]
found["each"] = [value.hex() for row in rows for value in loaded.predict(pd.DataFrame([row])).tolist()]
print(json.dumps(found))
"""


def test_the_registered_model_predicts_elsewhere_what_the_pipelines_predicts(
    name: str, uri: str, tmp_path: Path
) -> None:
    tracking.track()
    local = own("model").load(Path("model"))
    train = own("train")
    holdout = train.split(pq.read_table(train.FEATURES), load_params().split).holdout
    rows = holdout.select([feature.name for feature in local.features]).to_pandas()
    # What a caller may send: texts never seen, nothing known at all, whole numbers that are missing.
    numbers = [feature.name for feature in local.features if feature.categories is None]
    texts = [feature.name for feature in local.features if feature.categories is not None]
    rows = rows.astype(dict.fromkeys(numbers, "float64"))
    rows.loc[0, texts] = "ZZ"
    rows.loc[1, texts] = None
    rows.loc[2, numbers] = np.nan
    rows.to_parquet(tmp_path / "rows.parquet", index=False)
    expected = [value.hex() for value in local.predict(pa.Table.from_pandas(rows, preserve_index=False)).tolist()]

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = subprocess.run(
        [sys.executable, "-I", "-c", LOAD, uri, str(tmp_path / "rows.parquet"), name],
        cwd=elsewhere,
        env=environment(elsewhere),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["columns"] == [feature.name for feature in local.features]
    assert found["whole"] == expected
    assert found["few"] == found["each"] == found["nullable"] == expected[:20]


def test_a_result_that_failed_a_gate_is_logged_and_not_registered(name: str) -> None:
    gates = json.loads(Path("reports/gates.json").read_text(encoding="utf-8"))
    gates[0]["pass"] = False
    Path("reports/gates.json").write_text(json.dumps(gates), encoding="utf-8")
    tracked = tracking.track()
    assert tracked.version is None
    (run,) = runs(name)
    assert run.info.status == "FINISHED"
    assert run.data.tags["gates"].startswith(f"failed: {gates[0]['name']} is ")
    assert versions(name) == []


def test_a_server_that_does_not_answer_is_one_line_and_costs_no_stage(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = digests(Path("model"), Path("dvc.lock"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    assert int(tracking.SETTINGS["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]) <= 3  # two seconds, four, eight, ...
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match="the result is built, but MLflow at http://127") as failed:
        tracking.track()
    assert "\n" not in str(failed.value)
    assert str(failed.value).endswith("Run again when it is back; no stage will run twice")
    assert digests(Path("model"), Path("dvc.lock")) == kept
    assert not tracking.is_tracked()


# Every call by which logging changes something at the server, in order.
STEPS = [
    "create_run",
    "log_batch",
    "log_inputs",
    "log_artifacts",
    "log_artifact",
    "log_model_artifacts",
    "finalize_logged_model",
    "create_model_version",
    "set_terminated",
    "set_tag",
    "set_registered_model_alias",
]


def test_logging_that_was_interrupted_leaves_one_run_and_one_version(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    def interrupted_after(step: str) -> Callable[..., None]:
        real = getattr(MlflowClient, step)

        def call(self: MlflowClient, *arguments: Any, **named: Any) -> None:
            real(self, *arguments, **named)
            raise KeyboardInterrupt

        return call

    for step in STEPS:
        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, step, interrupted_after(step))
            with pytest.raises(KeyboardInterrupt):
                tracking.track()
        assert not tracking.is_tracked()
    tracked = tracking.track()
    (run,) = runs(name)
    assert (run.info.run_id, run.info.status) == (tracked.run_id, "FINISHED")
    assert run.data.tags[tracking.DONE_TAG]
    assert versions(name) == [tracked.version] == [challenger(name)]


def test_nothing_but_the_result_reaches_the_terminal(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from lifecycle.releases import tracking; tracking.track()"],
        env=environment(Path.cwd(), MLFLOW_TRACKING_URI=tracking.tracking_uri()),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
