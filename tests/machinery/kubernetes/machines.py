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

import boto3
import pytest
import yaml

from lifecycle.processes import free_port, running, server, wait_until
from lifecycle.testing import ROOT, commit_all, environment

from hosts import Network, network
from needs import lacking
from stand_in import MOUNT, Cluster, Image, cluster

DEPLOY = ROOT / "deploy/kubernetes"
NAMESPACE: str = yaml.safe_load((DEPLOY / "prefect.yaml").read_text(encoding="utf-8"))["name"]
POOL = f"{NAMESPACE}-kubernetes"
WORKER = next(
    each["spec"]["template"]["spec"]["containers"][0]["image"]
    for each in yaml.safe_load_all((DEPLOY / "prefect-worker.yaml").read_text(encoding="utf-8"))
    if each["kind"] == "Deployment"
)
IMAGE = f"registry.example.org/{NAMESPACE}:1"
BIN = Path(sys.executable).parent
KEYS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "key-of-the-bucket", "AWS_DEFAULT_REGION": "us-east-1"}
PASSWORD = "admin:password-of-prefect"


@dataclass(frozen=True)
class Team:
    """What a team has beside the project, which is the current folder."""

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
        # Schemas have a test of their own: the stand-in knows none.
        return self.kubectl("apply", "--server-side", "--validate=false", f"--filename={file}", text=text)

    def secret(self, name: str, **variables: str) -> None:
        values = [f"--from-literal={key}={value}" for key, value in variables.items()]
        # kubectl would send it as protobuf, which the stand-in cannot read.
        made = self.kubectl("create", "secret", "generic", name, *values, "--dry-run=client", "--output=yaml")
        self.apply("-", made)


def image_of(folder: Path) -> Image:
    """What the project's Dockerfile puts into an image, but for packages: those are of this environment."""
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
def git_server(net: Network, project: Path, folder: Path) -> Iterator[str]:
    """A git server with the project's repository; yields its URL."""
    folder.mkdir()
    subprocess.run(["git", "clone", "--quiet", "--bare", str(project), str(folder / f"{NAMESPACE}.git")], check=True)
    port = free_port()
    command = ["git", "daemon", "--export-all", "--enable=receive-pack", "--reuseaddr", f"--base-path={folder}"]
    url = f"git://{net.address}:{port}/{NAMESPACE}.git"
    with running([*command, f"--listen={net.address}", f"--port={port}"], folder, folder / "log", environment(folder)):
        wait_until(lambda: subprocess.run(["git", "ls-remote", url], capture_output=True).returncode == 0, url)
        yield url


@contextmanager
def bucket(net: Network, folder: Path) -> Iterator[str]:
    """An S3 server with an empty bucket, `tests`; yields its URL."""
    folder.mkdir()
    url = f"http://{net.address}:{(port := free_port())}"
    command = [str(BIN / "moto_server"), "-H", net.address, "-p", str(port)]
    with server(command, f"{url}/moto-api/", folder, folder / "log", environment(folder)):
        client = boto3.client(
            "s3", endpoint_url=url, region_name=KEYS["AWS_DEFAULT_REGION"],
            aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"], aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        )  # fmt: skip
        client.create_bucket(Bucket="tests")
        yield url


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
        lacking("kubectl", "There is no kubectl here")
    with network() as net, bucket(net, folder / "s3") as s3:
        settings = f"[core]\n    remote = team\n['remote \"team\"']\n    url = s3://tests/dvc\n    endpointurl = {s3}\n"
        (project / ".dvc/config").write_text(settings, encoding="utf-8")
        (project / ".dvc/config.local").unlink()
        for name, value in KEYS.items():
            monkeypatch.setenv(name, value)
        commit_all(project, "A DVC remote for the team")
        images = {WORKER: Image(), IMAGE: image_of(folder / "image")}
        # No pod sees a folder of this machine's projects.
        hidden = [folder.parent, ROOT]
        with git_server(net, project, folder / "git") as url, cluster(net, folder / "cluster", images, hidden) as made:
            subprocess.run(["git", "remote", "add", "origin", url], cwd=project, check=True)
            yield Team(folder, net, made, url)
