"""A stage on another machine by Airflow's CeleryExecutor: Redis, PostgreSQL, git and S3 are all that the two share."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import yaml

from lifecycle.processes import free_port, running, wait_until
from lifecycle.team.servers import keys, postgres
from lifecycle.testing import FEWER_LEAVES, LEAVES, commit_all, copy_project, digests, edit_params, repro

from airflows import BIN, DAGS, airflow, set_up, settings_of
from hosts import Host
from needs import lacking
from team import Team, team

FAR, STAGE = "gpu-pool", "train"


@contextmanager
def redis(folder: Path, address: str) -> Iterator[str]:
    """Run Redis, which keeps nothing; yield its URL."""
    if not shutil.which("redis-server"):
        lacking("redis", "CeleryExecutor needs Redis")
    port = free_port()
    options = ["--bind", address, "--port", str(port), "--save", "", "--protected-mode", "no"]
    with running(["redis-server", *options], folder, folder / "redis.log", {}):
        yield f"redis://{address}:{port}"


@contextmanager
def worker(settings: Mapping[str, str], queue: str, home: Path, host: Host | None = None) -> Iterator[None]:
    """Run a Celery worker of a queue here or on a host, until the block ends or the host dies."""
    home.mkdir(exist_ok=True)
    command = [str(BIN / "airflow"), "celery", "worker", "--queues", queue, "--concurrency", "1", "--skip-serve-logs"]
    own = {**settings, "AIRFLOW_HOME": str(home)}
    with running(host.command(*command) if host else command, home, home / "worker.log", own):
        yield


def placed(project: Path) -> str:
    """Place the training on the far queue, and make it stale. Return the queue of all other tasks."""
    pipeline = yaml.safe_load((project / "dvc.yaml").read_text(encoding="utf-8"))
    pipeline["stages"][STAGE]["meta"] |= {"run_on": FAR, "retries": 2, "backoff_seconds": 1}
    (project / "dvc.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False), encoding="utf-8")
    edit_params(project, {"train": {"num_leaves": FEWER_LEAVES}})
    commit_all(project, "Train on another machine")
    return str(yaml.safe_load((project / "prefect.yaml").read_text(encoding="utf-8"))["name"])


def is_training(host: Host) -> bool:
    return any("run-stage" in line.split() for line in host.commands())


def settings_for(made: Team, name: str, home: Path, broker: str) -> dict[str, str]:
    """The environment of Airflow's processes on every machine. None but the scheduler's reaches the database."""
    bundle = {"repo_url": made.git, "tracking_ref": "main", "subdir": str(DAGS)}
    classpath = "airflow.providers.git.bundles.git.GitDagBundle"
    return settings_of(
        home,
        made.network.address,
        free_port(),
        NO_PROXY="*",
        AIRFLOW__CORE__EXECUTOR="CeleryExecutor",
        AIRFLOW__CELERY__BROKER_URL=f"{broker}/0",
        AIRFLOW__CELERY__RESULT_BACKEND=f"{broker}/1",
        AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST=json.dumps(
            [{"name": name, "classpath": classpath, "kwargs": bundle}]
        ),
        # A dead worker is noticed sooner than after five minutes, the default.
        AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT="20",
        AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL="2",
    )


def test_a_stage_survives_its_machine_and_is_not_sent_when_its_result_is_known(built: Path, tmp_path: Path) -> None:
    first, name = digests(Path("model")), placed(built)
    oracle = tmp_path / "oracle/project"
    copy_project(built, oracle)
    repro(oracle)
    with (
        team(built) as made,
        redis(tmp_path, made.network.address) as broker,
        postgres(made.network.address, "airflow") as database,
    ):
        far = made.host("far")
        for folder in (built, made.clone(far)):
            set_up(folder, **keys(made.s3), NO_PROXY="*")
        common = settings_for(made, name, tmp_path / "airflow", broker)
        variable = f"{name.upper().replace('-', '_')}_FOLDER"
        near, there = common | {variable: str(built)}, common | {variable: str(made.clone(far))}
        scheduler = common | {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://{database}airflow"}
        with airflow(scheduler) as engine, worker(near, name, tmp_path / "near"):
            run = engine.start(name)
            with worker(there, FAR, far.folder / "home", far):
                wait_until(lambda: is_training(far), "the stage does not start")
                far.crash()
            with worker(there, FAR, far.folder / "home", far):
                state = engine.end(run)
            assert state == "success", engine.states(run)
            tasks = {task: (each["state"], each["try_number"]) for task, each in engine.tasks(run).items()}
            assert [tasks[f"{STAGE}.{part}"] for part in ("hand_over", "work", "take_over")] == [
                ("success", 1),
                ("success", 2),
                ("success", 1),
            ]
            ours, theirs = (digests(at / "dvc.lock", at / "model") for at in (built, oracle))
            assert [*ours.values()] == [*theirs.values()]
            assert not (made.clone(far) / "data/raw").exists(), "only what the stage needs was sent"

            # The first model is in the run-cache: the far queue has no worker now, and needs none.
            edit_params(built, {"train": {"num_leaves": LEAVES}})
            run = engine.start(name)
            wait_until(lambda: engine.states(run)[f"{STAGE}.take_over"] == "success", "the known result is not taken")
            assert [engine.states(run)[f"{STAGE}.{part}"] for part in ("hand_over", "work")] == ["skipped"] * 2
            assert digests(Path("model")) == first
