"""A team's machines: a network, a git server, a bucket, Prefect's server, and the stand-in for a cluster."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from lifecycle.processes import free_port, server
from lifecycle.team.servers import BUCKET, git_server, s3_server
from lifecycle.testing import ROOT, commit_all, environment

from hosts import Network, network
from needs import lacking
from stand_in import MOUNT, Cluster, Image, cluster

DEPLOY = ROOT / "deploy/kubernetes"
(DEPLOYMENT,) = yaml.safe_load((DEPLOY / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
POOL: str = DEPLOYMENT["work_pool"]["name"]
BIN = Path(sys.executable).parent
KEYS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "key-of-the-bucket", "AWS_DEFAULT_REGION": "us-east-1"}
PASSWORD = "admin:password-of-prefect"


def manifests(name: str) -> dict[str, Any]:
    """The objects of a file, by kind: there is one of each."""
    return {each["kind"]: each for each in yaml.safe_load_all((DEPLOY / name).read_text(encoding="utf-8"))}


def pod_of(name: str) -> dict[str, Any]:
    """The pod template of the Deployment in a file."""
    spec: dict[str, Any] = manifests(name)["Deployment"]["spec"]["template"]["spec"]
    return spec


NAMESPACE: str = manifests("serving.yaml")["Deployment"]["metadata"]["namespace"]
IMAGE: str = pod_of("serving.yaml")["containers"][0]["image"]
WORKER: str = pod_of("prefect-worker.yaml")["containers"][0]["image"]


@dataclass(frozen=True)
class Team:
    """A team's servers. Its project is the current folder."""

    folder: Path
    network: Network
    cluster: Cluster
    repository: str

    def kubectl(self, *words: str | Path, text: str = "") -> str:
        return self.run("kubectl", "--namespace", NAMESPACE, *words, text=text)

    def run(self, *words: str | Path, text: str = "", **variables: str) -> str:
        own = environment(Path.cwd(), KUBECONFIG=str(self.cluster.folder / "config"), GIT_REPOSITORY=self.repository)
        done = subprocess.run(
            [*map(str, words)], env=own | variables, input=text, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def apply(self, file: str | Path, text: str = "") -> str:
        # The stand-in does not have the schemas. Another test checks them.
        return self.kubectl("apply", "--server-side", "--validate=false", f"--filename={file}", text=text)

    def secret(self, name: str, **variables: str) -> None:
        values = [f"--from-literal={key}={value}" for key, value in variables.items()]
        # kubectl would send it as protobuf, which the stand-in cannot read.
        made = self.kubectl("create", "secret", "generic", name, *values, "--dry-run=client", "--output=yaml")
        self.apply("-", made)


def image_of(folder: Path) -> Image:
    """The image that the project's Dockerfile makes, except for its packages: those of this environment are used."""
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", "").splitlines()
    copied = folder / "copied"
    for line in lines:
        if match := re.fullmatch(r"COPY (.+) /opt/project(/.*)", line):
            for name in match[1].split():
                source, target = ROOT / name, copied / match[2].strip("/")
                if source.is_dir():
                    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    target.mkdir(parents=True, exist_ok=True)
                    shutil.copy(source, target)
    (install,) = (line for line in lines if line.endswith(" /opt/project"))
    words = install.removeprefix("RUN uv ").replace(
        " --system", f" --python {sys.executable} --target {folder / 'files'}"
    )
    uv = BIN / "uv" if (BIN / "uv").exists() else "uv"
    subprocess.run([uv, *words.split()[:-1], str(copied)], check=True, capture_output=True)
    (variables,) = (line for line in lines if line.startswith("ENV "))
    made = dict(word.split("=") for word in variables.split()[1:])
    (workdir,) = (line.split()[1] for line in lines if line.startswith("WORKDIR "))
    path = os.pathsep.join([f"{MOUNT}/bin", str(BIN), os.defpath])
    return Image(made | {"PATH": path, "PYTHONPATH": MOUNT}, workdir, folder / "files")


@contextmanager
def prefect_server(net: Network, folder: Path) -> Iterator[dict[str, str]]:
    """Prefect's server, with a password; yields what its clients need in their environment."""
    folder.mkdir()
    port = str(free_port())
    url = f"http://{net.address}:{port}/api"
    own = environment(folder, PREFECT_HOME=str(folder), PREFECT_SERVER_API_AUTH_STRING=PASSWORD)
    start = [str(BIN / "prefect"), "server", "start", "--host", net.address, "--port", port]
    with server(start, f"{url}/health", folder, folder / "log", own):
        yield {"PREFECT_API_URL": url, "PREFECT_API_AUTH_STRING": PASSWORD, "PREFECT_HOME": str(folder / "client")}


@contextmanager
def made_team(project: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Team]:
    """A team with a project, whose git remote and DVC remote become the team's."""
    if not shutil.which("kubectl"):
        lacking("kubectl", "kubectl is not installed")
    servers = folder / "servers"
    servers.mkdir()
    # No pod sees a folder of this machine's projects.
    hidden = [folder.parent, ROOT]
    with (
        network() as net,
        s3_server(servers, net.address) as s3,
        git_server(servers, net.address, NAMESPACE) as url,
        cluster(net, folder / "cluster", {WORKER: Image(), IMAGE: image_of(folder / "image")}, hidden) as made,
    ):
        settings = (
            f"[core]\n    remote = team\n['remote \"team\"']\n    url = s3://{BUCKET}/dvc\n    endpointurl = {s3}\n"
        )
        (project / ".dvc/config").write_text(settings, encoding="utf-8")
        (project / ".dvc/config.local").unlink()
        for name, value in KEYS.items():
            monkeypatch.setenv(name, value)
        commit_all(project, "A DVC remote for the team")
        for words in (["remote", "add", "origin", url], ["push", "--quiet", "origin", "refs/heads/*", "refs/tags/*"]):
            subprocess.run(["git", *words], cwd=project, check=True)
        yield Team(folder, net, made, url)
