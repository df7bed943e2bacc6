"""The pipeline and the loop as DAGs of Airflow, from dvc.yaml and prefect.yaml: docs/airflow.md.

Airflow reads this file in an environment of its own, which has nothing of the project. The tasks call the project's
command in the project's environment.
"""

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from airflow.providers.standard.hooks.subprocess import SubprocessHook
from airflow.sdk import DAG, Asset, BaseOperator, CronTriggerTimetable, TaskGroup, TriggerRule, conf
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

ROOT = Path(__file__).resolve().parents[3]
STAGES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
DEPLOYED: dict[str, Any] = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))
NAME: str = DEPLOYED["name"]
FLOWS = "lifecycle.flows."
# Where the project is on a worker, unless it is the folder of this file.
FOLDER = f"{NAME.upper().replace('-', '_')}_FOLDER"
# Exit codes of the project's command.
FAILED_FOR_GOOD, NOTHING_DONE = 2, 3


class Command(BaseOperator):
    """Run the project's command on this worker, in the project's folder."""

    template_fields = ("arguments",)

    def __init__(self, *, arguments: list[str], **options: Any) -> None:
        super().__init__(**options)
        self.arguments = arguments

    def execute(self, context: Any) -> str:
        """Return the last line that the command prints."""
        folder = Path(os.environ.get(FOLDER, ROOT))
        command = folder / ".venv/bin" / NAME
        if not command.exists():
            raise AirflowFailException(
                f"{command} does not exist on this worker: run `make setup` in the project's folder. If that is not "
                f"{folder}, start the worker with {FOLDER}=/path/to/the/project"
            )
        done = self._process.run_command([str(command), *self.arguments], cwd=str(folder))
        if done.exit_code == NOTHING_DONE and not self._has_news(context):
            raise AirflowSkipException(done.output)
        if done.exit_code == FAILED_FOR_GOOD:
            raise AirflowFailException(done.output)
        if done.exit_code not in (0, NOTHING_DONE):
            raise AirflowException(done.output)
        return str(done.output)

    def _has_news(self, context: Any) -> bool:
        # An earlier try may have made the outputs and died before it could say so: their events are still to come.
        return bool(self.outlets) and context["ti"].try_number > 1

    def on_kill(self) -> None:
        """Stop the command. It restores the outputs that it has not finished."""
        self._process.send_sigterm()

    @cached_property
    def _process(self) -> SubprocessHook:
        return SubprocessHook()


def dag(name: str, deployment: dict[str, Any], schedule: CronTriggerTimetable, **options: Any) -> DAG:
    """Return a DAG, still empty. Its tasks run on the queue that has the name of the deployment's work pool."""
    return DAG(
        name,
        description=deployment.get("description"),
        schedule=schedule,
        default_args={"queue": deployment.get("work_pool", {}).get("name", NAME), "retries": 0},
        tags=[NAME],
        catchup=False,
        # Two runs, or two stages, in one folder would disturb each other.
        max_active_runs=1,
        max_active_tasks=1,
        **options,
    )


def pipeline(deployment: dict[str, Any], schedule: CronTriggerTimetable) -> None:
    """Make the DAG of the pipeline: the gate, each stage after those that it needs, and MLflow."""
    with dag(NAME, deployment, schedule):
        admit = Command(task_id="admit", arguments=["admit"], **retried({"retries": 3, "backoff_seconds": 2}))
        track = Command(task_id="track", arguments=["track"], trigger_rule=TriggerRule.NONE_FAILED)
        tasks = {name: stage_tasks(name, stage) for name, stage in STAGES.items()}
        for name, (first, _) in tasks.items():
            first.set_upstream([tasks[needed][1] for needed in needs(name)] or admit)
        track.set_upstream([last for _, last in tasks.values() if not last.downstream_list])


