"""prefect.yaml, with a real Prefect server and a real worker."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from prefect.client.orchestration import SyncPrefectClient

from lifecycle.processes import free_port, running, server, wait_until
from lifecycle.team.servers import postgres
from lifecycle.testing import (
    FEWER_LEAVES,
    ROOT,
    Releases,
    cli,
    cli_json,
    commit_all,
    copy_project,
    digests,
    edit_params,
    environment,
    repro,
)

from predictions import failing
from team import started

POOL = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"][0]["work_pool"]["name"]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
PREFECT = [str(Path(sys.executable).with_name("prefect")), "--no-prompt"]
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@dataclass(frozen=True)
class Prefect:
    """A server that has the project's deployments, and a worker that runs them."""

    client: SyncPrefectClient
    deployed: dict[str, dict[str, Any]]
    log: Path
    is_alive: Callable[[], bool]

    def post(self, path: str, body: Any) -> Any:
        # Prefect's client asks again where a busy server answers 503.
        answer = self.client.request("POST", path, json=body)
        return answer.json() if answer.content else None

    def start(self, name: str, **parameters: Any) -> str:
        """Run a deployment; returns the flow run's id."""
        asked = {"parameters": parameters}
        found: str = self.post(f"deployments/{self.deployed[name]['id']}/create_flow_run", asked)["id"]
        return found

    def state(self, run: str) -> str:
        assert self.is_alive(), self.log.read_text(encoding="utf-8")
        (found,) = self.post("flow_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
        return str(found["state_type"])

    def end(self, run: str) -> None:
        """Wait until it has completed."""
        wait_until(lambda: self.state(run) in ENDED, "the deployed flow has not ended")
        assert self.state(run) == "COMPLETED", self.log.read_text(encoding="utf-8")

    def runs_of(self, name: str) -> list[str]:
        chosen = {"deployments": {"id": {"any_": [self.deployed[name]["id"]]}}}
        return [each["id"] for each in self.post("flow_runs/filter", chosen)]


def prefect_command(folder: Path, settings: dict[str, str], *arguments: str) -> None:
    command = [*PREFECT, *arguments]
    done = subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def deployed(folder: Path, home: Path) -> Iterator[Prefect]:
    """What prefect.yaml deploys, on a server of the test's own, with PostgreSQL."""
    port = free_port()
    api = f"http://127.0.0.1:{port}/api"
    home.mkdir()
    # PWD is what a shell in the project's folder says; the worker is started elsewhere.
    settings = environment(folder, PREFECT_HOME=str(home), PREFECT_API_URL=api, PWD=str(folder))
    start = [*PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    log = home / "worker.log"
    with ExitStack() as stack:
        database = started(stack, postgres("127.0.0.1", "prefect"))
        own = settings | {"PREFECT_API_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://{database}prefect"}
        stack.enter_context(server(start, f"{api}/health", home, home / "server.log", own))
        prefect_command(folder, settings, "work-pool", "create", "--type", "process", "--overwrite", POOL)
        prefect_command(folder, settings, "deploy", "--all")
        with running([*PREFECT, "worker", "start", "--pool", POOL], home, log, settings) as worker:
            made = Prefect(SyncPrefectClient(api), {}, log, lambda: worker.poll() is None)
            made.deployed.update({each["name"]: each for each in made.post("deployments/filter", {})})
            yield made


def test_a_worker_runs_what_prefect_yaml_deploys(built: Path, tmp_path: Path) -> None:
    with deployed(built, tmp_path / "home") as prefect:
        for deployment in prefect.deployed.values():
            ((_, step),) = deployment["pull_steps"][0].items()
            assert step == {"directory": str(built)}
        flows = [each["name"] for each in prefect.post("flows/filter", {})]
        assert all(name.startswith(POOL) for name in flows), "another project's flows would be taken for these"
        scheduled = {name for name, each in prefect.deployed.items() if each["schedules"]}
        assert {"daily", "monitor", "rollout", "score"} <= scheduled

        daily = prefect.start("daily")
        prefect.end(daily)

        def states() -> dict[str, str]:
            tasks = prefect.post("task_runs/filter", {"flow_runs": {"id": {"any_": [daily]}}})
            return {task["name"].rsplit("-", 1)[0]: task["state_name"] for task in tasks}

        everything = {"admit": "Completed", **dict.fromkeys(STAGES, "Cached"), "track": "Completed"}
        wait_until(lambda: states() == everything, "task runs are not all there")

        prefect.end(prefect.start("release"))
        (entry,) = cli_json("history", folder=built)["entries"]
        assert (entry["kind"], entry["automation"]) == ("release", True)


def test_a_breach_starts_the_rollback_and_a_person_approves_on_the_page(releases: Releases, tmp_path: Path) -> None:
    cli_json("promote", releases.second, "--to", "production")

    def last() -> dict[str, Any]:
        entries: list[dict[str, Any]] = cli_json("history", "--limit", "1")["entries"]
        return entries[0]

    with deployed(releases.folder, tmp_path / "home") as prefect:

        def breach(generation: int) -> None:
            resource = {"prefect.resource.id": f"{POOL}.production"}
            payload = {"reason": "it is worse", "generation": generation, "evidence": {}, "release": releases.second}
            event = {"event": "lifecycle.breach", "resource": resource, "payload": payload}
            moment = "2026-01-01T00:00:00Z"
            prefect.post("events", [event | {"occurred": moment, "id": f"{generation:032x}"}])

        failing(releases.second, 0.2)
        prefect.end(prefect.start("monitor", act=False))
        wait_until(lambda: len(prefect.runs_of("rollback")) == 1, "the monitor's event starts nothing")
        prefect.end(prefect.runs_of("rollback")[0])
        entry = last()
        assert (entry["kind"], entry["automation"], entry["release"]) == ("rollback", True, releases.first)
        assert entry["reason"].startswith("monitor: errors of predictions is 0.2")
        (figure,) = entry["evidence"]["trigger"]["figures"]
        assert (figure["check"], figure["value"]) == ("errors", 0.2)

        breach(1)  # of a time that is over
        wait_until(lambda: len(prefect.runs_of("rollback")) == 2, "the event starts nothing")
        for run in prefect.runs_of("rollback"):
            prefect.end(run)
        assert last() == entry

        asked = prefect.start("approve", release=releases.first)
        wait_until(lambda: prefect.state(asked) == "PAUSED", "nobody is asked")
        answer = {"approved": True, "name": "Ada Lovelace", "mail": "ada@example.org", "comment": "looks right"}
        prefect.post(f"flow_runs/{asked}/resume", {"run_input": answer})
        prefect.end(asked)
        entry = last()
        assert (entry["kind"], entry["release"]) == ("approve", releases.first)
        assert (entry["by"], entry["reason"]) == ("Ada Lovelace <ada@example.org>", "through Prefect: looks right")


def place(stage: str, pool: str, **meta: float) -> None:
    """Place a stage on a pool, without retries."""
    pipeline = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))
    pipeline["stages"][stage]["meta"] = {"run_on": pool, **meta}
    Path("dvc.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False), encoding="utf-8")


def test_a_placed_stage_runs_on_another_pool_in_a_clone_of_its_own(built: Path, tmp_path: Path) -> None:
    """Its worker shares a git remote and a DVC remote with the project, and no other file."""
    pool, shared = "gpu-pool", tmp_path / "shared.git"
    remote = f"[core]\n    remote = shared\n['remote \"shared\"']\n    url = {built / '.dvc-remote'}\n"
    Path(".dvc/config").write_text(remote, encoding="utf-8")
    Path(".dvc/config.local").unlink()
    commit_all(built, "A DVC remote that both machines can use")
    subprocess.run(["git", "clone", "--quiet", "--bare", str(built), str(shared)], check=True)
    subprocess.run(["git", "remote", "add", "origin", str(shared)], cwd=built, check=True)
    place("train", pool)
    edit_params(built, {"train": {"num_leaves": FEWER_LEAVES}})
    at_home = tmp_path / "at-home/project"
    copy_project(built, at_home)
    repro(at_home)
    said = cli("run")
    assert said.returncode == 1
    assert f"Prefect has no deployment {POOL}-run-stage/gpu-pool: add it to prefect.yaml" in said.stderr

    deployment = {
        "name": pool,
        "entrypoint": "lifecycle.flows.stage.run_stage",
        "work_pool": {"name": pool},
        "pull": [{"prefect.deployments.steps.git_clone": {"repository": shared.as_uri(), "branch": "main"}}],
    }
    (tmp_path / "prefect.yaml").write_text(yaml.safe_dump({"name": "tests", "deployments": [deployment]}))
    far = tmp_path / "elsewhere"
    far.mkdir()
    with deployed(built, tmp_path / "home") as prefect:
        api = str(prefect.client.api_url).rstrip("/")
        worker = environment(built, PREFECT_HOME=str(far / "home"), PREFECT_API_URL=api)
        prefect_command(tmp_path, worker, "work-pool", "create", "--type", "process", pool)
        prefect_command(built, worker, "deploy", "--all", "--prefect-file", str(tmp_path / "prefect.yaml"))
        prefect.deployed.update({each["name"]: each for each in prefect.post("deployments/filter", {})})
        place("train", pool, timeout_seconds=18)
        waited = cli("run", PREFECT_API_URL=api)
        assert waited.returncode == 1
        assert f"note: train waits for a worker: prefect worker start --pool {pool}" in waited.stderr
        assert "stage train failed: it took longer than 18 s" in waited.stderr
        states = [prefect.state(run) for run in prefect.runs_of(pool)]
        assert states == ["CANCELLED"], "it would run when nobody waits for it any more"
        place("train", pool, timeout_seconds=600)
        with running([*PREFECT, "worker", "start", "--pool", pool], far, far / "worker.log", worker):
            done = cli("run", PREFECT_API_URL=api)
    assert done.returncode == 0, done.stderr + (far / "worker.log").read_text(encoding="utf-8")
    assert [line.split()[:2] for line in done.stderr.splitlines() if line.split()[:1] == ["train"]] == [
        ["train", "ran"]
    ]
    ours, theirs = (digests(Path(folder, "dvc.lock"), Path(folder, "model")) for folder in (built, at_home))
    assert [*ours.values()] == [*theirs.values()]
