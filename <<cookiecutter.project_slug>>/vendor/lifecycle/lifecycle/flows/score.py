"""Batch scoring as a Prefect flow: one task for each month, on the task runner set in params.yaml."""

import os
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner

from ..errors import UserError
from ..lineage import openlineage
from ..params import Scoring, load_params
from ..releases import scoring
from ..releases.ledger import ChannelName
from ..releases.scoring import Job, Scored
from . import flow_name, of_part


@task(name="score", task_run_name="score-{job.month}", retries=2, retry_delay_seconds=2, persist_result=False)
def score_month(job: Job) -> Scored:
    """Score a month, unless its scores are from the same rows and release already."""
    return scoring.score_month(job)


@flow(name=flow_name("score-months"))
def score_months(jobs: list[Job]) -> list[Scored]:
    """Score months in parallel, on the task runner."""
    done: list[Scored] = score_month.map(jobs).result()
    return done


@flow(name=flow_name("score"))
@of_part("scoring")
def score(channel: ChannelName = "production", months: list[str] | None = None) -> list[Scored]:
    """Score all months of the feature table, or the given ones, with a channel's release."""
    params = load_params()
    jobs, notes = scoring.plan(channel, months or [], params.monitoring.columns)
    for note in notes:
        get_run_logger().warning(note)
    done: list[Scored] = score_months.with_options(task_runner=runner(params.scoring))(jobs)
    for note in openlineage.tell_of_scores(done, str(flow_run.id)):
        get_run_logger().warning(note)
    create_table_artifact(
        [vars(each) for each in done], key="scores", description=f"Scores of the {channel} release, by month"
    )
    return done


def runner(settings: Scoring) -> Any:
    """Return the task runner: threads in this process, or a cluster. DASK_ADDRESS or RAY_ADDRESS selects a running one.

    Raises:
        UserError: the package of the runner is not installed.
    """
    try:
        if settings.runner == "dask":
            from prefect_dask import DaskTaskRunner

            if address := os.environ.get("DASK_ADDRESS"):
                return DaskTaskRunner(address=address)
            return DaskTaskRunner(cluster_kwargs={"n_workers": settings.workers, "threads_per_worker": 1})
        if settings.runner == "ray":
            from prefect_ray import RayTaskRunner

            if address := os.environ.get("RAY_ADDRESS"):
                return RayTaskRunner(address=address)
            return RayTaskRunner(init_kwargs={"num_cpus": settings.workers, "include_dashboard": False})
    except ModuleNotFoundError as error:
        package = f"prefect-{settings.runner}"
        raise UserError(
            f"scoring.runner in params.yaml is {settings.runner}, and {error.name} is not installed: add {package} to "
            "the dependencies in pyproject.toml, then `make lock setup`"
        ) from None
    return ThreadPoolTaskRunner(max_workers=settings.workers)
