"""A team's servers on one machine, to try a project with and to test it with. They keep nothing when they end.

    python -m lifecycle.team.servers

starts git, S3, PostgreSQL, MLflow and Prefect, and says how to use them. The docs: team.md.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from ..errors import UserError
from ..processes import free_port, running, server, wait_until

# PostgreSQL refuses to run as root. This account does not own any files.
ACCOUNT = "nobody"
# S3's keys, and PostgreSQL's password: for servers that this machine alone reaches, and that keep nothing.
KEY = "team"
BUCKET = "team"
# Ctrl-C, a service manager, and a terminal that is closed.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Servers:
    """Where they are. `git` is the URL of an empty repository; `database` is `user:password@host:port/`.

    `stack.close()` ends Prefect's server, and `start_prefect` starts it again.
    """

    git: str
    s3: str
    database: str
    mlflow: str
    prefect: str
    stack: ExitStack
    start_prefect: Callable[[], None]

    def environment(self) -> dict[str, str]:
        """Return the environment for everyone who uses them."""
        return {**keys(self.s3), "MLFLOW_TRACKING_URI": self.mlflow, "PREFECT_API_URL": self.prefect}


def keys(s3: str) -> dict[str, str]:
    """Return the environment for a client of this S3."""
    return {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": KEY,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": s3,
    }


def tool(module: str, command: list[str], *packages: str) -> list[str]:
    """Return a command of this environment, or run by uvx in one of its own if this one lacks a module."""
    if find_spec(module.partition(".")[0]):
        return [sys.executable, "-m", *command]
    uvx = shutil.which("uvx") or str(Path(sys.executable).with_name("uvx"))
    with_packages = [word for package in packages for word in ("--with", package)]
    return [uvx, "--quiet", *with_packages, "python", "-m", *command]


@contextmanager
def git_server(folder: Path, address: str, name: str) -> Iterator[str]:
    """Serve an empty repository, and delete it in the end; yield its URL."""
    port, bare = free_port(), folder / f"{name}.git"
    subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", str(bare)], check=True)
    command = ["git", "daemon", "--export-all", "--enable=receive-pack", "--reuseaddr", "--informative-errors"]
    command += [f"--base-path={folder}", f"--listen={address}", f"--port={port}"]
    url = f"git://{address}:{port}/{name}.git"
    with running(command, folder, folder / "git.log", dict(os.environ)):
        look = ["git", "ls-remote", url]
        wait_until(lambda: not subprocess.run(look, capture_output=True).returncode, "git does not answer")
        try:
            yield url
        finally:
            shutil.rmtree(bare)


@contextmanager
def s3_server(folder: Path, address: str) -> Iterator[str]:
    """Serve S3, in memory (moto); yield the endpoint. It has one bucket."""
    port = free_port()
    url = f"http://{address}:{port}"
    command = tool("moto.server", ["moto.server", "-H", address, "-p", str(port)], "moto[s3,server]>=5")
    with server(command, f"{url}/moto-api/", folder, folder / "s3.log", dict(os.environ)):
        # Any HTTP client may create a bucket there.
        make = ["curl", "--silent", "--fail", "--request", "PUT", f"{url}/{BUCKET}"]
        subprocess.run(make, check=True, capture_output=True)
        yield url


@contextmanager
def postgres(address: str, *databases: str) -> Iterator[str]:
    """Run PostgreSQL with these databases; yield `user:password@host:port/`.

    Raises:
        UserError: it is not installed.
    """
    found = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")))
    found += filter(None, [shutil.which("initdb")])
    if not found:
        raise UserError("PostgreSQL is not installed on this machine: install your system's package `postgresql`")
    programs = Path(found[-1]).resolve().parent
    port, folder = free_port(), Path(tempfile.mkdtemp(prefix="postgres-"))
    start = []
    if os.geteuid() == 0:
        shutil.chown(folder, ACCOUNT)
        start = ["setpriv", f"--reuid={ACCOUNT}", "--clear-groups"]
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "PGPASSWORD": KEY}

    def run(*words: str | Path) -> bool:
        command = [*start, *map(str, words)]
        return not subprocess.run(command, cwd=folder, env=environment, capture_output=True).returncode

    try:
        (folder / "password").write_text(KEY, encoding="utf-8")
        own = ["--auth=scram-sha-256", f"--username={KEY}", f"--pwfile={folder / 'password'}", "--no-sync"]
        if not run(programs / "initdb", "--pgdata", folder / "data", *own):
            raise UserError(f"PostgreSQL cannot be set up in {folder}: run {programs / 'initdb'} by hand to see why")
        (folder / "data/pg_hba.conf").write_text(f"host all all {address}/24 scram-sha-256\n", encoding="utf-8")
        fast = ["-c", "fsync=off", "-c", "full_page_writes=off", "-c", "max_connections=200"]
        command = [*start, str(programs / "postgres"), "-D", str(folder / "data"), "-h", address, "-p", str(port)]
        with running([*command, "-k", str(folder), *fast], folder, folder / "log", environment):
            reached = ["-h", address, "-p", str(port), "-U", KEY]
            for name in databases:
                wait_until(partial(run, programs / "createdb", *reached, name), "PostgreSQL does not answer")
            yield f"{KEY}:{KEY}@{address}:{port}/"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def mlflow_server(folder: Path, address: str, database: str, s3: str) -> Iterator[str]:
    """Run MLflow's server on PostgreSQL, with its artifacts on S3; yield its URL."""
    port = free_port()
    url = f"http://{address}:{port}"
    from importlib.metadata import version

    needs = [f"mlflow=={version('mlflow')}", "psycopg2-binary", "boto3"]
    command = tool("psycopg2", ["mlflow", "server", "--host", address, "--port", str(port)], *needs)
    command += ["--backend-store-uri", f"postgresql+psycopg2://{database}mlflow", "--workers", "1"]
    command += ["--artifacts-destination", f"s3://{BUCKET}/mlflow", "--allowed-hosts", f"{address}:{port}"]
    settings = {**os.environ, **keys(s3), "MLFLOW_S3_ENDPOINT_URL": s3}
    with server(command, f"{url}/health", folder, folder / "mlflow.log", settings):
        yield url


