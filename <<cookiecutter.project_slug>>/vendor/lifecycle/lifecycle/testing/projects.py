"""Fixtures: projects for tests to work on. A conftest.py imports the ones that its tests use."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from . import (
    FEWER_LEAVES,
    Releases,
    cli,
    cli_json,
    commit_all,
    copy_project,
    edit_params,
    environment,
    is_quiet,
    make_project,
    repro,
    wait_until,
    with_own_settings,
)

DATABASES = (
    "from lifecycle.releases import tracking; tracking.warm_up()",
    "import lifecycle.flows, asyncio, prefect.server.database as prefect; "
    "asyncio.run(prefect.provide_database_interface().create_db())",
)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this test session share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def fresh(shared: Path) -> Path:
    """A project nothing has been run in, to be copied. Its databases are there, empty: making them takes a while."""
    folder = shared / "fresh"
    with FileLock(shared / "fresh.lock"):
        if not folder.exists():
            making = shared / "fresh.making"
            make_project(making)
            for made in DATABASES:
                subprocess.run([sys.executable, "-c", made], cwd=making, env=environment(making), check=True)
            copy_project(making, folder)
    return folder


@pytest.fixture(scope="session")
def finished(shared: Path, fresh: Path) -> Path:
    """A project in which `run` has ended well, once. To be looked at and copied, never changed."""
    folder = shared / "finished"
    with FileLock(shared / "finished.lock"):
        if not (folder / "done").exists():
            shutil.rmtree(folder, ignore_errors=True)
            copy_project(fresh, folder / "project")
            done = cli("run", folder=folder / "project")
            assert done.returncode == 0, done.stdout + done.stderr
            (folder / "done").touch()
    return folder / "project"


@pytest.fixture(scope="session")
def two_releases(shared: Path, finished: Path) -> Releases:
    """A project in which one release serves production and another, of a smaller model, could. Never to be changed."""
    folder = shared / "releases"
    with FileLock(shared / "releases.lock"):
        if not (folder / "ids.json").exists():
            shutil.rmtree(folder, ignore_errors=True)
            project = folder / "project"
            copy_project(finished, project)
            first = _release(project)
            cli_json("promote", first, "--to", "production", folder=project)
            edit_params(project, {"train": {"num_leaves": FEWER_LEAVES}})
            commit_all(project, "Smaller trees")
            repro(project)
            (folder / "ids.json").write_text(json.dumps([first, _release(project)]), encoding="utf-8")
    return Releases(folder / "project", *json.loads((folder / "ids.json").read_text(encoding="utf-8")))


def _release(project: Path) -> str:
    """Release what is built, take it to staging and approve it."""
    release: str = cli_json("release", folder=project)["release"]
    cli_json("promote", release, "--to", "staging", folder=project)
    cli_json("approve", release, folder=project)
    wait_until(lambda: is_quiet(project))  # what is copied while it changes is not whole
    return release


@pytest.fixture
def releases(two_releases: Releases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Releases:
    """The same as a project of the test's own; the test stands in its folder."""
    folder = _enter(two_releases.folder, tmp_path / "project", monkeypatch)
    return Releases(folder, two_releases.first, two_releases.second)


@pytest.fixture
def project(fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of the test's own, nothing run in it yet; the test stands in its folder."""
    return _enter(fresh, tmp_path / "project", monkeypatch)


@pytest.fixture
def built(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of the test's own, in which `run` has ended well; the test stands in its folder."""
    return _enter(finished, tmp_path / "project", monkeypatch)


def _enter(template: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy_project(template, folder)
    with_own_settings(folder, monkeypatch)
    return folder
