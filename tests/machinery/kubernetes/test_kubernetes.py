"""The Dockerfile and deploy/kubernetes, on a stand-in for a cluster, with the real `kubectl` and Prefect's real worker."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

from lifecycle.testing import FEWER_LEAVES, OWN, cli, copy_project, digests, edit_params, repro
from lifecycle.testing.servers import wait_until

from machines import DEPLOY, KEYS, NAMESPACE, PASSWORD, POOL, Team
from stand_in import Pod

RESULTS = ("dvc.lock", "model", "reports/learning_curve.csv")


def place(project: Path, stage: str) -> None:
    pipeline = yaml.safe_load((project / "dvc.yaml").read_text(encoding="utf-8"))
    pipeline["stages"][stage]["meta"]["run_on"] = POOL
    (project / "dvc.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False), encoding="utf-8")


def start_worker(team: Team) -> None:
    """What docs/kubernetes.md says, up to the worker."""
    team.secret(NAMESPACE, **KEYS)
    team.secret("prefect", **{name: team.settings[name] for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING")})
    team.prefect("work-pool", "create", "--type", "kubernetes", "--base-job-template", DEPLOY / "job-template.json", POOL)
    team.prefect("deploy", "--all", "--prefect-file", DEPLOY / "prefect.yaml")
    team.apply(DEPLOY / "prefect-worker.yaml")


def test_a_placed_stage_runs_in_a_pod_and_in_another_when_that_is_killed(
    team: Team, built: Path, tmp_path: Path
) -> None:
    """The pod has the image and the Secrets, and no file of the project's."""
    start_worker(team)
    place(built, "train")
    edit_params(built, {"train": {"num_leaves": FEWER_LEAVES}})
    at_home = tmp_path / "at-home/project"
    copy_project(built, at_home)
    repro(at_home)

    def pods() -> list[Pod]:
        names = [pod["metadata"]["name"] for pod in team.cluster.find("pods", NAMESPACE, "job-name")]
        return [team.cluster.pods[name] for name in names]

    with ThreadPoolExecutor() as beside:
        done = beside.submit(cli, "run", folder=built, **team.settings)
        wait_until(lambda: done.done() or any(pod.runs(f"{OWN}.train") for pod in pods()), "no pod trains")
        assert not done.done(), done.result().stderr
        pods()[0].kill()
        said = done.result()
    assert said.returncode == 0, said.stderr
    assert len(pods()) == 2
    assert digests_in(built) == digests_in(at_home)
    wait_until(lambda: not any(pod.thread.is_alive() for pod in pods()), "a pod goes on")
    jobs = team.cluster.find("jobs", NAMESPACE)
    assert [job["status"].get("succeeded", 0) for job in jobs] == [0, 1]
    assert not any(secret in json.dumps(jobs) for secret in (KEYS["AWS_SECRET_ACCESS_KEY"], PASSWORD))
    assert team.cluster.calls
    assert all(allowed for *_, allowed in team.cluster.calls), team.cluster.calls
    assert "train ran" in team.kubectl("logs", pods()[1].name)


def digests_in(project: Path) -> dict[str, str]:
    found = digests(*(project / name for name in RESULTS))
    return {str(Path(name).relative_to(project)): digest for name, digest in found.items()}
