"""A project works where people have it: in a larger repository, on an odd path."""

import json
import os

import pytest

from baking import bake
from running import contents, python_of, run, with_prefect

pytestmark = pytest.mark.xdist_group("options")

# Nothing can be written there, whoever runs this.
HOME = "/proc/nohome"
# All but the newest only build.
PYTHONS = ["3.12", "3.13"]
NEWEST = PYTHONS[-1]


def test_in_a_larger_repository_on_a_path_with_spaces_and_letters(ready, tmp_path):
    top = tmp_path / "all our räpos"
    top.mkdir()
    run(top, "git", "init", "--quiet", "--initial-branch", "main")
    (top / "params.yaml").write_text("somebody: else's\n")
    project = with_prefect(bake(top / "flüge & co"), ready)
    for key in ("user.name", "user.email"):
        run(top, "git", "config", key, "tests@example.com")
    run(top, "git", "add", "--all")
    run(top, "git", "commit", "--quiet", "-m", "Baked")
    path = f"PATH={ready[0] / '.venv/bin'}{os.pathsep}{os.environ['PATH']}"

    def cli(*arguments):
        return run(
            project, "env", path, f"HOME={HOME}", "python", "-m", "lifecycle.cli", *arguments
        )

    run(project, "env", path, "dvc", "cache", "dir", "--local", str(ready[0] / ".dvc/cache"))
    assert "version 1" in cli("run")
    release = json.loads(cli("release", "--json"))["release"]
    cli("promote", release, "--to", "staging")
    assert "data/raw/flights/2013-01.parquet" in cli("trace", "staging", "--verify")
    assert "whole" in cli("verify", "--all")
    assert "All gates pass." in cli("report", "--base", "HEAD~1")
    edited = project / "params.yaml"
    edited.write_text(edited.read_text().replace("rounds: 400", "rounds: 3"))
    run(top, "git", "commit", "--quiet", "--all", "-m", "Worse")
    cli("restore", release)
    assert "rounds: 400" in edited.read_text()
    assert run(top, "git", "status", "--porcelain") == ""
    changed = run(top, "git", "diff", "--name-only", "HEAD~3", "HEAD").split("\n")
    assert all("flight-delays/" in name for name in changed if name)


@pytest.mark.parametrize("version", PYTHONS)
def test_another_python_gives_the_same_bytes(version, ready_contents, tmp_path):
    python = python_of(version)
    project = bake(tmp_path / "out")
    assert "flight-delays version 1" in run(project, "make", "run", f"PYTHON={python}")
    assert f"Python {version}." in run(project, ".venv/bin/python", "--version")
    assert contents(project) == ready_contents
    if version != NEWEST:
        return
    for key in ("user.name", "user.email"):
        run(project, "git", "config", key, "tests@example.com")
    run(project, "git", "commit", "--quiet", "--all", "--allow-empty", "-m", "Result")
    cli = ".venv/bin/flight-delays"
    release = json.loads(run(project, cli, "release", "--json"))["release"]
    run(project, cli, "promote", release, "--to", "staging")
    run(project, cli, "trace", "staging", "--verify")
    assert "whole" in run(project, cli, "verify", "--all")
