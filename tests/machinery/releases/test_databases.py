"""Databases of MLflow and Prefect that are damaged, and projects that were copied or moved with them."""

import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote

import pytest

from lifecycle.releases import databases, ledger, registry, tracking
from lifecycle.testing import (
    FEWER_LEAVES,
    Releases,
    cli,
    cli_json,
    digests,
    edit_params,
    environment,
    is_quiet,
    wait_until,
)

from killing import look


def ruin(database: Path, start: int) -> bytes:
    """Write random bytes over all of a database from `start` on; returns what it holds then."""
    content = database.read_bytes()
    ruined = content[:start] + random.Random(start).randbytes(len(content) - start)
    database.write_bytes(ruined)
    return ruined


def places(database: Path) -> list[Path]:
    """Where MLflow says that artifacts are."""
    with closing(sqlite3.connect(database)) as connection:
        tables = ("select artifact_location from experiments", "select artifact_uri from runs")
        tables += ("select artifact_location from logged_models", "select storage_location from model_versions")
        return [Path(unquote(row[0].removeprefix("file://"))) for each in tables for row in connection.execute(each)]


@pytest.mark.parametrize("start", [0, 4096])
def test_a_promotion_succeeds_though_mlflow_s_database_is_damaged(start: int, releases: Releases) -> None:
    database = Path("mlflow.db")
    ruined = ruin(database, start)
    done = cli("promote", releases.second, "--to", "production")
    assert (done.returncode, done.stderr) == (0, "")
    note, says, *_ = done.stdout.splitlines()
    way_back = "`doctor` moves it aside, and makes a new one from the ledger and DVC"
    assert note == f"note: MLflow's database {database.resolve()} is damaged: {way_back}"
    assert says == f"production serves {releases.second}, in place of {releases.first}"
    tracking.TRACKED_FILE.unlink()
    for command in ("run", "release"):
        done = cli(command)
        assert done.returncode == (1 if command == "run" else 0)
        said = (done.stdout + done.stderr).splitlines()
        assert [line for line in said if way_back in line], said
        assert not [line for line in said if "Traceback" in line]
    wait_until(lambda: is_quiet(releases.folder))
    assert cli_json("doctor")["done"][0].startswith(f"{database.resolve()} is damaged (")
    [aside] = Path().glob("mlflow.db.damaged-*")
    assert aside.read_bytes() == ruined
    assert look().aliases == {"production": releases.second, "staging": releases.second}
    assert cli_json("doctor")["done"] == []


def test_a_damaged_database_of_prefect_is_named_and_moved_aside(built: Path) -> None:
    for suffix in ("-wal", "-shm"):
        Path(f"{databases.PREFECT}{suffix}").unlink(missing_ok=True)
    ruined = ruin(databases.PREFECT, 0)
    tracking.TRACKED_FILE.unlink()
    done = cli("run")
    assert done.returncode == 1
    [error] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert error.startswith("error: Prefect's database .prefect/prefect.db is damaged (")
    assert error.endswith("`doctor` moves it aside, and Prefect makes a new one")
    assert "Traceback" not in done.stderr
    [said] = cli_json("doctor")["done"]
    assert said.startswith(".prefect/prefect.db is damaged (")
    [aside] = databases.PREFECT.parent.glob("prefect.db.damaged-*")
    assert aside.read_bytes() == ruined
    done = cli("run")
    assert done.returncode == 0, done.stderr


def test_a_copy_of_a_project_leaves_the_original_alone(built: Path, tmp_path: Path) -> None:
    copy = tmp_path / "the copy"
    shutil.copytree(built, copy, symlinks=True)
    before = digests(built / "mlflow.db", built / "mlartifacts")
    assert cli_json("status", folder=copy)["result_is_tracked"]
    elsewhere = cli("status", folder=copy, MLFLOW_TRACKING_URI="http://127.0.0.1:9").stdout
    assert "in another MLflow than the one used now: `run` logs it there too" in elsewhere
    edit_params(copy, {"train": {"num_leaves": FEWER_LEAVES}})
    done = cli("run", folder=copy)
    assert done.returncode == 0, done.stderr
    assert (
        f"note: this project was in {built}: the artifact paths in mlflow.db are now those of {copy}\n" in done.stderr
    )
    assert digests(built / "mlflow.db", built / "mlartifacts") == before
    assert [place for place in places(copy / "mlflow.db") if not place.is_relative_to(copy)] == []
    assert databases.follow_project(copy / "mlflow.db") == []


def test_what_mlflow_has_is_found_after_a_project_was_moved(
    releases: Releases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_until(lambda: is_quiet(releases.folder))
    moved = tmp_path / "moved"
    releases.folder.rename(moved)
    monkeypatch.chdir(moved)
    for name, value in environment(moved).items():
        monkeypatch.setenv(name, value)
    assert registry.in_step(ledger.load())
    [done] = cli_json("doctor")["done"]
    assert done == f"this project was in {releases.folder}: the artifact paths in mlflow.db are now those of {moved}"
    client = tracking.open_client()
    name = ledger.load().release("production").model["name"]
    import mlflow

    mlflow.pyfunc.load_model(f"models:/{name}@production")
    version = client.get_model_version_by_alias(name, "production")
    assert client.list_artifacts(version.run_id, f"lineage/{releases.first}")
