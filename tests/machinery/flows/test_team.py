"""The pipeline on a team's servers: Prefect and MLflow on PostgreSQL, S3, git, and workers on other machines."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient

from lifecycle.processes import running, wait_until
from lifecycle.releases.registry import RELEASE_TAG
from lifecycle.team.servers import tool
from lifecycle.testing import FEWER_LEAVES, ROOT, Releases, cli, commit_all, copy_project, digests, edit_params, repro

from hosts import Host
from team import BUCKET, Team, WholeTeam, whole_team

POOL = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"][0]["work_pool"]["name"]
PREFECT = [str(Path(sys.executable).with_name("prefect")), "--no-prompt"]
FAR = "gpu-pool"
MODEL = "other-model"
AWAY_SECONDS = 20
KEYS = {"region_name": "us-east-1", "aws_access_key_id": "team", "aws_secret_access_key": "team"}


@contextmanager
def worker(made: Team, host: Host, pool: str, folder: Path) -> Iterator[None]:
    """A process worker on a host, until the block ends or the host dies."""
    settings = made.settings(host.folder, PREFECT_HOME=str(host.folder / "home"))
    command = host.command(*PREFECT, "worker", "start", "--pool", pool)
    with running(command, folder, host.folder / "worker.log", settings):
        yield


def placed(project: Path) -> None:
    """Place the training on the far pool, and make it stale. The model has a name of its own on the servers."""
    pipeline = yaml.safe_load((project / "dvc.yaml").read_text(encoding="utf-8"))
    pipeline["artifacts"][MODEL] = pipeline["artifacts"].pop(POOL)
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


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeTeam]:
    with whole_team(tmp_path_factory.mktemp("servers")) as made:
        yield made


def mlflow_client(made: Team) -> Any:
    from mlflow import MlflowClient

    assert made.servers
    return MlflowClient(made.servers.mlflow)


def test_a_stage_survives_its_machine_and_the_server(whole: WholeTeam, built: Path, tmp_path: Path) -> None:
    """Home runs the pipeline, another machine the training: that dies once, and the server goes away for a while."""
    placed(built)
    oracle = tmp_path / "oracle/project"
    copy_project(built, oracle)
    repro(oracle)
    made, found = whole.take_in(built, "first"), whole.servers
    home, far = made.host("home"), made.host("far")
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
            assert team_check(made)["Prefect"] == ["works", "works", "works"], "the server, and two pools with a worker"
    logs = [(host.folder / "worker.log").read_text(encoding="utf-8") for host in (home, far)]
    assert ended(client, run).is_completed(), "\n".join(logs)
    ours, theirs = (digests(Path(folder, "dvc.lock"), Path(folder, "model")) for folder in (clone, oracle))
    assert [*ours.values()] == [*theirs.values()]
    assert "challenger" in mlflow_client(made).get_registered_model(MODEL).aliases
    stored = boto3.client("s3", endpoint_url=found.s3, **KEYS).list_objects_v2(Bucket=BUCKET, Prefix="mlflow/")
    assert stored["KeyCount"] > 0


def team_check(made: Team) -> dict[str, list[str]]:
    """The states of `doctor --team` on the laptop, by part."""
    done = cli("doctor", "--team", "--json", folder=made.laptop, **made.settings(made.laptop))
    rows = json.loads(done.stdout)["checks"]
    assert done.returncode == int(any(row["state"] == "fails" for row in rows))
    return {part: [row["state"] for row in rows if row["part"] == part] for part in {row["part"] for row in rows}}


def test_a_server_that_is_not_installed_gets_an_environment_of_its_own() -> None:
    assert tool("moto.server", ["moto.server", "-p", "1"], "moto")[1:] == ["-m", "moto.server", "-p", "1"]
    *_, quiet, with_, package, python, m, module = tool("nowhere.server", ["nowhere.server"], "nowhere>=1")
    words = (quiet, with_, package, python, m, module)
    assert words == ("--quiet", "--with", "nowhere>=1", "python", "-m", "nowhere.server")


def test_an_empty_mlflow_gets_the_registry_from_the_ledger(whole: WholeTeam, releases: Releases) -> None:
    """Another project on the same servers, which was on a laptop until now."""
    made = whole.take_in(releases.folder, "second")
    client = mlflow_client(made)
    before = {each.name: each.aliases for each in client.search_registered_models()}
    assert POOL not in before
    done = cli("doctor", **made.settings(made.laptop))
    assert done.returncode == 0, done.stdout + done.stderr
    versions = {str(each.version): each.tags for each in client.search_model_versions(f"name = '{POOL}'")}
    aliases = client.get_registered_model(POOL).aliases
    served = {channel: versions[str(aliases[channel])][RELEASE_TAG] for channel in ("production", "staging")}
    assert served == {"production": releases.first, "staging": releases.second}
    assert before == {each.name: each.aliases for each in client.search_registered_models() if each.name != POOL}
    found = team_check(made)
    assert (found["git"], found["DVC remote"], found["MLflow"]) == (["works", "works"], ["works"], ["works"])
    assert found["approvals"] == ["missing", "missing"], "self-approval counts, and nothing is signed"
