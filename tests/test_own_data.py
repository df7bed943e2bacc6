"""The guide "Bring your own table", to the letter: each block is done as the line above it says."""

import json
import re
import socket
import sys
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from baking import BLANK, TEMPLATE, bake
from running import run, with_prefect

pytestmark = pytest.mark.xdist_group("options")

# Another table's blocks, in the guide's place.
DAILY = Path(__file__).parent / "tables/daily.md"
REPLACE = re.compile(r"In `([^`]+)`, replace")
WHOLE = re.compile(r"`([^`]+)` becomes")


def steps(text):
    """The steps of a guide in order: the file, what is replaced there, and by what.

    One without a file is a command; one that replaces None writes the file.
    """
    said, place, old = "", None, None
    for token in MarkdownIt("commonmark").parse(text):
        if token.type == "inline":
            said = token.content.splitlines()[-1]
        elif token.type == "fence" and token.info == "sh":
            yield None, None, token.content
        elif token.type == "fence":
            if found := REPLACE.fullmatch(said):
                place, old = found[1], token.content
            elif said == "by":
                yield place, old, token.content
            else:
                found = WHOLE.fullmatch(said)
                assert found, f"nothing says what to do with:\n{token.content}"
                yield found[1], None, token.content


def with_table(guide, table):
    """The guide's steps, but those about its own table: these are as `table` has them."""
    (_, *commands), edits = parted(guide)
    (made, request), others = parted(table)
    there = {step[:2] for step in others}
    kept = [step for step in edits if step[:2] not in there and "patients" not in step[0]]
    return [made, *others, *kept, *commands[:-1], request]


def parted(guide):
    """Its commands, and its steps that change a file."""
    return [s for s in guide if s[0] is None], [s for s in guide if s[0] is not None]


def blank(ready, folder):
    """A blank start, with the ready project's environment as its own."""
    project = with_prefect(bake(folder, BLANK), ready)
    bin = project / ".venv/bin"
    bin.mkdir(parents=True)
    commands = {name: name for name in ("python", "dvc", "ruff", "mypy", "sqlfluff")}
    commands["things-that-end"] = "python -m lifecycle.cli"
    for name, command in commands.items():
        (bin / name).write_text(f'#!/bin/sh\nexec "{ready[0]}/.venv/bin/"{command} "$@"\n')
        (bin / name).chmod(0o755)
    (project / ".venv/.installed").touch()
    for key in ("user.name", "user.email"):
        run(project, "git", "config", key, "tests@example.com")
    return project


@pytest.fixture(scope="module")
def own(ready, tmp_path_factory):
    return blank(ready, tmp_path_factory.mktemp("own") / "out")


def follow(project, done, table=None):
    """Do every step but the request, which is returned."""
    guide = list(steps((project / "docs/own-data.md").read_text()))
    for name, old, content in with_table(guide, list(steps(table.read_text()))) if table else guide:
        if name is None and content.startswith("curl"):
            return content
        if name is None:
            done.append(run(project, "sh", "-ec", content))
            continue
        place = project / name
        if old is None:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(content)
        else:
            text, old = place.read_text(), old.strip("\n")
            assert text.count(old) == 1, f"{name}:\n{old}"
            place.write_text(text.replace(old, content.strip("\n")))
    raise AssertionError("the guide asks nothing of a server")


