"""A project from before the machinery was a package of its own keeps its releases.

tests/projects/before-0.2.tar.xz is one, baked at 98b00d4 on small made-up data: of its two releases
the second serves production. ids.json beside it has them in order.
"""

import json
import os
import shutil
import sys
import tarfile
from pathlib import Path
from urllib.request import Request, urlopen

import pyarrow.parquet as pq
import pytest

from baking import TEMPLATE
from running import python_path, run

pytestmark = pytest.mark.xdist_group("options")

PACKED = Path(__file__).parent / "projects/before-0.2.tar.xz"
WHO = [f"GIT_{role}_{what}={value}" for role in ("AUTHOR", "COMMITTER")
       for what, value in (("NAME", "Tests"), ("EMAIL", "tests@example.org"))]  # fmt: skip


def git(folder, *arguments):
    return run(folder, "env", *WHO, "git", *arguments).strip()


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
    """The old project with a team's changes, updated to the template that is here.

    Returns it, its two releases, and a function that runs its command.
    """
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(PACKED) as packed:
        packed.extractall(folder, filter="data")
    project, new = folder / "flight-delays", template(folder / "template")
    contracts = project / "src/flight_delays/stages/contracts.py"
    contracts.write_text(contracts.read_text().replace('"""All contracts', '"""Our contracts'))
    (project / "src/flight_delays/ours.py").write_text("from .params import load_params\n")
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "-m", "Ours")
    update = ["tools/template.py", "update", "--to", git(new, "rev-parse", "HEAD")]
    run(project, "env", *WHO, sys.executable, *update, "--template", str(new), check=False)
    # Its params.yaml has other values and no comments: an ordinary conflict, and the only one.
    assert git(project, "diff", "--name-only", "--diff-filter=U") == "params.yaml"
    git(project, "checkout", "--ours", "params.yaml")
    git(project, "add", "params.yaml")
    git(project, "-c", "core.editor=true", "cherry-pick", "--continue")
    path = f"PATH={ready[0] / '.venv/bin'}{os.pathsep}{os.environ['PATH']}"

    def cli(*arguments, **options):
        command = ("python", "-m", "lifecycle.cli", *arguments)
        return run(project, "env", path, "DO_NOT_TRACK=1", *WHO, *command, **options)

    return project, json.loads((folder / "ids.json").read_text()), cli


def serves(cli):
    return json.loads(cli("status", "--json"))["channels"]["production"]["release"]


def test_an_update_moves_the_teams_code_and_leaves_the_machinery_out_of_it(old):
    project, _, cli = old
    package = project / "src/flight_delays"
    assert '"""Our contracts' in (package / "contracts.py").read_text()
    assert (package / "ours.py").exists()
    assert not {"lifecycle", "serving", "stages"} & {each.name for each in package.iterdir()}
    assert "src/flight_delays/ours.py" in cli("check", check=False)
    (package / "ours.py").unlink()
    git(project, "commit", "--quiet", "--all", "-m", "Not ours any more")


@pytest.fixture(scope="module")
def rolled_back(old):
    """The same, with the first release in production again; and the output of `verify` before."""
    _, _, cli = old
    printed = cli("verify", "--all")
    cli("rollback", "production", "--reason", "The one before will do")
    return *old, printed


def test_its_releases_are_whole_and_can_be_rolled_back_to(rolled_back):
    _, (first, second), cli, printed = rolled_back
    whole = [line.split()[0] for line in printed.splitlines() if line.split()[1:2] == ["whole,"]]
    assert whole == ["ledger", first, second]
    traced = cli("trace", "production", "--verify")
    assert f"release {first}" in traced
    assert "data/raw/flights/2013-01.parquet" in traced


def test_an_old_release_is_served_and_its_prediction_traced(rolled_back, ready):
    from lifecycle.processes import free_port, server, wait_until

    project, (first, _), cli, _ = rolled_back
    cli("refresh")
    scored = next((project / "data/scores").rglob("*.parquet"))
    key = pq.read_table(scored, columns=["key"])["key"][0].as_py()
    port, python = free_port(), ready[0] / ".venv/bin/python"
    url, command = f"http://127.0.0.1:{port}", ["-m", "lifecycle.cli", "serve", "--port", str(port)]
    paths = {**os.environ, "PYTHONPATH": python_path(project), "DO_NOT_TRACK": "1"}
    log = project.parent / "serve.log"
    with server([str(python), *command], f"{url}/health/ready", project, log, paths):
        body = json.dumps({"row": {"flight_id": key}}).encode()
        request = Request(f"{url}/predict", body, {"Content-Type": "application/json"})
        with urlopen(request, timeout=60) as answer:
            predicted = json.loads(answer.read())
        logs, name = project / "logs/predictions", predicted["prediction_id"]
        wait_until(lambda: any(name in file.read_text() for file in logs.glob("*/*.jsonl")))
    assert predicted["release"] == first
    assert f"release {first}" in cli("trace", predicted["prediction_id"])


def test_an_old_release_is_rebuilt_to_the_byte(rolled_back):
    _, (first, _), cli, _ = rolled_back
    # Its progress follows the answer here.
    answer, _ = json.JSONDecoder().raw_decode(cli("reproduce", first, "--json"))
    assert answer["level"] == "L0"


def test_a_new_release_takes_over_and_gives_way_again(rolled_back):
    project, (first, _), cli, _ = rolled_back
    cli("run")
    git(project, "commit", "--quiet", "--all", "-m", "The first result here")
    new = json.loads(cli("release", "--json"))["release"]
    cli("promote", new, "--to", "staging")
    cli("approve", new)
    cli("promote", new, "--to", "production")
    assert serves(cli) == new
    cli("rollback", "production", "--reason", "As a drill")
    assert serves(cli) == first


def test_an_old_release_is_restored_with_its_machinery_and_can_be_left_again(rolled_back):
    project, (first, _), cli, _ = rolled_back
    assert "`make setup`" in cli("restore", first)
    assert git(project, "diff", "--stat", f"release/{first}") == ""
    assert (project / "src/flight_delays/lifecycle").exists()
    assert not (project / "vendor").exists()
    git(project, "revert", "--no-edit", "HEAD")
    assert serves(cli) == first
