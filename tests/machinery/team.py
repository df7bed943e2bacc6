"""A team's servers on a network of their own: git, and S3 for DVC. Machines on it share these, and no folder."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import boto3

from lifecycle.testing import commit_all, environment
from lifecycle.testing.servers import free_port, running, server, wait_until

from hosts import Host, Network, network

BUCKET = "team"
KEYS = {
    "AWS_ACCESS_KEY_ID": "tests",
    "AWS_SECRET_ACCESS_KEY": "tests",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@dataclass
class Team:
    """A project on a laptop, which is this machine, and the servers of its team. `s3`: the endpoint."""

    laptop: Path
    network: Network
    git: str
    s3: str
    git_server: subprocess.Popen[bytes]

    def settings(self, folder: Path, **more: str) -> dict[str, str]:
        """The environment of the project's processes on any machine. They may have no proxy between them."""
        return environment(folder, **KEYS, AWS_ENDPOINT_URL=self.s3, NO_PROXY="*", **more)

    def host(self, name: str) -> Host:
        """Another machine, with a clone of the project in its folder."""
        folder = self.laptop.parent / name
        host = self.network.host(folder, hidden=[self.laptop])
        clone = ["git", "clone", "--quiet", self.git, folder / self.laptop.name]
        subprocess.run(host.command(*clone), env=self.settings(folder), check=True)
        return host

    def clone(self, host: Host) -> Path:
        """The project's folder on a host."""
        return host.folder / self.laptop.name


@contextmanager
def team(project: Path) -> Iterator[Team]:
    """Give the project a git remote and a DVC remote that other machines reach, and put everything there."""
    with network() as net, ExitStack() as stack:
        git_port, s3_port = free_port(), free_port()
        shared = project.parent / "git/project.git"
        subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", str(shared)], check=True)
        daemon = ["git", "daemon", "--export-all", "--enable=receive-pack", "--reuseaddr", "--informative-errors"]
        daemon += [f"--base-path={shared.parent}", f"--listen={net.address}", f"--port={git_port}"]
        url = f"git://{net.address}:{git_port}/project.git"
        served = stack.enter_context(running(daemon, shared.parent, shared.parent / "daemon.log", environment(project)))
        made = Team(project, net, url, f"http://{net.address}:{s3_port}", served)
        moto = [sys.executable, "-m", "moto.server", "-H", net.address, "-p", str(s3_port)]
        health = f"{made.s3}/moto-api/"
        stack.enter_context(server(moto, health, shared.parent, shared.parent / "s3.log", made.settings(project)))
        _share(made)
        yield made


def _share(made: Team) -> None:
    """Push the project's commits, its ledger and the content of its DVC remote."""
    s3 = boto3.client(
        "s3", endpoint_url=made.s3, region_name="us-east-1", aws_access_key_id="tests", aws_secret_access_key="tests"
    )
    s3.create_bucket(Bucket=BUCKET)
    remote = made.laptop / ".dvc-remote"
    for path in remote.rglob("*"):
        if path.is_file():
            s3.upload_file(str(path), BUCKET, f"dvc/{path.relative_to(remote)}")
    settings = "[core]\n    remote = team\n['remote \"team\"']\n"
    settings += f"    url = s3://{BUCKET}/dvc\n    endpointurl = {made.s3}\n"
    (made.laptop / ".dvc/config").write_text(settings, encoding="utf-8")
    (made.laptop / ".dvc/config.local").unlink()
    commit_all(made.laptop, "A DVC remote that every machine reaches")
    subprocess.run(["git", "remote", "add", "origin", made.git], cwd=made.laptop, check=True)
    push = ["git", "push", "--quiet", "origin", "refs/heads/*", "refs/tags/*"]
    wait_until(
        lambda: not subprocess.run(push, cwd=made.laptop, env=made.settings(made.laptop)).returncode,
        "the git server does not answer",
    )
