"""Months and trials on a Dask and a Ray cluster at an address, whose workers share no folder with this machine.

The scheduler is on this machine. Each worker is on a machine of its own, where the project's folder is hidden: code
comes from a git server, data from an S3 server.
"""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from lifecycle import fan_out
from lifecycle.errors import UserError
from lifecycle.params import FanOut, load_params
from lifecycle.processes import free_port, running, wait_until
from lifecycle.releases import scoring
from lifecycle.team.servers import keys
from lifecycle.testing import Releases, cli, cli_json, commit_all, copy_project, digests, environment

from hosts import Host
from team import Team, team

SPACE = {"train.learning_rate": {"log_uniform": [0.03, 0.3]}, "train.num_leaves": {"choice": [3, 5, 7]}}
# Else it depends on the home folder whether Ray wants a token.
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
PATIENT = {"RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S": "120"}


@pytest.fixture(autouse=True)
def with_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray reads these when it is imported, which the first test here may do."""
    for name, value in TOKEN.items():
        monkeypatch.setenv(name, value)


@dataclass(frozen=True)
class Cluster:
    """A cluster at an address: the environment of commands that use it, and its workers' processes."""

    settings: dict[str, str]
    workers: list[subprocess.Popen[bytes]]


def is_up(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=1).close()
    except OSError:
        return False
    return True


def dask(made: Team, stack: ExitStack, machines: list[Host]) -> Cluster:
    net, project = made.network, made.laptop
    port, python = free_port(), [sys.executable, "-m"]
    scheduler = [*python, "distributed.cli.dask_scheduler", "--host", net.address, "--port", str(port)]
    scheduler += ["--no-dashboard"]
    logs = project.parent
    stack.enter_context(running(scheduler, logs, logs / "scheduler.log", environment(project)))
    wait_until(lambda: is_up(net.address, port), "the scheduler does not answer")
    address = f"tcp://{net.address}:{port}"
    worker = [*python, "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard"]
    return Cluster({"DASK_ADDRESS": address}, [started(made, stack, machine, *worker) for machine in machines])


def ray(made: Team, stack: ExitStack, machines: list[Host]) -> Cluster:
    net, project = made.network, made.laptop
    port, client, logs = free_port(), free_port(), project.parent
    # Its sockets need a short path.
    folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
    start = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats"]
    head = [*start, "--head", f"--node-ip-address={net.address}", f"--port={port}", f"--temp-dir={folder}"]
    head += [f"--ray-client-server-port={client}", "--include-dashboard=false", "--num-cpus=0"]
    stack.enter_context(running(head, logs, logs / "head.log", environment(project, **TOKEN, **PATIENT)))
    wait_until(lambda: is_up(net.address, client), "the head does not answer")
    # On a busy machine a node gives up after half a minute.
    node = ["sh", "-c", 'until "$@"; do sleep 1; done', "sh", *start, f"--address={net.address}:{port}", "--num-cpus=1"]
    nodes = [started(made, stack, machine, *node, f"--node-ip-address={machine.address}") for machine in machines]
    return Cluster({"RAY_ADDRESS": f"ray://{net.address}:{client}"}, nodes)


def started(made: Team, stack: ExitStack, machine: Host, *command: str) -> subprocess.Popen[bytes]:
    """A worker on a machine: it has the packages, a clone, and the credentials of the DVC remote."""
    clone = made.clone(machine)
    own = made.settings(clone, **TOKEN, PYTHONPATH=f"{clone}/vendor/lifecycle{os.pathsep}{clone}/src")
    log = machine.folder / "worker.log"
    return stack.enter_context(running(machine.command(*command), machine.folder, log, own))


@contextmanager
def cluster(runner: str, project: Path) -> Iterator[Cluster]:
    """A cluster with a worker on each of two machines, for the project."""
    with team(project) as made, ExitStack() as stack:
        machines = [made.host(name) for name in "ab"]
        found = {"dask": dask, "ray": ray}[runner](made, stack, machines)
        yield Cluster(found.settings | keys(made.s3) | TOKEN, found.workers)


def declare(project: Path, runner: str) -> None:
    """A small sweep, and where it runs."""
    params = yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8"))
    params["sweep"] = {"trials": 2, "seed": 1, "space": SPACE}
    params["fan_out"] = {"runner": runner, "workers": 2}
    (project / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    commit_all(project, runner)


def scores(project: Path) -> dict[str, str]:
    """The digests of the months that are scored, by month."""
    files = sorted((project / scoring.FOLDER).glob("*/*.parquet"))
    return {Path(name).stem: digest for name, digest in digests(*files).items()}


@pytest.mark.parametrize("runner", ["dask", "ray"])
def test_a_cluster_elsewhere_comes_to_what_threads_here_do(runner: str, releases: Releases, tmp_path: Path) -> None:
    project, here = releases.folder, tmp_path / "here/project"
    declare(project, "threads")
    copy_project(project, here)
    declare(project, runner)
    expected = cli_json("sweep", folder=here)
    cli_json("score", folder=here)
    log = tmp_path / "score.log"
    with cluster(runner, project) as far:
        swept = cli("sweep", "--json", **far.settings)
        assert swept.returncode == 0, swept.stderr
        assert swept.stderr.count(" ran ") == 2, swept.stderr
        said = json.loads(swept.stdout)
        for name in ("trials", "best", "diff"):
            assert said[name] == expected[name]

        command = [sys.executable, "-m", "lifecycle.cli", "score"]
        with running(command, project, log, environment(project, **far.settings)) as score:
            if runner == "dask":
                # It takes a month and is lost with it. Ray's node is several processes.
                far.workers[0].send_signal(signal.SIGSTOP)
                wait_until(lambda: len(scores(project)) == len(scores(here)) - 1, "the other worker does nothing")
                assert score.poll() is None
                far.workers[0].kill()
            assert score.wait() == 0, log.read_text(encoding="utf-8")
        assert scores(project) == scores(here)


@pytest.mark.parametrize(("runner", "address"), [("dask", "tcp://127.0.0.1:{}"), ("ray", "ray://127.0.0.1:{}")])
def test_a_cluster_that_does_not_answer_is_one_sentence(
    runner: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = address.format(free_port())
    monkeypatch.setenv(f"{runner.upper()}_ADDRESS", where)
    with pytest.raises(UserError) as refused, fan_out.workers(FanOut(runner=runner, workers=1)):
        pass
    assert str(refused.value).startswith(f"no {runner} cluster answers at {where} (")


@pytest.mark.parametrize("runner", ["threads", "dask", "ray"])
def test_the_error_of_a_part_arrives_as_it_was_raised(runner: str) -> None:
    with fan_out.workers(FanOut(runner=runner, workers=1)) as call:
        assert call(lambda one, other: one + other, 7, 2) == 9
        with pytest.raises(UserError, match="change to the project's folder"):
            call(load_params, Path("/nowhere/params.yaml"))
