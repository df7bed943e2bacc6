"""The pipeline and the loop on a real Airflow: LocalExecutor, on SQLite."""

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from lifecycle.processes import free_port, wait_until
from lifecycle.testing import (
    FEWER_LEAVES,
    LEAVES,
    ROOT,
    Releases,
    copy_project,
    digests,
    edit_params,
    own,
    repro,
)

import synthetic
from airflows import BIN, DAGS, Airflow, airflow, installed, set_up, settings_of

LOOP = ("refresh", "monitor", "rollout", "score")
# The first stage, and how it fails: a try that hangs is over after these seconds.
FIRST, PATIENCE = "ingest", 15


@dataclass(frozen=True)
class Local:
    """An Airflow that has the DAGs of a project."""

    airflow: Airflow
    folder: Path
    name: str

    def edit(self, **changes: Any) -> None:
        """Change the first stage in dvc.yaml."""
        path = self.folder / "dvc.yaml"
        pipeline = yaml.safe_load(path.read_text(encoding="utf-8"))
        pipeline["stages"][FIRST] |= changes
        path.write_text(yaml.safe_dump(pipeline, sort_keys=False), encoding="utf-8")


@pytest.fixture(scope="module")
def local(two_releases: Releases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    """An Airflow for all tests of this file."""
    folder = tmp_path_factory.mktemp("airflow")
    copy_project(two_releases.folder, folder / "project")
    set_up(folder / "project")
    name = yaml.safe_load((folder / "project/prefect.yaml").read_text(encoding="utf-8"))["name"]
    dags = str(folder / "project" / DAGS)
    settings = settings_of(folder / "home", "127.0.0.1", free_port(), AIRFLOW__CORE__DAGS_FOLDER=dags)
    with airflow(settings) as made:
        found = Local(made, folder / "project", name)
        found.edit(meta={"retries": 1, "backoff_seconds": 1, "timeout_seconds": PATIENCE})
        yield found


def test_the_dags_are_those_of_dvc_yaml_and_prefect_yaml(local: Local) -> None:
    for module in ("lifecycle", own("model").__name__):
        there = subprocess.run(
            [BIN / "python", "-c", f"import {module}"], env=local.airflow.settings, capture_output=True
        )
        assert b"ModuleNotFoundError" in there.stderr, "the project is not in Airflow's environment"
    found = {each["dag_id"]: each for each in wait_for_dags(local)}
    assert local.airflow.ask("importErrors")["import_errors"] == []
    assert set(found) == {local.name, *(f"{local.name}-{each}" for each in (*LOOP, "backfill"))}
    assert found[local.name]["timetable_summary"] == "0 6 * * *"
    assert found[f"{local.name}-backfill"]["next_dagrun_run_after"] > "2900"

    tasks = {each["task_id"]: each for each in local.airflow.ask(f"dags/{local.name}/tasks")["tasks"]}
    after = {name: sorted(each["downstream_task_ids"]) for name, each in tasks.items()}
    assert after == {
        "admit": ["ingest"],
        "ingest": ["transform"],
        "transform": ["evaluate", "train"],
        "train": ["evaluate"],
        "evaluate": ["track"],
        "track": [],
    }
    stages = yaml.safe_load((local.folder / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    for name in stages.keys() - {FIRST}:
        meta, task = stages[name]["meta"], tasks[name]
        assert (task["retries"], task["retry_delay"]["seconds"]) == (meta["retries"], meta["backoff_seconds"])
        assert task["execution_timeout"]["seconds"] == meta["timeout_seconds"]


def wait_for_dags(local: Local) -> list[dict[str, Any]]:
    wait_until(lambda: local.airflow.ask("dags")["dags"], "Airflow has no DAG")
    found: list[dict[str, Any]] = local.airflow.ask("dags")["dags"]
    return found


ODD: dict[str, dict[str, Any]] = {
    "dvc.yaml: the stage ingest has foreach, which Airflow's DAG does not read": {"foreach": ["a", "b"]},
    "dvc.yaml: the stage ingest has ${...} in a path, which": {"deps": ["${data.source}"]},
    "dvc.yaml places the stage ingest on gpu-pool, and LocalExecutor has no queues": {"meta": {"run_on": "gpu-pool"}},
}


@pytest.mark.parametrize("message", ODD)
def test_what_airflow_cannot_run_is_refused_by_name(message: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / DAGS, tmp_path / DAGS)
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    pipeline["stages"][FIRST] |= ODD[message]
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False), encoding="utf-8")
    shutil.copy(ROOT / "prefect.yaml", tmp_path)
    installed()
    settings = settings_of(tmp_path / "home", "127.0.0.1", free_port())
    command = [BIN / "python", *(tmp_path / DAGS).glob("*.py")]
    done = subprocess.run(command, env=settings, capture_output=True, text=True)
    assert message in done.stderr.splitlines()[-1]


def test_a_run_leaves_the_bytes_of_dvc_repro_and_an_event_for_each_output(local: Local, tmp_path: Path) -> None:
    edit_params(local.folder, {"train": {"num_leaves": LEAVES - FEWER_LEAVES + 1}})
    copy_project(local.folder, tmp_path / "oracle/project")
    repro(tmp_path / "oracle/project")
    run = local.airflow.start(local.name)
    assert local.airflow.end(run) == "success", local.airflow.states(run)
    cached = dict.fromkeys(("ingest", "transform"), "skipped")
    assert local.airflow.states(run) == cached | dict.fromkeys(("admit", "train", "evaluate", "track"), "success")
    names = ("dvc.lock", "model", "reports")
    ours, theirs = (
        [*digests(*(at / name for name in names)).values()] for at in (local.folder, tmp_path / "oracle/project")
    )
    assert ours == theirs
    log = local.airflow.log(run, "train")
    assert "rows to train on" in log
    assert "alias challenger" in local.airflow.log(run, "track")
    events = local.airflow.ask("assets/events")["asset_events"]
    assert {each["source_task_id"] for each in events} == {"train", "evaluate"}
    assert (f"{local.name}/model", f"dvc://{local.name}/model") in {(each["name"], each["uri"]) for each in events}


def test_a_backfill_scores_each_of_its_months(local: Local) -> None:
    dag, months = f"{local.name}-backfill", synthetic.MONTHS[:3]
    local.airflow.unpause(dag)
    dates = ["--from-date", f"{months[0]}-01", "--to-date", f"{months[-1]}-28"]
    command = [BIN / "airflow", "backfill", "create", "--dag-id", dag, *dates]
    subprocess.run(command, env=local.airflow.settings, cwd=local.folder, check=True, capture_output=True)

    def states() -> list[str]:
        return [each["state"] for each in local.airflow.ask(f"dags/{dag}/dagRuns")["dag_runs"]]

    wait_until(lambda: set(states()) <= {"success", "failed"}, "the backfill has not ended")
    assert states() == ["success"] * len(months)
    assert {path.stem for path in (local.folder / "data/scores").rglob("*.parquet")} == {*months}


def test_the_loop_runs_the_commands_that_prefect_yaml_schedules(local: Local) -> None:
    runs = {name: local.airflow.start(f"{local.name}-{name}") for name in LOOP}
    for run in runs.values():
        local.airflow.end(run)
    states = {name: local.airflow.states(run)[name] for name, run in runs.items()}
    # A rollout that waits for evidence is skipped, not failed. The monitor fails while a breach is open.
    assert states | {"monitor": ""} == {"refresh": "success", "monitor": "", "rollout": "skipped", "score": "success"}
    assert "waits for" in local.airflow.log(runs["rollout"], "rollout")
    assert "'monitor', '--if-on', '--act'" in local.airflow.log(runs["monitor"], "monitor")


def test_a_stage_that_fails_is_tried_again_unless_its_error_is_for_good(local: Local) -> None:
    hangs_once = "test -e tried && echo 'error: the disk is away' && exit 1; touch tried; sleep 1000"
    local.edit(cmd=hangs_once)
    run = local.airflow.start(local.name)
    assert local.airflow.end(run) == "failed"
    assert "Process timed out" in local.airflow.log(run, FIRST, 1)
    assert "error: stage ingest failed: the disk is away (log: logs/ingest.log" in local.airflow.log(run, FIRST, 2)
    assert local.airflow.tasks(run)[FIRST]["try_number"] == 2
    assert local.airflow.states(run)["track"] == "upstream_failed"

    local.edit(cmd="echo 'error: params.yaml: train is missing'; exit 2")
    run = local.airflow.start(local.name)
    assert local.airflow.end(run) == "failed"
    assert local.airflow.tasks(run)[FIRST]["try_number"] == 1
    assert "error: stage ingest failed: params.yaml: train is missing" in local.airflow.log(run, FIRST)
    assert (local.folder / "data/raw").exists(), "the last good outputs are back"
