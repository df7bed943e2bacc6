"""What the wiring costs, as ratios in one run: `make bench`.

Every figure is a median over runs that take turns with what they are compared to.
"""

import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TEMPLATE = Path(__file__).resolve().parents[1]
NAME = "flight-delays"


def timed(command, folder):
    """Run a command; return wall seconds and CPU seconds (its children's included)."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    wall = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{command} failed:\n{done.stdout}{done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def in_turns(times, *actions):
    """Run the actions in turn; return the median (wall, CPU) of each."""
    rounds = [[action() for action in actions] for _ in range(times)]
    return [
        tuple(statistics.median(v) for v in zip(*each, strict=True))
        for each in zip(*rounds, strict=True)
    ]


def bake(template, folder):
    """Bake a template with its defaults, as the command line does."""
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "cookiecutter", template, "--no-input", "--default-config"]
    return timed([*command, "-o", folder], TEMPLATE)


def bare_template(like, folder):
    """A template with no hooks and one question, whose bake writes the files of `like`."""
    shutil.rmtree(folder, ignore_errors=True)
    project = folder / "{{cookiecutter.name}}"
    shutil.copytree(like, project, ignore=shutil.ignore_patterns(".git"))
    for file in project.rglob("*"):
        if file.is_file():  # as many bytes, and nothing in them for Jinja to do
            file.write_bytes(file.read_bytes().replace(b"{", b"(").replace(b"}", b")"))
    (folder / "cookiecutter.json").write_text(json.dumps({"name": NAME}))
    return folder


def forget_results(project):
    """Back to before the first run, but for the databases of MLflow and Prefect."""
    for name in ("data/raw", "data/features", "data/landing", "model", "reports", ".dvc/cache"):
        shutil.rmtree(project / name, ignore_errors=True)
    for name in ("transform/target", ".dvc/tmp", ".lifecycle", "logs"):
        shutil.rmtree(project / name, ignore_errors=True)
    (project / "dvc.lock").unlink(missing_ok=True)


VERIFY = """
import hashlib, statistics, sys, time
from pathlib import Path
from lifecycle.releases import ledger, verify
from lifecycle.releases.store import Store
book, store = ledger.load(), Store()
release = book.release("production")
outputs = release.outputs()
listings = [output for output in outputs if output.md5.endswith(".dir")]
files = [store.object_path(each.md5) for each in (*outputs, *store.files(listings))]
def timed(action):
    start = time.process_time()
    action()
    return time.process_time() - start
def bare():
    for file in files:
        with file.open("rb") as opened:
            hashlib.file_digest(opened, "md5")
def ours():
    assert not verify.verify_release(release, book, store).problems
rounds = [(timed(ours), timed(bare)) for _ in range(20)]
print(*(statistics.median(each) for each in zip(*rounds)))
"""


def lifecycle(project, cli):
    """Rows on releases: rollback, restore and verify, on two releases of the real data."""

    def said(*arguments):
        command = [str(cli), *arguments, "--json"]
        done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    def release():
        made = said("release")
        said("promote", made["release"], "--to", "staging")
        said("approve", made["release"])
        said("promote", made["release"], "--to", "production")
        return made

    timed([cli, "run"], project)
    first = release()
    timed([cli, "run", "--through", "2013-09"], project)
    second = release()

    def rollback():
        took = timed([cli, "rollback", "production", "--reason", "benchmark"], project)
        time.sleep(6)  # MLflow is told in the background
        said("promote", second["release"], "--to", "production", "--reason", "benchmark")
        return took

    [back] = in_turns(5, rollback)
    yield "rollback, cache warm", back, None

    dvc = project / ".venv/bin/dvc"
    path = f"PATH={project / '.venv/bin'}:/usr/bin:/bin"

    def restore():
        took = timed([cli, "restore", first["release"]], project)
        timed([cli, "restore", second["release"]], project)
        return took

    def by_hand():
        checkout = f"git checkout -q {first['commit']} && {dvc} checkout -q"
        took = timed(["env", path, "sh", "-c", checkout], project)
        timed(["env", path, "sh", "-c", f"git checkout -q main && {dvc} checkout -q"], project)
        return took

    put_back, by_hand_took = in_turns(5, restore, by_hand)
    yield "restore, against git checkout and dvc checkout", put_back, by_hand_took
    whole = timed([cli, "verify", "production"], project)
    yield "verify, as a command", whole, None
    python = project / ".venv/bin/python"
    done = subprocess.run([python, "-c", VERIFY], cwd=project, capture_output=True, text=True)
    ours, bare = (float(value) for value in done.stdout.split())
    yield "verify, without start-up, against hashing the same bytes", (ours, ours), (bare, bare)


def main():
    """Print the table."""
    scratch = Path(tempfile.mkdtemp(prefix="bench-"))
    rows = []
    try:
        bake(TEMPLATE, scratch / "baked")
        project = scratch / "baked" / NAME
        bare = bare_template(project, scratch / "bare-template")
        ours, theirs = in_turns(
            5,
            lambda: bake(TEMPLATE, scratch / "ours"),
            lambda: bake(bare, scratch / "theirs"),
        )
        rows.append(("bake, against a bare template of as many bytes", ours, theirs))

        print("setting up the project ...", file=sys.stderr)
        timed(["make", "setup", f"PYTHON={sys.executable}"], project)
        python, cli = project / ".venv/bin/python", project / ".venv/bin" / NAME
        cold = timed([cli, "run"], project)
        bare_script = [python, TEMPLATE / "benchmarks/bare.py", "flight_delays"]

        def bare_run():
            return timed(bare_script, project)

        def first_run():
            forget_results(project)
            return timed([cli, "run"], project)

        # The bare script reads the SQL that dbt compiled, so it takes its turn second.
        warm, script = in_turns(3, first_run, bare_run)
        rows.append(("first run, databases warm, against a bare script", warm, script))
        rows.append(("first run, databases cold, against the same", cold, script))
        for name, arguments in [
            ("run with nothing changed", ["run"]),
            ("status", ["status"]),
            ("--help", ["--help"]),
        ]:
            [figure] = in_turns(5, lambda arguments=arguments: timed([cli, *arguments], project))
            rows.append((name, figure, None))
        rows += lifecycle(project, cli)
        [tests] = in_turns(5, lambda: timed(["make", "test"], project))
        rows.append(("make test", tests, None))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print("| what | wall s | CPU s | against, wall s | ratio |\n|---|---:|---:|---:|---:|")
    for name, (wall, cpu), other in rows:
        against = f"{other[0]:.3g} | {wall / other[0]:.2f}" if other else "|"
        print(f"| {name} | {wall:.3g} | {cpu:.3g} | {against} |")


if __name__ == "__main__":
    main()
