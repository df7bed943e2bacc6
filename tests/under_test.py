"""The project that tests/machinery works on: a bake, or the one that --project names."""

import argparse
import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

from baking import PROJECT, bake

NAME = "LIFECYCLE_PROJECT"


def prepare():
    """Set up the import paths of this process and its children, once."""
    if NAME not in os.environ:
        project, machinery = named() or (baked(), PROJECT / "vendor/lifecycle")
        os.environ |= {
            NAME: str(project),
            "PYTHONPATH": os.pathsep.join(
                map(str, (machinery, project / "src", project / "tests"))
            ),
        }
    paths = os.environ["PYTHONPATH"].split(os.pathsep)
    sys.path[:0] = [path for path in paths if path not in sys.path]


def named():
    """The project that the command line names. pytest loads conftests before it parses options."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--project")
    name = parser.parse_known_args()[0].project
    return name and (Path(name).resolve(), Path(name).resolve() / "vendor/lifecycle")


def baked():
    folder = Path(tempfile.mkdtemp(prefix="under-test-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return bake(folder / "out")
