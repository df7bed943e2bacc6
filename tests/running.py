"""Run commands in a baked project, as its users would."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from needs import lacking

PREFECT = ".prefect/prefect.db"
# What one run must leave as another one did, byte for byte.
RESULTS = ["dvc.lock", "data/raw", "data/features", "model", "reports"]


# A project's own tests are not workers of these, and what tests/machinery leaves in this process is
# not the project's: MLflow sets MLFLOW_TRACKING_URI, say.
FOREIGN = ("DVC_", "LIFECYCLE_", "MLFLOW_", "PREFECT_", "PYTEST_", "VIRTUAL_ENV")


def python_path(project):
    """Where a project's own code and its machinery are."""
    return os.pathsep.join(str(project / name) for name in ("src", "vendor/lifecycle"))


def run(project, *command, check=True, **options):
    """Run a command in the project as a user would; return what it printed."""
    environment = {name: each for name, each in os.environ.items() if not name.startswith(FOREIGN)}
    environment["PYTHONPATH"] = python_path(project)
    done = subprocess.run(
        command,
        cwd=project,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        **options,
    )
    assert not check or done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def make(project, target):
    """Run a make target with the Python that runs these tests."""
    return run(project, "make", "--no-print-directory", target, f"PYTHON={sys.executable}")


def with_prefect(project, ready):
    """Give a project the database that a first run makes, which takes it ten seconds."""
    (project / PREFECT).parent.mkdir()
    shutil.copy(ready[0].parents[1] / "prefect.db", project / PREFECT)
    return project


def contents(project):
    """SHA-256 of every file of the results, by path."""
    found = {}
    for name in RESULTS:
        path = project / name
        for file in [path] if path.is_file() else sorted(path.rglob("*")):
            if file.is_file():
                digest = hashlib.sha256(file.read_bytes()).hexdigest()
                found[str(file.relative_to(project))] = digest
    return found


def python_of(version):
    """A Python of this version; without it the test is skipped, and fails in CI."""
    homes = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    # pyenv's own first: its shims are there for versions that are switched off.
    found = next(homes.glob(f"{version}.*/bin/python"), None) or shutil.which(f"python{version}")
    return str(found) if found else lacking("pythons", f"no Python {version} here")
