"""Batch scoring as a Prefect flow: one task for each month. The models run where `fan_out` in params.yaml says."""

from typing import Any

from prefect import flow, get_run_logger, task, unmapped
from prefect.artifacts import create_table_artifact
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner

from .. import fan_out
from ..lineage import openlineage
from ..params import load_params
from ..releases import scoring
from ..releases.ledger import ChannelName
from ..releases.scoring import Job, Scored
from . import flow_name, of_part


@task(name="score", task_run_name="score-{job.month}", retries=2, retry_delay_seconds=2, persist_result=False)
def score_month(job: Job, call: fan_out.Call) -> Scored:
    """Score a month, unless its scores are from the same rows and release already."""
    return scoring.score_month(job, call)


@flow(name=flow_name("score-months"))
def score_months(jobs: list[Job]) -> list[Scored]:
    """Score months in parallel."""
    with fan_out.workers(load_params().fan_out) as call:
        done: list[Scored] = score_month.map(jobs, unmapped(call)).result()
    return done


@flow(name=flow_name("score"))
@of_part("scoring")
def score(channel: ChannelName = "production", months: list[str] | None = None) -> list[Scored]:
    """Score all months of the feature table, or the given ones, with a channel's release."""
    params = load_params()
    jobs, notes = scoring.plan(channel, months or [], params.monitoring.columns)
    for note in notes:
        get_run_logger().warning(note)
    # Threads of this process, also for a cluster: its workers then do not need to reach Prefect.
    threads: Any = ThreadPoolTaskRunner(max_workers=params.fan_out.workers)
    done: list[Scored] = score_months.with_options(task_runner=threads)(jobs)
    for note in openlineage.tell_of_scores(done, str(flow_run.id)):
        get_run_logger().warning(note)
    create_table_artifact(
        [vars(each) for each in done], key="scores", description=f"Scores of the {channel} release, by month"
    )
    return done
