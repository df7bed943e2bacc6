"""A team on a network of its own: a laptop, which is this machine, and other machines that share servers with it."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import boto3

from lifecycle.errors import UserError
from lifecycle.team.servers import BUCKET, Servers, git_server, keys, s3_server, team_servers
from lifecycle.testing import commit_all, environment

from hosts import Host, Network, network
from needs import lacking

T = TypeVar("T")


@dataclass(frozen=True)
class Team:
    """The project on the laptop, with a git remote and a DVC remote. `servers`: all of them, if they run."""

    laptop: Path
    network: Network
    git: str
    s3: str
    servers: Servers | None = None

    def settings(self, folder: Path, **more: str) -> dict[str, str]:
        """The environment of the project's processes on any machine. They reach each other without a proxy."""
        found = self.servers.environment() if self.servers else keys(self.s3)
        return environment(folder, **found, NO_PROXY="*", **more)

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
    """A team with a git server and S3; what the project has is there."""
    with network() as net, ExitStack() as stack:
        folder = project.parent / "servers"
        folder.mkdir()
        git = stack.enter_context(git_server(folder, net.address, project.name))
        made = Team(project, net, git, stack.enter_context(s3_server(folder, net.address)))
        _share(made, "dvc")
        yield made


@dataclass(frozen=True)
class WholeTeam:
    """All of a team's servers, for several projects."""

    network: Network
    servers: Servers
    folder: Path

    def take_in(self, project: Path, name: str) -> Team:
        """Give a project a repository and a place in S3 of this name, and push what it has."""
        repository = self.folder / f"{name}.git"
        subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", str(repository)], check=True)
        url = f"{self.servers.git.rpartition('/')[0]}/{repository.name}"
        made = Team(project, self.network, url, self.servers.s3, self.servers)
        _share(made, name)
        return made


def started(stack: ExitStack, server: AbstractContextManager[T]) -> T:
    """Start a server that needs PostgreSQL, until the stack is closed."""
    try:
        return stack.enter_context(server)
    except UserError as error:
        lacking("postgresql", str(error))


@contextmanager
def whole_team(folder: Path) -> Iterator[WholeTeam]:
    """All servers, as `make team` starts them."""
    with network() as net, ExitStack() as stack:
        servers = started(stack, team_servers(folder, "project", net.address))
        yield WholeTeam(net, servers, folder)


def _share(made: Team, place: str) -> None:
    """Push the project's commits, its ledger, its results, and what its DVC remote has of releases."""
    s3, remote = boto3.client("s3", **_client(made.s3)), made.laptop / ".dvc-remote"
    for path in remote.rglob("*"):
        if path.is_file():
            s3.upload_file(str(path), BUCKET, f"{place}/{path.relative_to(remote)}")
    settings = f"[core]\n    remote = team\n['remote \"team\"']\n    url = s3://{BUCKET}/{place}\n"
    (made.laptop / ".dvc/config").write_text(settings, encoding="utf-8")
    (made.laptop / ".dvc/config.local").unlink()
    commit_all(made.laptop, "A DVC remote that every machine reaches")
    for command in (
        [sys.executable, "-m", "dvc", "push", "--quiet"],
        ["git", "remote", "add", "origin", made.git],
        ["git", "push", "--quiet", "origin", "refs/heads/*", "refs/tags/*"],
    ):
        subprocess.run(command, cwd=made.laptop, env=made.settings(made.laptop), check=True)


def _client(url: str) -> dict[str, str]:
    known = keys(url)
    return {
        "endpoint_url": url,
        "region_name": known["AWS_DEFAULT_REGION"],
        "aws_access_key_id": known["AWS_ACCESS_KEY_ID"],
        "aws_secret_access_key": known["AWS_SECRET_ACCESS_KEY"],
    }
