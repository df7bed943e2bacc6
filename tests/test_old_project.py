"""A project from before the machinery was a package of its own keeps its releases.

tests/projects/before-0.2.tar.xz is one, baked at 98b00d4 on small made-up data: of its two releases
the second serves production. ids.json beside it has them in order.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from baking import PROJECT, TEMPLATE
from running import run

pytestmark = pytest.mark.xdist_group("options")

PACKED = Path(__file__).parent / "projects/before-0.2.tar.xz"
WHO = {f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER") for what, value in
       (("NAME", "Tests"), ("EMAIL", "tests@example.org"))}  # fmt: skip


def git(folder, *arguments):
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=os.environ | WHO, check=True, capture_output=True,
        encoding="utf-8",
    )  # fmt: skip
    return done.stdout.strip()


def template(folder):
    """The template with its history, and with the work tree as its newest commit."""
    git(folder.parent, "clone", "--quiet", str(TEMPLATE), str(folder))
    listed = git(TEMPLATE, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    git(folder, "rm", "-r", "--quiet", ".")
    for name in filter(None, listed.split("\0")):
        if (TEMPLATE / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(TEMPLATE / name, folder / name)
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "-m", "What is here")
    return folder


@pytest.fixture(scope="module")
def old(ready, tmp_path_factory):
    """The old project, updated to the template that is here; its releases; a function to run it."""
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(PACKED) as packed:
        packed.extractall(folder, filter="data")
    project, new = folder / "flight-delays", template(folder / "template")
    edit(project / "src/flight_delays/stages/evaluate.py", "SMALLEST_SLICE = 200", "SMALLEST_SLICE = 150")
    (project / "src/flight_delays/holidays.py").write_text(OWN_FILE)
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "-m", "Ours")
    update = ["tools/template.py", "update", "--to", git(new, "rev-parse", "HEAD")]
    run(project, "env", *WHO, sys.executable, *update, "--template", str(new))
    path = f"PATH={ready[0] / '.venv/bin'}{os.pathsep}{os.environ['PATH']}"

    def cli(*arguments, **options):
        command = ("python", "-m", "lifecycle.cli", *arguments)
        return run(project, "env", path, "DO_NOT_TRACK=1", *WHO, *command, **options)

    return project, json.loads((folder / "ids.json").read_text()), cli


def test_an_update_takes_the_teams_changes_to_their_new_places(old):
    project, _, cli = old
    assert "SMALLEST_SLICE = 150" in (project / "src/flight_delays/evaluate.py").read_text()
    assert (project / "src/flight_delays/holidays.py").exists()
    assert not (project / "src/flight_delays/stages").exists()
    assert not (project / "src/flight_delays/lifecycle").exists()
    assert "holidays.py imports flight_delays.params" in cli("check", check=False)


def test_its_releases_are_whole_traced_and_rolled_back_to(old):
    _, (first, second), cli = old
    printed = cli("verify", "--all")
    for name in ("ledger ", first, second):
        assert f"{name.strip()} whole" in " ".join(printed.split())
    cli("rollback", "production", "--reason", "The one before is enough")
    told = cli("trace", "production", "--verify")
    assert f"release {first}" in told
    assert "data/raw/flights/2013-01.parquet" in told


def test_an_old_release_is_served(old):
    ...


def test_an_old_release_is_rebuilt_byte_for_byte(old):
    _, (first, _), cli = old
    assert json.loads(cli("reproduce", first, "--json"))["level"] == "L0"


def test_a_new_release_takes_over_and_gives_way_again(old):
    project, (first, _), cli = old
    cli("run")
    git(project, "commit", "--quiet", "--all", "-m", "The first result here")
    new = json.loads(cli("release", "--json"))["release"]
    for step in (["promote", new, "--to", "staging"], ["approve", new], ["promote", new]):
        cli(*step)
    cli("rollback", "production", "--reason", "As a drill")
    assert json.loads(cli("status", "--json"))["channels"]["production"]["release"] == first
