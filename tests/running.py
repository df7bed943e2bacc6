"""Run commands in a baked project, as its users would."""

import os
import subprocess
import sys


def run(project, *command, check=True, **options):
    """Run a command in the project as a user would; return what it printed."""
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    environment["PYTHONPATH"] = str(project / "src")
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
