"""A real Airflow, in an environment of its own, which has nothing of a project."""

import json
import os
import secrets
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

from filelock import FileLock

from lifecycle import project
from lifecycle.processes import running, server, wait_until
from lifecycle.testing import own_settings

TEMPLATE = Path(__file__).resolve().parents[2]
BIN = TEMPLATE / "build/airflow/bin"
DAGS = Path("vendor/lifecycle/dags")


@dataclass(frozen=True)
class Airflow:
    """Where it is, the settings of its processes, and its API."""

    home: Path
    url: str
    settings: dict[str, str]
    token: str
    components: dict[str, subprocess.Popen[bytes]]

    def ask(self, path: str, body: Any = None, method: str = "") -> Any:
        """Return what the API answers. All components must live."""
        for name, process in self.components.items():
            assert process.poll() is None, (self.home / f"{name}.log").read_text(encoding="utf-8")[-5000:]
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        asked = Request(f"{self.url}/api/v2/{path}", data, headers, method=method or ("POST" if data else "GET"))
        try:
            with urlopen(asked, timeout=30) as answer:
                return json.loads(answer.read())
        except HTTPError as error:
            raise AssertionError(f"{path}: {error.read().decode()}") from None

    def unpause(self, dag: str) -> None:
        """Wait until a DAG is there, and switch it on."""
        wait_until(
            lambda: dag in {each["dag_id"] for each in self.ask("dags")["dags"]}, f"the DAG {dag} does not appear"
        )
        self.ask(f"dags/{dag}", {"is_paused": False}, "PATCH")

    def start(self, dag: str) -> str:
        """Start a run of a DAG, and return its path in the API."""
        self.unpause(dag)
        run: str = self.ask(f"dags/{dag}/dagRuns", {"logical_date": None})["dag_run_id"]
        return f"dags/{dag}/dagRuns/{quote(run)}"

    def end(self, run: str) -> str:
        """Wait until a run has ended, and return its state."""
        wait_until(lambda: self.ask(run)["state"] in ("success", "failed"), f"{run} has not ended")
        return str(self.ask(run)["state"])

    def tasks(self, run: str) -> dict[str, dict[str, Any]]:
        """Return the tasks of a run, by id."""
        return {each["task_id"]: each for each in self.ask(f"{run}/taskInstances")["task_instances"]}

    def states(self, run: str) -> dict[str, str]:
        """Return the state of each task of a run."""
        return {name: each["state"] for name, each in self.tasks(run).items()}

    def log(self, run: str, task: str, number: int = 1) -> str:
        """Return the log of one try of a task."""
        answer = self.ask(f"{run}/taskInstances/{task}/logs/{number}")
        return "\n".join(str(each["event"]) for each in answer["content"])


def installed() -> None:
    """Make the environment, unless it is there."""
    with FileLock(TEMPLATE / "build/airflow.lock"):
        subprocess.run(["make", "--silent", "build/airflow/.installed"], cwd=TEMPLATE, check=True)


def settings_of(home: Path, address: str, port: int, **more: str) -> dict[str, str]:
    """Return the environment of Airflow's processes: the machine's, without what leads to the project."""
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
    own = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__API__HOST": address,
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://{address}:{port}/execution/",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        # Airflow sees that a task has ended only after up to so many seconds, by default 5.
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }
    return kept | own | more


@contextmanager
def airflow(settings: dict[str, str]) -> Iterator[Airflow]:
    """Airflow's API server, scheduler and DAG processor."""
    installed()
    home = Path(settings["AIRFLOW_HOME"])
    home.mkdir(parents=True, exist_ok=True)
    url = settings["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"].removesuffix("/execution/")
    subprocess.run([BIN / "airflow", "db", "migrate"], env=settings, cwd=home, check=True, capture_output=True)
    with ExitStack() as stack:
        started = {
            name: stack.enter_context(running([str(BIN / "airflow"), *words], home, home / f"{name}.log", settings))
            for name, *words in (("scheduler", "scheduler", "--skip-serve-logs"), ("dag-processor", "dag-processor"))
        }
        start = [str(BIN / "airflow"), "api-server"]
        stack.enter_context(server(start, f"{url}/api/v2/version", home, home / "api.log", settings))
        with urlopen(f"{url}/auth/token", timeout=30) as answer:
            yield Airflow(home, url, settings, json.loads(answer.read())["access_token"], started)


def set_up(folder: Path, **more: str) -> None:
    """Give a project's folder its command, as `make setup` does, on the packages that run these tests."""
    settings = own_settings(folder) | {"PYTHONPATH": project.python_path(folder)} | more
    lines = [f"export {name}={shlex.quote(value)}" for name, value in settings.items()]
    name = project._read(folder).name
    command = folder / ".venv/bin" / name
    command.parent.mkdir(parents=True)
    command.write_text("\n".join(["#!/bin/sh", *lines, 'exec python -m lifecycle.cli "$@"', ""]), encoding="utf-8")
    command.chmod(0o755)
