"""SIGKILL in the middle of everything: the next run goes on, and ends where an undisturbed one does."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import yaml

from lifecycle.testing import CLI, ROOT, cli, digests, environment, mlflow_rows

# What the task `track` does, without Prefect.
TRACK = [sys.executable, "-c", "from lifecycle.releases import tracking; tracking.track()"]
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
BUILT = ("data/raw", "data/features", "data/source.json", "model", "reports", "dvc.lock", "params.yaml")
# Longer than anything here takes on a slow machine.
PATIENCE_SECONDS = 120


def kill_when(reached: Callable[[], bool], delay: float, command: Sequence[str] = (*CLI, "run")) -> None:
    """Start `command` here; some time after it has got so far, kill it and everything it has started."""
    run = subprocess.Popen(
        command,
        env=environment(Path.cwd()),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        until = time.monotonic() + PATIENCE_SECONDS
        while not reached():
            assert run.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < until
            time.sleep(0.01)
        time.sleep(delay)
        assert run.poll() is None, "it ended before it could be killed"
    finally:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()


def built_files(folder: Path) -> dict[str, str]:
    """Digests of everything the pipeline has built, by path inside the project."""
    found = digests(*(folder / name for name in BUILT))
    return {str(Path(path).relative_to(folder)): digest for path, digest in found.items()}


def test_killed_in_every_stage_the_next_run_goes_on(project: Path, request: pytest.FixtureRequest) -> None:
    delays = random.Random(20130101)
    for stage in PIPELINE["stages"]:
        log = project / f"logs/{stage}.log"
        log.unlink(missing_ok=True)

        def stage_runs(log: Path = log) -> bool:
            return log.exists() and "Running stage" in log.read_text(encoding="utf-8")

        kill_when(stage_runs, delays.uniform(0, 0.5))
    done = cli("run")
    assert done.returncode == 0, done.stderr
    # Asked for this late, another worker has had the time to make it.
    assert built_files(project) == built_files(request.getfixturevalue("finished"))
    assert in_mlflow(project) == {"runs": 1, "finished": 1, "versions": 1}


def test_killed_while_logging_to_mlflow_the_next_run_leaves_one_run_and_one_version(built: Path, fresh: Path) -> None:
    forget_tracking(built)
    shutil.copy(fresh / "mlflow.db", built)
    delays = random.Random(20130101)
    kill_when(lambda: mlflow_rows("runs") == 1, delays.uniform(0, 0.2), TRACK)
    kill_when(lambda: mlflow_rows("runs") == 2 and any(built.glob("mlartifacts/**/MLmodel")), 0, TRACK)
    kill_when(lambda: mlflow_rows("model_versions") == 1, 0, TRACK)
    done = cli("run")
    assert done.returncode == 0, done.stderr
    assert in_mlflow(built) == {"runs": 1, "finished": 1, "versions": 1}


def test_killed_while_the_database_is_made_the_next_one_makes_it(built: Path) -> None:
    forget_tracking(built)
    kill_when(lambda: mlflow_rows("experiments") is not None, 0, TRACK)
    subprocess.run(TRACK, env=environment(built), check=True, capture_output=True)
    assert in_mlflow(built) == {"runs": 1, "finished": 1, "versions": 1}


def forget_tracking(folder: Path) -> None:
    for path in (folder / ".lifecycle", folder / "mlartifacts"):
        shutil.rmtree(path)
    (folder / "mlflow.db").unlink()


def in_mlflow(folder: Path) -> dict[str, int]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    runs = client.search_runs([each.experiment_id for each in client.search_experiments()])
    return {
        "runs": len(runs),
        "finished": sum(each.info.status == "FINISHED" for each in runs),
        "versions": len(client.search_model_versions()),
    }