def stage_tasks(name: str, stage: dict[str, Any]) -> tuple[Command, Command]:
    """Make the tasks of a stage, and return the first and the last: one, or three if it runs on another machine."""
    meta = stage.get("meta", {})
    options = {"doc_md": stage.get("desc"), **retried(meta)}
    made = {"outlets": [Asset(f"{NAME}/{path}", f"dvc://{NAME}/{path}") for path in outputs(stage)]}
    # Run also if the tasks before it were skipped because they are up to date.
    after = {"trigger_rule": TriggerRule.NONE_FAILED}
    run = ["run-stage", name]
    if not (queue := meta.get("run_on")):
        task = Command(task_id=name, arguments=[*run, "--here"], **options, **made, **after)
        return task, task
    if conf.get("core", "executor") == "LocalExecutor":
        raise ValueError(
            f"dvc.yaml places the stage {name} on {queue}, and LocalExecutor has no queues: CeleryExecutor has"
        )
    with TaskGroup(name):
        hand_over = Command(task_id="hand_over", arguments=[*run, "--hand-over"], **options, **after)
        commit = ["--commit", f"{{{{ ti.xcom_pull('{hand_over.task_id}') or '' }}}}"]
        work = Command(task_id="work", arguments=[*run, *commit], **options, queue=queue)
        take_over = Command(task_id="take_over", arguments=[*run, "--take-over", *commit], **options, **made, **after)
        hand_over >> work >> take_over
    return hand_over, take_over


def retried(meta: dict[str, Any]) -> dict[str, Any]:
    """Return the retries, back-off and timeout of a stage's `meta` as Airflow has them."""
    timeout = meta.get("timeout_seconds")
    return {
        "retries": meta.get("retries", 0),
        "retry_delay": timedelta(seconds=meta.get("backoff_seconds", 0)),
        "retry_exponential_backoff": 2.0,
        "execution_timeout": timedelta(seconds=timeout) if timeout else None,
    }


def needs(name: str) -> Iterator[str]:
    """Yield the stages whose outputs a stage depends on."""
    for other, stage in STAGES.items():
        if any(inside(dep, out) or inside(out, dep) for dep in STAGES[name].get("deps", []) for out in outputs(stage)):
            yield other


def inside(path: str, folder: str) -> bool:
    """Return whether a path is a folder, or in it."""
    return f"{path}/".startswith(f"{folder}/")


def outputs(stage: dict[str, Any]) -> Iterator[str]:
    """Yield the paths that a stage writes."""
    for each in [each for kind in ("outs", "metrics", "plots") for each in stage.get(kind, [])]:
        yield each if isinstance(each, str) else next(iter(each))


def loop(command: str, deployment: dict[str, Any], schedule: CronTriggerTimetable) -> None:
    """Make the DAG of another scheduled deployment: the command that has the name of its flow."""
    options = [
        f"--{name}" if value is True else f"--{name}={value}"
        for name, value in deployment.get("parameters", {}).items()
        if value is not False
    ]
    with dag(f"{NAME}-{deployment['name']}", deployment, schedule):
        Command(task_id=command, arguments=[command, "--if-on", *options])


def backfill(deployment: dict[str, Any]) -> None:
    """Make the DAG whose runs score the month of their date. Only `airflow backfill` starts one."""
    monthly, never = CronTriggerTimetable("0 0 1 * *", timezone="UTC"), datetime(2999, 1, 1, tzinfo=UTC)
    with dag(f"{NAME}-backfill", deployment, monthly, start_date=never):
        months = ["--months", "{{ logical_date.strftime('%Y-%m') }}"]
        Command(task_id="score", arguments=["score", "--if-on", *months])


def schedule_of(deployment: dict[str, Any]) -> CronTriggerTimetable | None:
    """Return the schedule of a deployment, or None if it has none."""
    active = [each for each in deployment.get("schedules", []) if each.get("active", True)]
    if not active:
        return None
    if len(active) > 1 or "cron" not in active[0]:
        raise ValueError(
            f"prefect.yaml: Airflow needs one schedule with `cron` for the deployment {deployment['name']}"
        )
    return CronTriggerTimetable(active[0]["cron"], timezone=active[0].get("timezone", "UTC"))


def check(name: str, stage: dict[str, Any]) -> None:
    """Refuse what only DVC can resolve: an edge between two tasks would be missing."""
    found = [word for word in ("foreach", "matrix", "wdir") if word in stage]
    if "${" in " ".join([*stage.get("deps", []), *outputs(stage)]):
        found.append("${...} in a path")
    if found:
        raise ValueError(f"dvc.yaml: the stage {name} has {found[0]}, which Airflow's DAG does not read: write it out")


for stage_name, declared in STAGES.items():
    check(stage_name, declared)
for each in DEPLOYED["deployments"]:
    flow = each["entrypoint"].removeprefix(FLOWS).rpartition(".")[2]
    if not each["entrypoint"].startswith(FLOWS) or (timetable := schedule_of(each)) is None:
        continue
    if flow == "pipeline":
        pipeline(each, timetable)
    else:
        loop(flow, each, timetable)
    if flow == "score":
        backfill(each)