def ask(project, request):
    """Serve what is in production, and send one request."""
    # The port of the guide may be taken on this machine.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    answer = run(project, "sh", "-ec", f"""
        .venv/bin/things-that-end serve --port {port} > serve.log 2>&1 &
        trap "kill $!" EXIT
        for i in $(seq 100); do grep -q http: serve.log && break; sleep 0.2; done
        {request.replace("8000", str(port))}""")  # fmt: skip
    [predicted] = json.loads(answer)["predictions"]
    return predicted


def run_tests_of(project, *names):
    """Run tests on a project: its own, and the machinery's.

    A test that holds for one table need not be tried with the other.
    """
    command = ["-m", "pytest", "-p", "no:cacheprovider"]
    there = [(project / "tests" / name.split("::")[0]).exists() for name in names]
    mine = [f"tests/{name}" for name, own in zip(names, there, strict=True) if own]
    others = [f"tests/machinery/{name}" for name, own in zip(names, there, strict=True) if not own]
    assert "passed" in run(project, ".venv/bin/python", *command, *mine)
    assert "passed" in run(TEMPLATE, sys.executable, *command, f"--project={project}", *others)


def machinery(project):
    """The files that a team changes nothing in."""
    files = [file for file in (project / "vendor").rglob("*") if file.suffix != ".pyc"]
    return {file: file.read_bytes() for file in files if file.is_file()}


def test_a_stranger_brings_a_table_of_another_shape_and_kind(own):
    before, done = machinery(own), []
    request = follow(own, done)
    assert machinery(own) == before
    _, told = done
    assert "things-that-end version 1, alias challenger" in told
    assert "production serves r-" in told
    assert "data/raw/patients/2020-10.parquet" in told
    metrics = json.loads((own / "reports/metrics.json").read_text())
    assert metrics["rmse_skill"] > 0.1
    predicted = ask(own, request)
    # No probability: a measure between 25 and 346.
    assert 25 < predicted["score"] < 346
    assert "features.patients" in run(
        own, ".venv/bin/things-that-end", "trace", predicted["prediction_id"]
    )


def test_what_is_not_about_the_example_holds_for_the_new_table(own):
    if not (own / "reports/metrics.json").exists():
        follow(own, [])
    # Of the machinery's tests, those in which rows, keys and times of the table decide.
    names = ["releases/test_scoring.py", "serving/test_online.py", "stages/test_ingest.py"]
    own_tests = ("contract", "leaks", "story", "tables")
    run_tests_of(own, "stages", *(f"test_{name}.py" for name in own_tests), *names)


@pytest.fixture(scope="module")
def daily(ready, tmp_path_factory):
    """A daily table with a season, brought in by the guide; the output of that, and the request."""
    project, done = blank(ready, tmp_path_factory.mktemp("daily") / "out"), []
    before = machinery(project)
    request = follow(project, done, DAILY)
    assert machinery(project) == before
    return project, done[-1], request


def test_a_table_with_a_row_a_day_is_released_served_and_watched(daily):
    project, printed, request = daily
    assert "data/raw/weather/2022-12.parquet  31 rows" in printed
    assert "production serves r-" in printed
    predicted = ask(project, request)
    # A day in July, whose maximum was 24.
    assert 18 < predicted["score"] < 30

    command = (".venv/bin/things-that-end", "monitor")
    few = run(project, *command)
    assert "18 months had too few rows to judge: 28 to 31, min_rows is 100" in few
    assert "1 day of the prediction log had too few rows to judge: 1" in few
    assert "no window could be judged" in few
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("  min_rows: 100\n", "  min_rows: 25\n"))
    judged = run(project, *command, "--json")
    found = json.loads(judged)
    assert found["verdict"].startswith("none of "), "a season is no loss"
    assert {each["check"] for each in found["figures"] if each["fire"]} >= {"psi", "skill_drop"}

    # Half a year later, the thermometer is in the sun.
    table = project / "extracts/weather.csv"
    lines = [line.split(",") for line in table.read_text().splitlines()]
    for line in lines[1:]:
        if line[0] >= "2023-05":
            line[1] = f"{float(line[1]) + 14:.1f}"
    table.write_text("".join(",".join(line) + "\n" for line in lines))
    through = (".venv/bin/things-that-end", "run", "--through", "2023-06")
    assert "not registered: bias is " in run(project, *through, check=False)
    # June has 30 days: what opened in May stays open.
    params.write_text(params.read_text().replace("  min_rows: 25\n", "  min_rows: 31\n"))
    later = run(project, *command, check=False)
    assert "had too few rows to judge: 28 to 30, min_rows is 31" in later
    assert re.search(r"skill_drop +score( +\S+){3} +2023-05 +2023-05", later), later


def test_its_own_tests_hold_with_a_row_a_day(daily):
    run_tests_of(
        daily[0],
        "stages",
        "test_leaks.py",
        "test_tables.py",
        "stages/test_ingest.py",
        "monitoring/test_monitor.py",
        "monitoring/test_rollout.py::test_a_release_that_is_as_good_reaches_production_without_a_person",
        "lineage/test_impact.py",
    )
