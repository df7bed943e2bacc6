"""prefect.yaml, with a real Prefect server and a real worker."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import yaml

from servers import free_port, running, server, wait_until
from support import ROOT, cli_json, environment

POOL = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"][0]["work_pool"]["name"]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
PREFECT = [str(Path(sys.executable).with_name("prefect")), "--no-prompt"]


def post(url: str, body: dict[str, Any]) -> Any:
    headers = {"Content-Type": "application/json"}
    with urlopen(Request(url, json.dumps(body).encode(), headers), timeout=60) as answer:
        return json.load(answer)


def test_a_worker_runs_what_prefect_yaml_deploys(built: Path, tmp_path: Path) -> None:
    port = free_port()
    api = f"http://127.0.0.1:{port}/api"
    home = tmp_path / "home"
    home.mkdir()
    # PWD is what a shell in the project's folder says; the worker is started elsewhere.
    settings = environment(built, PREFECT_HOME=str(home), PREFECT_API_URL=api, PWD=str(built))

    def prefect(*arguments: str) -> None:
        done = subprocess.run(
            [*PREFECT, *arguments], cwd=built, env=settings, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr

    start = [*PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with server(start, f"{api}/health", home, home / "server.log", settings):
        prefect("work-pool", "create", "--type", "process", "--overwrite", POOL)
        prefect("deploy", "--all")
        deployed = {each["name"]: each for each in post(f"{api}/deployments/filter", {})}
        assert [schedule["active"] for schedule in deployed["daily"]["schedules"]] == [True]
        for deployment in deployed.values():
            ((_, step),) = deployment["pull_steps"][0].items()
            assert step == {"directory": str(built)}

        log = home / "worker.log"
        with running([*PREFECT, "worker", "start", "--pool", POOL], home, log, settings) as worker:

            def run(name: str) -> dict[str, Any]:
                """Run a deployment to its end; returns what chooses its flow run."""
                asked = post(f"{api}/deployments/{deployed[name]['id']}/create_flow_run", {})["id"]
                chosen = {"flow_runs": {"id": {"any_": [asked]}}}

                def ended() -> bool:
                    assert worker.poll() is None, log.read_text(encoding="utf-8")
                    (run,) = post(f"{api}/flow_runs/filter", chosen)
                    return run["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")

                wait_until(ended, "the deployed flow has not ended")
                (run,) = post(f"{api}/flow_runs/filter", chosen)
                assert run["state_name"] == "Completed", log.read_text(encoding="utf-8")
                return chosen

            chosen = run("daily")

            def states() -> dict[str, str]:
                tasks = post(f"{api}/task_runs/filter", chosen)
                return {task["name"].rsplit("-", 1)[0]: task["state_name"] for task in tasks}

            everything = {"admit": "Completed", **dict.fromkeys(STAGES, "Cached"), "track": "Completed"}
            wait_until(lambda: states() == everything, "task runs are not all there")

            run("release")
            (entry,) = cli_json("history", folder=built)["entries"]
            assert (entry["kind"], entry["automation"]) == ("release", True)
