"""The Dockerfile and deploy/kubernetes, with the real `kubectl`, Prefect's real worker and a stand-in for a cluster."""

import json
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from lifecycle.commands.serve import GRACE_SECONDS
from lifecycle.processes import wait_until
from lifecycle.releases import ledger
from lifecycle.releases.store import Store
from lifecycle.testing import (
    FEWER_LEAVES,
    OWN,
    ROOT,
    Releases,
    cli,
    cli_json,
    copy_project,
    digests,
    edit_params,
    environment,
    repro,
)

from clients import Asking, probe
from machines import (
    BIN,
    DEPLOY,
    DEPLOYMENT,
    IMAGE,
    KEYS,
    NAMESPACE,
    PASSWORD,
    POOL,
    WORKER,
    Team,
    made_team,
    manifests,
    pod_of,
    prefect_server,
)
from stand_in import Pod

TOKEN = "token-of-serving"
RESULTS = ("dvc.lock", "model", "reports/learning_curve.csv")


def place(project: Path, stage: str) -> None:
    pipeline = yaml.safe_load((project / "dvc.yaml").read_text(encoding="utf-8"))
    pipeline["stages"][stage]["meta"]["run_on"] = DEPLOYMENT["name"]
    (project / "dvc.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False), encoding="utf-8")


def fits(manifest: dict[str, Any]) -> None:
    """Check a manifest against the three versions of Kubernetes that get fixes."""
    major, newest, _ = kubernetes_validate.latest_version().split(".")
    for minor in range(int(newest) - 2, int(newest) + 1):
        kubernetes_validate.validate(manifest, f"{major}.{minor}", strict=True)


@pytest.mark.parametrize("name", ["prefect-worker.yaml", "serving.yaml"])
def test_the_manifests_fit_the_schemas(name: str) -> None:
    for manifest in manifests(name).values():
        fits(manifest)
        assert manifest["metadata"]["namespace"] == NAMESPACE


def test_the_dockerfile_is_clean() -> None:
    done = subprocess.run([BIN / "hadolint", ROOT / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_git_gets_its_credentials_from_the_environment(tmp_path: Path) -> None:
    (helper,) = re.findall(r"credential\.helper '(.*)'", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    filled = subprocess.run(
        ["git", "-c", f"credential.helper={helper}", "credential", "fill"],
        env=environment(tmp_path, GIT_USERNAME="oauth2", GIT_TOKEN="token-of-git"),
        input="protocol=https\nhost=git.example.org\n\n", capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "username=oauth2\npassword=token-of-git\n" in filled.stdout


def test_the_worker_has_the_version_of_the_lock() -> None:
    assert WORKER.startswith("prefecthq/prefect:")
    version = WORKER.partition(":")[2].partition("-")[0]
    assert f"\nprefect=={version} " in (ROOT / "requirements.lock").read_text(encoding="utf-8")


def test_serve_has_time_to_end() -> None:
    pod = pod_of("serving.yaml")
    pause = int(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] >= pause + GRACE_SECONDS + 10


@contextmanager
def worker(team: Team) -> Iterator[dict[str, str]]:
    """Follow docs/kubernetes.md up to the worker. Yield the environment of Prefect's clients."""
    with prefect_server(team.network, team.folder / "prefect") as settings:
        team.secret(NAMESPACE, **KEYS)
        of_prefect = {name: settings[name] for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING")}
        team.secret("prefect", **of_prefect, PREFECT_WORKER_QUERY_SECONDS="1")
        prefect = (BIN / "prefect", "--no-prompt")
        template = ("--type", "kubernetes", "--base-job-template", DEPLOY / "job-template.json")
        team.run(*prefect, "work-pool", "create", *template, POOL, **settings)
        team.run(*prefect, "deploy", "--all", "--prefect-file", DEPLOY / "prefect.yaml", **settings)
        team.apply(DEPLOY / "prefect-worker.yaml")
        yield settings


def test_a_placed_stage_runs_in_a_pod_and_in_another_when_that_is_killed(
    team: Team, built: Path, tmp_path: Path
) -> None:
    """The pod has only the image and the Secrets."""
    place(built, "train")
    edit_params(built, {"train": {"num_leaves": FEWER_LEAVES}})
    at_home = tmp_path / "at-home/project"
    copy_project(built, at_home)
    repro(at_home)

    def pods() -> list[Pod]:
        names = [pod["metadata"]["name"] for pod in team.cluster.find("pods", NAMESPACE, "job-name")]
        return [team.cluster.pods[name] for name in names]

    with worker(team) as settings, ThreadPoolExecutor() as beside:
        done = beside.submit(cli, "run", folder=built, **settings)
        wait_until(lambda: done.done() or any(pod.runs(f"{OWN}.train") for pod in pods()), "no pod trains")
        assert not done.done(), done.result().stderr
        pods()[0].kill()
        said = done.result()
    assert said.returncode == 0, said.stderr
    assert len(pods()) == 2
    assert digests_in(built) == digests_in(at_home)
    wait_until(lambda: not any(pod.thread.is_alive() for pod in pods()), "a pod goes on")
    jobs = team.cluster.find("jobs", NAMESPACE)
    for job in jobs:
        # Prefect wants these two here, where Kubernetes does not look.
        for extra in ("parallelism", "completions"):
            del job["spec"]["template"]["spec"][extra]
        fits(job)
    assert [job["status"].get("succeeded", 0) for job in jobs] == [0, 1]
    assert not any(secret in json.dumps(jobs) for secret in (KEYS["AWS_SECRET_ACCESS_KEY"], PASSWORD))
    assert team.cluster.calls
    assert all(allowed for *_, allowed in team.cluster.calls), team.cluster.calls
    assert "train ran" in team.kubectl("logs", f"job/{jobs[1]['metadata']['name']}")
    assert "started!" in team.kubectl("logs", "deployment/prefect-worker")


def digests_in(project: Path) -> dict[str, str]:
    found = digests(*(project / name for name in RESULTS))
    return {str(Path(name).relative_to(project)): digest for name, digest in found.items()}


class Requests(Asking):
    """Clients that take a new connection each time. They hear of a pod's end a second late."""

    def __init__(self, team: Team, rows: list[dict[str, Any]]) -> None:
        super().__init__(clients=3)
        self.statuses: list[int | str] = []
        self.releases: list[str | None] = []
        self._team, self._body = team, json.dumps({"rows": rows}).encode()

    def _ask(self, _: int) -> None:
        headers = {"Host": "serving", "Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"}
        known = 0.0
        while not self._stop.is_set():
            if time.monotonic() - known > 1:
                known, addresses = time.monotonic(), self._team.cluster.endpoints(NAMESPACE, "serving")
            connection = HTTPConnection(addresses[len(self.statuses) % len(addresses)], timeout=60)
            try:
                connection.request("POST", "/predict", self._body, headers)
                answer = connection.getresponse()
                self.statuses.append(answer.status)
                self.releases.append(json.loads(answer.read())["release"])
            except (OSError, HTTPException) as error:
                self.statuses.append(repr(error))
            finally:
                connection.close()


def test_serving_is_updated_and_follows_a_promotion_and_loses_no_request(
    releases: Releases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, _ = probe(releases.first)
    manifest = (DEPLOY / "serving.yaml").read_text(encoding="utf-8")
    with made_team(releases.folder, tmp_path, monkeypatch) as team:
        for release in map(ledger.load().release, (releases.first, releases.second)):
            assert Store().push(release.outputs(release.model["path"])) == []
        team.secret(NAMESPACE, **KEYS, GIT_REPOSITORY=team.repository)
        team.secret("serving", SERVING_TOKEN=TOKEN)
        team.apply(DEPLOY / "serving.yaml")
        team.kubectl("rollout", "status", "deployment/serving", "--timeout=100s")
        old = {pod["metadata"]["name"] for pod in team.cluster.find("pods", NAMESPACE)}
        assert len(old) == 2
        new_image = f"{IMAGE}-new"
        team.cluster.images[new_image] = team.cluster.images[IMAGE]
        with Requests(team, rows) as requests:
            team.apply("-", manifest.replace(IMAGE, new_image))
            team.kubectl("rollout", "status", "deployment/serving", "--timeout=100s")
            wait_until(lambda: not any(team.cluster.pods[name].thread.is_alive() for name in old), "an old pod goes on")
            assert {*requests.releases} == {releases.first}
            cli_json("promote", releases.second, "--to", "production")
            wait_until(lambda: {*requests.releases[-20:]} == {releases.second}, "a pod does not follow")
        assert {*requests.statuses} == {200}, Counter(requests.statuses)
        new = team.cluster.find("pods", NAMESPACE)
        assert {pod["spec"]["containers"][0]["image"] for pod in new} == {new_image}
        for name in old:
            assert "every logged prediction is on the disk" in team.cluster.pods[name].log.read_text(encoding="utf-8")
        shown = team.kubectl("get", "deployments,pods,services,poddisruptionbudgets", "--output=name").splitlines()
        names = ["deployment.apps/serving", "service/serving", "poddisruptionbudget.policy/serving"]
        assert {*shown} == {*names, *(f"pod/{pod['metadata']['name']}" for pod in new)}
