"""One stage as a Prefect flow, for a worker on another machine, and the call to it."""

import subprocess
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect import flow, get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.states import Cancelling, Crashed, Failed

from ..errors import USER_ERROR, UserError
from ..progress import note
from ..releases import elsewhere
from ..releases.pipeline import LOGS, Pipeline, Stage, StageError, StageResult, output_to
from ..releases.store import Store
from . import flow_name

# A running stage reports at this interval, the shortest that Prefect has. After two without a report it is lost.
HEARTBEAT_SECONDS = 30
LOST_SECONDS = 65
# After this long without a start, say which pool it waits for.
WAITING_SECONDS = 15
POLL_SECONDS = 1
# The name of the state of a flow that a retry will not help.
FOR_GOOD = "Refused"


@flow(name=flow_name("run-stage"))
def run_stage(stage: str, commit: str) -> State | None:
    """Run one stage for another machine, in the clone that the pull step of its deployment made.

    Returns: a failed state with the command's message if it failed.
    """
    elsewhere.check_out(commit)
    command, own_code = elsewhere.process_of(stage)
    done = subprocess.run(command, env=own_code, capture_output=True, text=True, check=False)
    get_run_logger().info(done.stdout + done.stderr)
    if not done.returncode:
        return None
    failed = str(elsewhere.why_failed(done))
    return Failed(message=failed, name=FOR_GOOD if done.returncode == USER_ERROR else None)


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
    """Run the stage on its work pool and wait for the end. If this process stops waiting, cancel it there."""
    deployment = f"{flow_name('run-stage')}/{stage.run_on}"
    parameters = {"stage": stage.name, "commit": commit}
    with get_client(sync_client=True) as client:
        try:
            own = client.read_deployment_by_name(deployment).job_variables or {}
        except ObjectNotFound:
            raise UserError(
                f"dvc.yaml places the stage {stage.name} on {stage.run_on}, and Prefect has no deployment "
                f"{deployment}: add it to prefect.yaml and `prefect deploy`, or run the stage here with `dvc repro`"
            ) from None
        environment = {**own.get("env", {}), "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS)}
        variables = {"env": environment}
        run = run_deployment(deployment, parameters=parameters, timeout=0, job_variables=variables)
        try:
            state = _end_of(client, run.id, stage)
        except BaseException:
            with suppress(Exception):
                client.set_flow_run_state(run.id, Cancelling())
            raise
    if not state.is_completed():
        for_good = state.name == FOR_GOOD
        raise StageError(stage.name, f"on {stage.run_on}: {state.message or state.name}", log, for_good)


def _end_of(client: SyncPrefectClient, run: UUID, stage: Stage) -> State:
    """Wait until a flow run ends, and return its state. While Prefect's server is down, keep waiting."""
    started = heard = time.monotonic()
    said, last = False, None
    while True:
        try:
            state = client.read_flow_run(run).state
            if state and state.is_final():
                return state
            if state and state.is_running():
                if (beat := _last_heartbeat(client, run)) != last:
                    last, heard = beat, time.monotonic()
                elif last and time.monotonic() - heard > LOST_SECONDS:
                    lost = Crashed(message=f"it has not reported for {LOST_SECONDS} s: its machine or network is gone")
                    client.set_flow_run_state(run, lost, force=True)
                    return lost
            else:
                heard = time.monotonic()
                if not said and heard - started > WAITING_SECONDS:
                    said = True
                    note(f"{stage.name} waits for a worker: prefect worker start --pool {stage.run_on}")
        except (httpx.TransportError, PrefectHTTPStatusError) as error:
            if isinstance(error, PrefectHTTPStatusError) and error.response.status_code < 500:
                raise  # the server is there, and refuses
            heard = time.monotonic()
        time.sleep(POLL_SECONDS)


def _last_heartbeat(client: SyncPrefectClient, run: UUID) -> Any:
    """Return the time of the last report of a flow run, or None before the first."""
    chosen = {"event": {"name": ["prefect.flow-run.heartbeat"]}, "resource": {"id": [f"prefect.flow-run.{run}"]}}
    events = client.request("POST", "/events/filter", json={"filter": chosen, "limit": 1}).json()["events"]
    return events[0]["occurred"] if events else None
