"""One stage as a Prefect flow, for a worker on another machine, and the call to it."""

import subprocess
import time
from dataclasses import replace
from pathlib import Path

from prefect import flow, get_run_logger
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound

from ..errors import UserError
from ..releases import elsewhere
from ..releases.pipeline import LOGS, Pipeline, Stage, StageError, StageResult, output_to
from ..releases.store import Store


@flow(name="run-stage")
def run_stage(stage: str, commit: str) -> None:
    """Run one stage for another machine, in the clone that the pull step of its deployment made.

    Raises:
        UserError: it failed; the message is the command's.
    """
    elsewhere.check_out(commit)
    command, own_code = elsewhere.process_of(stage)
    done = subprocess.run(command, env=own_code, capture_output=True, text=True, check=False)
    get_run_logger().info(done.stdout + done.stderr)
    if done.returncode:
        raise elsewhere.why_failed(done)


def run_placed(pipeline: Pipeline, stage: Stage) -> StageResult:
    """Run a stage on the work pool that its `meta` in dvc.yaml names, unless its result is known.

    Raises:
        UserError: this Prefect has no deployment for that pool.
        StageError: the stage failed there, or its worker left no result.
    """
    start, log = time.monotonic(), LOGS / f"{stage.name}.log"
    # DVC's progress bars would hide the lines of the run.
    with output_to(log, mode="a"):
        store = Store()
        if elsewhere.is_done(stage.name, pipeline, store):
            return elsewhere.take_over(stage.name, pipeline, store)
        commit = elsewhere.hand_over(stage.name, store)
        try:
            _run_on(stage, commit, log)
            result = elsewhere.take_over(stage.name, pipeline, store)
        finally:
            elsewhere.forget(commit)
    return replace(result, outcome="ran", seconds=time.monotonic() - start)


def _run_on(stage: Stage, commit: str, log: Path) -> None:
    deployment = f"run-stage/{stage.run_on}"
    try:
        state = run_deployment(deployment, parameters={"stage": stage.name, "commit": commit}).state
    except ObjectNotFound:
        raise UserError(
            f"dvc.yaml places the stage {stage.name} on {stage.run_on}, and Prefect has no deployment {deployment}: "
            "add it to prefect.yaml and `prefect deploy`, or run the stage here with `dvc repro`"
        ) from None
    if state is None or not state.is_completed():
        said = state.message if state else "it has no state"
        raise StageError(stage.name, f"on {stage.run_on}: {said}", log, for_good=False)
