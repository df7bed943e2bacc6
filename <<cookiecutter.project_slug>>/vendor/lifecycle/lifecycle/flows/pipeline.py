"""The pipeline as a Prefect flow: one task for each stage in dvc.yaml, and one for each side effect around them."""

import contextlib
import threading
import time
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.states import Completed
from prefect.tasks import exponential_backoff

from .. import project
from ..errors import UserError
from ..lineage import openlineage
from ..params import load_params
from ..progress import say
from ..releases import tracking
from ..releases.heal import heal
from ..releases.pipeline import LOGS, Pipeline, Stage, StageError, StageResult, tail
from ..stages import ingest
from .stage import run_placed


def _worth_retrying(_task: Any, _run: Any, state: State) -> bool:
    """Return whether to retry: most user errors would only repeat."""
    error = state.result(raise_on_failure=False)
    return not (isinstance(error, UserError | StageError) and error.for_good)


@task(name="admit", retries=3, retry_delay_seconds=exponential_backoff(2), retry_condition_fn=_worth_retrying)
def admit() -> int:
    """Check new files of the source, and pin those that pass. Return how many are new."""
    start = time.monotonic()
    new = ingest.admit(load_params().data)
    if new:
        say("admit", "ran", time.monotonic() - start, f"{len(new)} new files passed the gate")
    return len(new)


def run_stage(pipeline: Pipeline, stage: Stage) -> StageResult:
    """Run one stage as a task, with the retries and the timeout from its `meta` in dvc.yaml."""
    kept: list[StageResult] = []

    @task(
        name=stage.name,
        description=stage.description,
        retries=stage.retries,
        retry_delay_seconds=exponential_backoff(stage.backoff_seconds),
        retry_condition_fn=_worth_retrying,
        timeout_seconds=stage.timeout_seconds,
        persist_result=False,
    )
    def as_task() -> State:
        result = run_placed(pipeline, stage) if stage.run_on else pipeline.run(stage.name)
        kept.append(result)
        get_run_logger().info(tail(result.log))
        return Completed(name="Cached" if result.outcome == "cached" else None, message=f"log: {result.log}")

    try:
        as_task()
    except TimeoutError:
        reason = f"it took longer than {stage.timeout_seconds:g} s"
        raise StageError(stage.name, reason, LOGS / f"{stage.name}.log", for_good=False) from None
    result = kept[-1]
    say(result.stage, result.outcome, result.seconds)
    return result


@task(name="track")
def track(flow_run_id: str | None) -> tracking.Tracked:
    """Log the result to MLflow and make its model the challenger."""
    start = time.monotonic()
    known = tracking.is_tracked()
    tracked = tracking.track(flow_run_id)
    where = f"version {tracked.version}" if tracked.version else "not registered: a gate failed"
    say("track", "cached" if known else "ran", time.monotonic() - start, where)
    return tracked


@flow(name=project.here().name)
def pipeline() -> None:
    """Bring every stage up to date, then log the result to MLflow and register its model.

    Raises:
        UserError: an error that the user can fix.
        StageError: a stage failed for good, after its retries.
    """
    own_id, results = str(flow_run.id) if flow_run.id else None, []
    with openlineage.run_of_pipeline(own_id, flow_run.scheduled_start_time, get_run_logger().warning) as recorder:
        for note in heal():
            get_run_logger().warning(note)
        admit()
        dvc = Pipeline()
        # While stages run in separate processes, do the slowest import.
        threading.Thread(target=_warm_up, daemon=True).start()
        for stage in dvc.stages():
            results.append(run_stage(dvc, stage))
            recorder.stage(results[-1])
        tracked = track(own_id)
    create_markdown_artifact(_summary(results, tracked), key="run-summary", description="Stages of this run")


def run_now() -> None:
    """Run the flow in this process."""
    # Each flow would wait up to a second at its end for the heartbeat thread.
    with temporary_settings(updates={PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        pipeline()


def _warm_up() -> None:
    with contextlib.suppress(Exception):  # track() will hit the same error and report it
        tracking.warm_up()


def _summary(results: list[StageResult], tracked: tracking.Tracked) -> str:
    rows = "\n".join(f"| {each.stage} | {each.outcome} | {each.seconds:.1f} |" for each in results)
    version = f"version {tracked.version}" if tracked.version else "not registered (a gate failed)"
    return (
        f"| stage | outcome | seconds |\n|---|---|---|\n{rows}\n\n"
        f"Result `{tracked.result_digest[:12]}`; MLflow run `{tracked.run_id}`; {tracked.model_name} {version}.\n"
    )
