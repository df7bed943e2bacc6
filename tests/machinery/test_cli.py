"""The command line as people use it: real processes, on a project of the test's own."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from lifecycle.testing import (
    ROOT,
    cli,
    digests,
    edit_params,
    environment,
    forget_runs,
    mlflow_rows,
    own_settings,
)

import synthetic

FIRST, BEFORE_LAST, LAST = synthetic.MONTHS[0], synthetic.MONTHS[-2], synthetic.MONTHS[-1]
STAGES = ["ingest", "transform", "train", "evaluate"]
BUILT = [Path(name) for name in ("data/raw", "data/features", "data/source.json", "model", "reports", "dvc.lock")]


def run_json(*arguments: str) -> dict[str, Any]:
    done = cli("run", "--json", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    outcome: dict[str, Any] = json.loads(done.stdout)
    return outcome


def status_json() -> dict[str, Any]:
    done = cli("status", "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def stale() -> dict[str, list[str]]:
    """Stale stages and why."""
    return {stage["name"]: stage["reasons"] for stage in status_json()["stages"] if not stage["fresh"]}


def outcomes(stderr: str) -> dict[str, str]:
    """step -> ran or cached, from the lines that a run shows while it works."""
    lines = [line.split() for line in stderr.splitlines()]
    return {line[0]: line[1] for line in lines if len(line) > 1 and line[1] in ("ran", "cached")}


def test_again_with_nothing_changed_does_nothing(built: Path) -> None:
    before = digests(built)
    done = cli("run")
    assert done.returncode == 0
    assert done.stdout.startswith("Nothing has changed.")
    assert outcomes(done.stderr) == {}
    # MLflow's database and artifacts are among these.
    after = digests(built)
    assert {path for path in before | after if before.get(path) != after.get(path) and ".dvc/tmp" not in path} == set()


def test_the_watermark_goes_down_and_up_again(built: Path) -> None:
    high, before = json.loads((built / ".lifecycle/tracked.json").read_text(encoding="utf-8")), digests(*BUILT)
    done = cli("run", "--through", BEFORE_LAST)
    assert done.returncode == 0, done.stderr
    assert outcomes(done.stderr) == dict.fromkeys([*STAGES, "track"], "ran")
    assert status_json()["data"]["through"] == BEFORE_LAST
    assert list(Path("data/raw").rglob(f"{BEFORE_LAST}.parquet"))
    assert not list(Path("data/raw").rglob(f"{LAST}.parquet"))
    low = status_json()["last_run"]
    assert low["version"] == high["version"] + 1

    done = cli("run", "--through", LAST)
    assert done.returncode == 0, done.stderr
    assert {step: how for step, how in outcomes(done.stderr).items() if step in STAGES} == dict.fromkeys(
        STAGES, "cached"
    )
    assert digests(*BUILT) == before
    # MLflow has had this result: nothing is added, and its model is the challenger again.
    assert [mlflow_rows(table) for table in ("runs", "model_versions")] == [2, 2]
    again = status_json()["last_run"]
    assert (again["run_id"], again["version"]) == (high["run_id"], high["version"])
    assert stale() == {}


def test_by_hand_with_dvc_the_lock_file_is_the_same(built: Path) -> None:
    before = digests(*BUILT)
    forget_runs(built)
    python = [sys.executable, "-c", "from dvc.cli import main; raise SystemExit(main())"]
    path = f"{Path(sys.executable).parent}:{environment(built)['PATH']}"
    for arguments in (["repro", "--force"], ["status"]):
        done = subprocess.run(
            [*python, *arguments], env=environment(built, PATH=path), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert "up to date" in done.stdout
    assert digests(*BUILT) == before


def test_a_fresh_project_says_that_nothing_has_run(project: Path) -> None:
    found = status_json()
    assert [stage["name"] for stage in found["stages"]] == STAGES
    assert not any(stage["fresh"] for stage in found["stages"])
    assert found["last_run"] is None
    assert "none on this machine" in cli("status").stdout


def test_status_of_a_finished_project(built: Path) -> None:
    found = status_json()
    assert stale() == {}
    assert found["source_changes"] == []
    assert found["result_is_tracked"] is True
    assert found["last_run"]["version"] == 1
    text = cli("status").stdout
    assert all(f"{stage:<10} fresh" in text for stage in STAGES)


def test_status_says_what_is_stale_and_why(built: Path) -> None:
    model = next(built.glob("transform/models/*/*.sql"))
    model.write_text(model.read_text(encoding="utf-8") + "-- edited\n", encoding="utf-8")
    found = stale()
    assert list(found) == ["transform", "train", "evaluate"]
    assert any("transform/models" in reason for reason in found["transform"])
    assert found["train"] == ["transform is stale"]

    edit_params(built, {"train": {"seed": 7}})
    assert any(reason.startswith("params.yaml: train") for reason in stale()["train"])

    file = next(built.glob("data/raw/**/*.parquet"))
    file.write_bytes(file.read_bytes() + b"\0")
    assert any("data/raw" in reason for reason in stale()["ingest"])
    assert "stale: " in cli("status").stdout


def test_status_says_what_is_new_at_the_source(built: Path) -> None:
    changed = next(built.glob(f"extracts/*/{FIRST}.parquet"))
    changed.write_bytes(changed.read_bytes() + b"\0")
    changes = status_json()["source_changes"]
    assert changes == [f"{changed.relative_to(built / 'extracts')} changed"]


def test_a_failed_gate_is_exit_code_3_and_no_version(built: Path) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    name = next(iter(params["evaluate"]["gates"]))
    edit_params(built, {"evaluate": {"gates": {name: {"min": 2.0}, "no_such_metric": {"min": 0.0}}}})
    done = cli("run", "--json")
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["version"] is None
    assert [gate.split()[0] for gate in outcome["failed_gates"]] == sorted([name, "no_such_metric"])
    ran = outcomes(done.stderr)
    assert (ran["train"], ran["evaluate"]) == ("cached", "ran")
    again = cli("run")
    assert again.returncode == 3
    assert "not registered" in again.stdout


@pytest.mark.parametrize("month", ["2013-13", "July", "1999-01", "../../etc"])
def test_a_watermark_that_is_no_month(month: str, project: Path) -> None:
    before = (project / "params.yaml").read_bytes()
    done = cli("run", "--through", month)
    assert done.returncode == 1
    assert done.stderr.startswith("error: params.yaml: data")
    assert done.stderr.count("\n") == 1
    assert (project / "params.yaml").read_bytes() == before


@pytest.mark.parametrize("command", ["run", "status", "docs"])
def test_outside_a_project(command: str, tmp_path: Path) -> None:
    done = cli(command, folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "error: no dvc.yaml here or in a folder above: change to the project's folder\n"


def test_from_a_folder_inside_the_project(built: Path) -> None:
    elsewhere = own_settings(built)
    done = cli("status", "--json", folder=built / "transform/models", **elsewhere)
    assert done.returncode == 0, done.stderr
    assert all(stage["fresh"] for stage in json.loads(done.stdout)["stages"])


def test_an_unknown_command_or_option(tmp_path: Path) -> None:
    for arguments in (["fly"], ["run", "--until", "2013-07"]):
        done = cli(*arguments, folder=tmp_path)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr


def test_the_module_and_the_script_are_the_same() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert [*scripts.values()] == ["lifecycle.cli:main"]


def test_the_list_of_commands_fits_a_terminal_of_80_columns() -> None:
    listed = cli("--help", folder=ROOT, COLUMNS="80").stdout.partition("Commands:")[2]
    assert "promote" in listed
    assert "..." not in listed, "cut off: its first sentence is too long"
