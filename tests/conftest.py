import json
import os
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest
import under_test
from filelock import FileLock

from baking import TEMPLATE, bake
from running import PREFECT, contents, make, run


def pytest_addoption(parser):
    parser.addoption("--project", help="A project to run tests/machinery on; else one is baked")


def pytest_configure(config):
    config.option.template = str(TEMPLATE)  # for pytest-cookies, wherever pytest started
    under_test.prepare()


def pytest_collection_modifyitems(items):
    """Start the two longest groups first, one worker each; the other tests come behind the shorter.

    It needs --no-loadscope-reorder, as in the Makefile: else xdist starts with the group that has
    the most tests.
    """
    long = {"options": 0, "run": 1}

    def place(item):
        group = item.get_closest_marker("xdist_group")
        return long.get(group.args[0], 2) if group else 2

    items.sort(key=place)


@pytest.fixture(scope="session")
def project(cookies_session):
    """One project baked with the default answers; tests must not change it."""
    result = cookies_session.bake()
    assert result.exception is None, result.exception
    return result.project_path


@pytest.fixture(scope="module")
def no_git():
    """Hide git from the hooks, which makes a bake several times faster."""
    hidden = {str(Path(found).parent) for found in [shutil.which("git")] if found}
    kept = [folder for folder in os.get_exec_path() if folder not in hidden]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", os.pathsep.join(kept))
        yield


@pytest.fixture(scope="session")
def ready(tmp_path_factory):
    """A baked project, set up and run once on the real data, with what that printed.

    All workers share it: only the group "run" may change what is not its environment or cache.
    """
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    out, printed = shared / "ready", shared / "ready.log"
    with FileLock(shared / "ready.lock"):
        if not printed.exists():
            shutil.rmtree(out, ignore_errors=True)
            project = bake(out)
            told = make(project, "run")
            with closing(sqlite3.connect(project / PREFECT)) as made:
                with closing(sqlite3.connect(shared / "prefect.db")) as kept:
                    made.backup(kept)
            from lifecycle.testing import copy_project

            copy_project(project, shared / "as-run", ".venv", "cache")
            (shared / "ready.json").write_text(json.dumps(contents(project)), encoding="utf-8")
            printed.write_text(told, encoding="utf-8")
    return out / "flight-delays", printed.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def ready_contents(ready):
    """What the first run left in the ready project, by path, whatever has been done there since."""
    return json.loads((ready[0].parents[1] / "ready.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def lived(ready):
    """The project after `make demo`, and what that printed; for the last tests."""
    project, _ = ready
    run(project, "git", "add", "--all")
    run(project, "git", "-c", "user.name=T", "-c", "user.email=t@e", "commit", "-qm", "Result")
    told = {f"GIT_{role}_{what}" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    who = {name: "ada@example.org" if name.endswith("EMAIL") else "Ada Lovelace" for name in told}
    settings = [f"{name}={value}" for name, value in sorted(who.items())]
    return project, run(TEMPLATE, "env", *settings, sys.executable, "demo.py", str(project))
