"""For tests: a project of their own, the command line as a process, digests of files.

The fixtures are in projects.py. The rows come from the project: tests/synthetic.py makes them.
"""

import hashlib
import importlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from . import forking

# The project that is tested, and its own package. The machinery's own tests name the project; a project's stand in it.
ROOT = Path(os.environ.get("LIFECYCLE_PROJECT", ".")).resolve()
OWN = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["lifecycle"]["model"].split(".")[0]
CLI = [sys.executable, "-m", "lifecycle.cli"]

# What a project is made of; all the rest is data, caches and state of this machine.
PROJECT_FILES = (
    ".dvc/.gitignore",
    ".dvc/config",
    ".dvcignore",
    ".gitattributes",
    ".gitignore",
    "dvc.yaml",
    "params.yaml",
    "prefect.yaml",
    "pyproject.toml",
    "requirements.lock",
    "src",
    "transform",
    "vendor",
)
# Of the model of the first release and of the second, in every project that tests make.
LEAVES: int = (
    yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["train"]
    | importlib.import_module("synthetic").PARAMS.get("train", {})
)["num_leaves"]
FEWER_LEAVES = max(LEAVES // 2, 2)
NOT_COPIED = shutil.ignore_patterns("__pycache__", "*.egg-info", "target", "logs")


@dataclass(frozen=True)
class Releases:
    """A project with two releases, by id: `first` serves production; `second` serves staging and is approved."""

    folder: Path
    first: str
    second: str


def own(module: str) -> Any:
    """A module of the project's own part."""
    return importlib.import_module(f"{OWN}.{module}")


def environment(folder: Path, **more: str) -> dict[str, str]:
    """The environment for a project's processes: nobody's settings, and nothing kept outside `folder`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    return kept | own_settings(folder) | more


# Settings of the person or machine that runs the tests.
FOREIGN = ("DVC_", "GIT_", "MLFLOW_", "PREFECT_")


def own_settings(folder: Path) -> dict[str, str]:
    """What each test's processes are told instead."""
    name, mail = "Tests", "tests@example.org"
    return {
        "DO_NOT_TRACK": "1",
        # The stages call `python`: the one that runs the tests.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "DVC_SITE_CACHE_DIR": str(folder / ".dvc/tmp/site"),
        "GIT_AUTHOR_EMAIL": mail,
        "GIT_AUTHOR_NAME": name,
        "GIT_COMMITTER_EMAIL": mail,
        "GIT_COMMITTER_NAME": name,
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
    }


def make_project(folder: Path) -> None:
    """Write a fresh project on the synthetic source to `folder`, as a git repository with one commit."""
    for name in PROJECT_FILES:
        source, target = ROOT / name, folder / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=NOT_COPIED)
        elif source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    # Whatever remote the team has, tests have their own.
    remote = "[core]\n    remote = tests\n['remote \"tests\"']\n    url = ../.dvc-remote\n"
    (folder / ".dvc/config.local").write_text(remote, encoding="utf-8")
    synthetic = importlib.import_module("synthetic")
    edit_params(folder, synthetic.PARAMS)
    # Few rows, whatever a team's loss is like: a release that is as good must be told within these.
    edit_params(folder, {"rollout": {"shadow": {"margin": 0.02, "min_rows": 100, "wait_days": 14}}})
    synthetic.write_source(folder / "extracts", synthetic.MONTHS)
    with (folder / ".gitignore").open("a", encoding="utf-8") as file:
        file.write("/extracts\n")
    for arguments in (["init", "--quiet", "--initial-branch=main"], ["add", "."], ["commit", "--quiet", "-m", "First"]):
        subprocess.run(["git", *arguments], cwd=folder, env=environment(folder), check=True, capture_output=True)


def edit_params(folder: Path, changes: dict[str, Any]) -> None:
    """Change some keys of params.yaml, section by section."""
    path = folder / "params.yaml"
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    for section, values in changes.items():
        params[section] |= values
    path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