@contextmanager
def team_servers(folder: Path, name: str, address: str = "127.0.0.1") -> Iterator[Servers]:
    """Run all of them, with their logs in a folder, for a project of this name.

    Raises:
        UserError: PostgreSQL is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as others, ExitStack() as stack:
        database = others.enter_context(postgres(address, "mlflow", "prefect"))
        s3 = others.enter_context(s3_server(folder, address))
        mlflow = others.enter_context(mlflow_server(folder, address, database, s3))
        git = others.enter_context(git_server(folder, address, name))
        port = free_port()
        prefect = f"http://{address}:{port}/api"
        home = {"PREFECT_HOME": str(folder), "DO_NOT_TRACK": "1"}
        home["PREFECT_API_DATABASE_CONNECTION_URL"] = f"postgresql+asyncpg://{database}prefect"
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", address, "--port", str(port)]
        log = folder / "prefect.log"

        def start() -> None:
            stack.enter_context(server(command, f"{prefect}/health", folder, log, {**os.environ, **home}))

        start()
        yield Servers(git, s3, database, mlflow, prefect, stack, start)


USE = """\
git      {git}
S3       {s3}, bucket {bucket}, in memory
MLflow   {mlflow}
Prefect  {prefect}

In another terminal, in this folder:

    source {settings}
    git remote add origin {git} && git push --all origin
    dvc remote modify --local {remote} url {dvc}
    {command} doctor --team

They keep nothing: Ctrl-C ends them and deletes their data. Their logs are in {logs}.
"""


def _stop(*_: object) -> None:
    """End the servers, once: make sends a signal again that the terminal has sent."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> None:
    """Run the servers for the project in this folder, until Ctrl-C."""
    from .. import project
    from ..releases.store import Store

    parser = argparse.ArgumentParser(description="Run a team's servers on this machine, to try the project with them.")
    parser.parse_args()
    for number in SIGNALS:
        signal.signal(number, _stop)
    logs, settings = Path("logs/team"), Path(".lifecycle/team.env")
    print("starting PostgreSQL, S3, MLflow, git and Prefect: about half a minute ...", flush=True)
    try:
        with (
            suppress(KeyboardInterrupt),
            tempfile.TemporaryDirectory(prefix="team-") as shared,
            team_servers(logs.resolve(), project.here().name) as found,
        ):
            lines = [f"export {name}={value}\n" for name, value in found.environment().items()]
            settings.parent.mkdir(exist_ok=True)
            settings.write_text("".join(lines), encoding="utf-8")
            # DVC reaches S3 with a package that only some projects have.
            dvc = f"s3://{BUCKET}/dvc" if find_spec("dvc_s3") else f"{shared}/dvc"
            where = {"bucket": BUCKET, "settings": settings, "logs": logs, "remote": Store().remote_place()[0]}
            print(USE.format(**vars(found), **where, dvc=dvc, command=project.command()), flush=True)
            signal.pause()
    except UserError as error:
        sys.exit(f"error: {error}")
    except AssertionError as error:  # a server that does not start
        sys.exit(f"error: {error}. Its log is in {logs}")
    finally:
        settings.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
