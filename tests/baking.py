"""Bake the template in-process, and tell what came out of it."""

import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cookiecutter.main import cookiecutter

TEMPLATE = Path(__file__).resolve().parents[1]
PROJECT = TEMPLATE / ("<" + "<cookiecutter.project_slug>" + ">")

HOSTILE_TEXT = (
    r"""1. $(touch pwned) `touch pwned` {{ 7*7 }} {% x %} ${HOME} %s %(x)s """
    r"""# \n "d" 'q' <b> _a_ 🛫 é"""
)
HOSTILE = {
    "project_name": "1) $(touch pwned) `touch pwned` {{ 7*7 }} {%x%} ${A} #'%s🛫é",
    "project_slug": "a-1",
    "description": HOSTILE_TEXT,
    "author_name": r"""O'Neil "x" \ {{ 7*7 }} $(touch pwned) `touch pwned` é 🛫""",
    "author_email": "o'neil+%s@example.com",
    "license": "BSD-3-Clause",
}
SHORT = {
    "project_name": "A",
    "project_slug": "a",
    "description": "B",
    "author_name": "C",
    "author_email": "d@e",
    "license": "proprietary",
}
LONG = {
    "project_name": "W" * 60,
    "project_slug": "w" * 30,
    "description": "w" * 300,
    "author_name": "W" * 100,
    "author_email": "w" * 60 + "@example.com",
    "license": "Apache-2.0",
}
BLANK = {
    "project_name": "Things That End",
    "description": "How does it end?",
    "example": "blank",
}


@dataclass
class Refusal:
    """A bake that was refused: what was raised, whose text is what a user reads."""

    error: BaseException

    @property
    def message(self):
        return str(self.error)


@contextmanager
def silenced(descriptor):
    """Drop what subprocesses write to a file descriptor."""
    sys.stderr.flush()
    kept = os.dup(descriptor)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), descriptor)
        try:
            yield
        finally:
            os.dup2(kept, descriptor)
            os.close(kept)


def bake(parent, answers=None, **options):
    """Bake into a folder of its own; return the project's path, or the Refusal."""
    parent.mkdir()
    config = parent.with_suffix(".yml")
    config.write_text(f'replay_dir: "{parent}.replay"\ncookiecutters_dir: "{parent}.none"\n')
    if "replay" not in options:
        options |= {"no_input": True, "extra_context": answers or {}}
    error, project = None, None
    with silenced(1), silenced(2):
        try:
            project = cookiecutter(
                str(TEMPLATE), output_dir=str(parent), config_file=str(config), **options
            )
        except Exception as raised:
            error = raised
    return Refusal(error) if error else Path(project)


def run_cookiecutter(folder, *arguments, typed=None, **environment):
    """Run the command as a user with an empty home would; bakes into folder / "out"."""
    command = [sys.executable, "-m", "cookiecutter", str(TEMPLATE), "-o", "out", *arguments]
    if typed is None:
        command.append("--no-input")
    return subprocess.run(
        command,
        cwd=folder,
        env={
            **os.environ,
            "HOME": str(folder),
            "PWD": str(folder),
            "COLUMNS": "500",
            **environment,
        },
        input=typed,
        capture_output=True,
        encoding="utf-8",
    )


def files_of(project):
    """Return the project's files as relative paths, without git's own."""
    found = (path.relative_to(project) for path in project.rglob("*") if path.is_file())
    return sorted(str(path) for path in found if path.parts[0] != ".git")