def copy_project(source: Path, target: Path, *without: str) -> None:
    """Copy a project with all its state, except for names `without`. The copy's paths are its own."""
    shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns(*without))
    for state in (target / ".lifecycle").glob("*.json"):
        state.write_text(state.read_text(encoding="utf-8").replace(str(source), str(target)), encoding="utf-8")
    database = target / "mlflow.db"
    if database.exists():
        with closing(sqlite3.connect(database)) as connection, connection:
            for (table,) in connection.execute("select name from sqlite_master where type = 'table'").fetchall():
                for _, column, kind, *_ in connection.execute(f"pragma table_info({table})").fetchall():
                    if "CHAR" in kind.upper() or "TEXT" in kind.upper():
                        connection.execute(
                            f"update {table} set {column} = replace({column}, ?, ?) where instr({column}, ?)",
                            (str(source), str(target), str(source)),
                        )


def cli(*arguments: str, folder: Path | None = None, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the project's command line as a process, in `folder` or here; `more` goes into its environment."""
    folder = folder or Path.cwd()
    return forking.run(list(arguments), folder, environment(folder, **more), timeout=300)


def without_network() -> list[str]:
    """What a command line begins with to have no network, not even loopback; empty where none can be set apart."""
    words = ["unshare", "--map-root-user", "--net"]
    able = shutil.which("unshare") and subprocess.run([*words, "true"], capture_output=True).returncode == 0
    return words if able else []


def cli_json(*arguments: str, folder: Path | None = None, **more: str) -> Any:
    """What a command that must succeed says with --json."""
    done = cli(*arguments, "--json", folder=folder, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def commit_all(folder: Path, message: str) -> None:
    """Commit whatever has changed in a project."""
    for arguments in (["add", "--all"], ["commit", "--quiet", "--allow-empty", "-m", message]):
        subprocess.run(["git", *arguments], cwd=folder, env=environment(folder), check=True, capture_output=True)


def repro(folder: Path) -> None:
    """Bring every stage up to date with DVC alone: a third of what `run` takes, and MLflow is told later."""
    command = [sys.executable, "-m", "dvc", "repro", "--quiet"]
    subprocess.run(command, cwd=folder, env=environment(folder), check=True, capture_output=True)


def ingest_all() -> dict[str, str]:
    """What `run` does up to the end of the first stage, here; returns the digests of data/raw."""
    from lifecycle.params import load_params
    from lifecycle.stages import ingest

    ingest.admit(load_params().data)
    ingest.main()
    return digests(Path("data/raw"))


def mlflow_rows(table: str) -> int | None:
    """How many rows a table of the MLflow database here has; None when there is no such table yet."""
    try:
        with closing(sqlite3.connect("file:mlflow.db?mode=ro", uri=True)) as database:
            return int(database.execute(f"select count(*) from {table}").fetchone()[0])
    except sqlite3.OperationalError:
        return None


def forget_runs(folder: Path) -> None:
    """Empty DVC's run-cache: a stage that is asked for runs, seen before or not."""
    shutil.rmtree(folder / ".dvc/cache/runs", ignore_errors=True)


def digests(*paths: Path) -> dict[str, str]:
    """SHA-256 of every file at or below these paths, by path. A path that is not there has none."""
    files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*")))]
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()}


def new_repository(folder: Path) -> Path:
    """A git repository on the branch main with one commit, which holds one file."""
    folder.mkdir(parents=True)
    (folder / "README.md").write_text("A project\n", encoding="utf-8")
    subprocess.run(["git", "init", "--quiet", "--initial-branch=main"], cwd=folder, env=environment(folder), check=True)
    commit_all(folder, "First")
    return folder


def with_own_settings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `environment` gives processes, for this one."""
    for name in os.environ:
        if name.startswith(FOREIGN):
            monkeypatch.delenv(name)
    for name, value in own_settings(folder).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(folder)


def wait_until(so: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for what another process does."""
    until = time.monotonic() + seconds
    while not so():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.1)


def is_quiet(folder: Path) -> bool:
    """Whether no command has left a process behind that still updates MLflow or a catalogue."""
    names = ("lifecycle.lineage.mlflow_pages", "lifecycle.lineage.openlineage")
    running = [each.info for each in psutil.process_iter(["cmdline", "cwd"])]
    return not any(each["cwd"] == str(folder) and set(names) & set(each["cmdline"] or ()) for each in running)
