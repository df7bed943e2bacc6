"""The pipeline on a team's servers: Prefect and MLflow on PostgreSQL, S3, git, and workers on other machines."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from prefect.client.orchestration import SyncPrefectClient

from lifecycle.testing import FEWER_LEAVES, ROOT, commit_all, copy_project, digests, edit_params, repro
from lifecycle.testing.servers import running, wait_until

from hosts import Host
from team import Team, whole_team

POOL = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"][0]["work_pool"]["name"]
PREFECT = [str(Path(sys.executable).with_name("prefect")), "--no-prompt"]
FAR = "gpu-pool"
AWAY_SECONDS = 20


@contextmanager
def worker(made: Team, host: Host, pool: str, folder: Path) -> Iterator[None]:
    """A process worker on a host, until the block ends or the host dies."""
    settings = made.settings(host.folder, PREFECT_HOME=str(host.folder / "home"))
    command = host.command(*PREFECT, "worker", "start", "--pool", pool)
    with running(command, folder, host.folder / "worker.log", settings):
        yield


def placed(project: Path) -> None:
    """Place the training on the far pool, and make it stale."""
    pipeline = yaml.safe_load((project / "dvc.yaml").read_text(encoding="utf-8"))
    pipeline["stages"]["train"]["meta"] |= {"run_on": FAR, "retries": 2, "backoff_seconds": 1}
    (project / "dvc.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False), encoding="utf-8")
    edit_params(project, {"train": {"num_leaves": FEWER_LEAVES}})
    commit_all(project, "Train on another machine")


def deploy(made: Team, home: Path) -> None:
    """Deploy prefect.yaml for the clone at home, and the flow of a stage for the far pool, which clones by itself."""
    far = {
        "name": FAR,
        "entrypoint": "lifecycle.flows.stage.run_stage",
        "work_pool": {"name": FAR},
        "pull": [{"prefect.deployments.steps.git_clone": {"repository": made.git, "branch": "main"}}],
    }
    plan = yaml.safe_load((made.laptop / "prefect.yaml").read_text(encoding="utf-8"))
    plan["deployments"].append(far)
    (made.laptop / "prefect.yaml").write_text(yaml.safe_dump(plan), encoding="utf-8")
    settings = made.settings(made.laptop, PWD=str(home))
    for words in (
        ["work-pool", "create", "--type", "process", POOL],
        ["work-pool", "create", "--type", "process", FAR],
        ["deploy", "--all"],
    ):
        subprocess.run([*PREFECT, *words], cwd=made.laptop, env=settings, check=True, capture_output=True)


def is_training(host: Host) -> bool:
    return any("run-stage" in line.split() for line in host.commands())


def ended(client: SyncPrefectClient, run: Any) -> Any:
    try:
        state = client.read_flow_run(run).state
    except Exception:  # the server is away
        return None
    return state if state and state.is_final() else None


def test_a_stage_survives_its_machine_and_the_server(built: Path, tmp_path: Path) -> None:
    """Home runs the pipeline, another machine the training: that dies once, and the server goes away for a while."""
    placed(built)
    oracle = tmp_path / "oracle/project"
    copy_project(built, oracle)
    repro(oracle)
    with whole_team(built) as made:
        found, home, far = made.servers, made.host("home"), made.host("far")
        assert found
        clone = made.clone(home)
        shutil.copytree(built / "extracts", clone / "extracts")  # the source, which every machine at home reaches
        pull = [sys.executable, "-m", "dvc", "pull", "--quiet"]
        subprocess.run(home.command(*pull), cwd=clone, env=made.settings(home.folder), check=True)
        deploy(made, clone)
        client = SyncPrefectClient(found.prefect)
        with worker(made, home, POOL, clone):
            deployment = client.read_deployment_by_name(f"{POOL}/daily")
            run = client.create_flow_run_from_deployment(deployment.id).id
            with worker(made, far, FAR, far.folder):
                wait_until(lambda: is_training(far), "the stage does not start")
                far.crash()
            with worker(made, far, FAR, far.folder):
                wait_until(lambda: is_training(far), "the stage does not start again")
                found.stack.close()
                time.sleep(AWAY_SECONDS)
                found.start_prefect()
                wait_until(lambda: ended(client, run), "the pipeline does not end")
        logs = [(host.folder / "worker.log").read_text(encoding="utf-8") for host in (home, far)]
        assert ended(client, run).is_completed(), "\n".join(logs)
        ours, theirs = (digests(Path(folder, "dvc.lock"), Path(folder, "model")) for folder in (clone, oracle))
        assert [*ours.values()] == [*theirs.values()]
