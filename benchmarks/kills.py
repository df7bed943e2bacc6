"""Kill release, promote, rollback and restore, hundreds of times, and look at what is left.

Every kill is a SIGKILL of a real process and all it has started: at each step that changes
something, inside git while it holds a lock, and at random moments, of the command line too. What
must hold stands in the generated project's tests/killing.py, which its own suite uses for some
dozens of kills; the data are those of its tests.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TEMPLATE = Path(__file__).resolve().parents[1]
NAME = "flight-delays"
LEDGER = "refs/heads/lifecycle/ledger"
RANDOM_MOMENTS, RANDOM_COMMANDS = 15, 5


def main():
    """Bake a project, set it up, and go on in its environment."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", help="of an environment that fits; default: a new one")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.inside:
        sys.exit(inside(asked.inside))
    scratch = Path(tempfile.mkdtemp(prefix="kills-"))
    try:
        bake = [sys.executable, "-m", "cookiecutter", TEMPLATE, "--no-input", "--default-config"]
        command = [*bake, "-o", scratch / "baked"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        project = scratch / "baked" / NAME
        python = asked.python or project / ".venv/bin/python"
        if not asked.python:
            print("setting up the project ...", file=sys.stderr)
            subprocess.run(["make", "setup", f"PYTHON={sys.executable}"], cwd=project, check=True)
        paths = os.pathsep.join([str(project / "src"), str(project / "tests")])
        programs = os.pathsep.join([str(Path(python).parent), os.environ["PATH"]])
        environment = os.environ | {"PYTHONPATH": paths, "PATH": programs, "DO_NOT_TRACK": "1"}
        done = subprocess.run([python, __file__, "--inside", scratch / "work"], env=environment)
        sys.exit(done.returncode)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def inside(folder):
    """The kills, in the project's environment; returns the exit code."""
    from killing import Range, Tally, operations
    from workers import Worker

    folder.mkdir()
    first, second = two_releases(folder / "two", "released")
    unreleased(folder / "two", folder / "three")
    tallies = {}
    with Worker() as worker:
        for name, operation in operations(first, second).items():
            project = folder / name
            enter(folder / ("three" if name == "release" else "two"), project)
            if name == "promote":
                shutil.rmtree(project / ".lifecycle/releases" / second)  # so that it has to be made
            if name == "rollback":
                worker.do(project, "promote", what=second, to="production")
            killed = Range(operation, project, folder / f"{name}-start", worker)
            moments = random.Random(f"kills {name}")
            killed.at_every_step()
            killed.inside_git("HEAD" if name == "restore" else LEDGER)
            for _ in range(RANDOM_MOMENTS):
                killed.after_seconds(moments.uniform(0, killed.seconds))
            for _ in range(RANDOM_COMMANDS):
                killed.command_after_seconds(moments.uniform(0.3, killed.seconds + 2))
            tallies[name] = killed.tally
            print(f"{name}: {killed.tally.kills} kills", file=sys.stderr)
    print("| killed | kills | before commit | after | mixtures | next command s | doctor s |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    whole = Tally()
    for name, tally in tallies.items():
        row(name, tally)
        whole.kills += tally.kills
        whole.before += tally.before
        whole.after += tally.after
        whole.mixtures += tally.mixtures
        whole.next_seconds = max(whole.next_seconds, tally.next_seconds)
        whole.doctor_seconds = max(whole.doctor_seconds, tally.doctor_seconds)
    row("all", whole)
    print("the seconds are the worst of the row")
    print(*whole.mixtures, sep="\n", file=sys.stderr)
    return 1 if whole.mixtures or whole.kills < 200 else 0


def row(name, tally):
    """One line of the table."""
    counts = (tally.kills, tally.before, tally.after, len(tally.mixtures))
    seconds = f"{tally.next_seconds:.2f} | {tally.doctor_seconds:.2f}"
    print(f"| {name} | {' | '.join(map(str, counts))} | {seconds} |")


def enter(original, project):
    """A copy of a project, to stand in."""
    from lifecycle.testing import copy_project, own_settings

    copy_project(original, project)
    os.environ.update(own_settings(project))
    os.chdir(project)


def two_releases(project, reason):
    """A project in which one release serves production, and another could; returns both."""
    from lifecycle.testing import cli, cli_json, commit_all, edit_params, make_project

    def release():
        assert cli("run", folder=project).returncode == 0
        made = cli_json("release", "--reason", reason, folder=project)["release"]
        cli_json("promote", made, "--to", "staging", folder=project)
        cli_json("approve", made, folder=project)
        return made

    make_project(project)
    first = release()
    cli_json("promote", first, "--to", "production", folder=project)
    edit_params(project, {"train": {"num_leaves": 7}})
    commit_all(project, "Smaller trees")
    return first, release()


def unreleased(original, project):
    """A copy with a new result that MLflow has not been told of."""
    from lifecycle.testing import commit_all, copy_project, edit_params, repro

    copy_project(original, project)
    edit_params(project, {"train": {"num_leaves": 5}})
    commit_all(project, "Smaller trees still")
    repro(project)


if __name__ == "__main__":
    main()
