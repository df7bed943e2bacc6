"""The guide "Bring your own table", to the letter: each block is done as the line above it says."""

import json
import re
import socket
import sys

import pytest
from markdown_it import MarkdownIt

from baking import BLANK, TEMPLATE, bake
from running import run

pytestmark = pytest.mark.xdist_group("options")

REPLACE = re.compile(r"In `([^`]+)`, replace")
WHOLE = re.compile(r"`([^`]+)` becomes")


def steps(text):
    """The blocks of a guide in order: language, content, and the last line of text before it."""
    said = ""
    for token in MarkdownIt("commonmark").parse(text):
        if token.type == "inline":
            said = token.content.splitlines()[-1]
        elif token.type == "fence":
            yield token.info, token.content, said


@pytest.fixture(scope="module")
def own(ready, tmp_path_factory):
    """A blank start, with the ready project's environment as its own."""
    project = bake(tmp_path_factory.mktemp("own") / "out", BLANK)
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


def follow(project, done):
    """Do every step but the request, which is returned."""
    old, place = None, None
    for language, content, said in steps((project / "docs/own-data.md").read_text()):
        if language == "sh":
            if content.startswith("curl"):
                return content
            done.append(run(project, "sh", "-ec", content))
        elif found := REPLACE.fullmatch(said):
            old, place = content, project / found[1]
            assert place.read_text().count(old.strip("\n")) == 1, f"{found[1]}:\n{old}"
        elif said == "by":
            text = place.read_text()
            place.write_text(text.replace(old.strip("\n"), content.strip("\n")))
        else:
            found = WHOLE.fullmatch(said)
            assert found, f"nothing says what to do with:\n{content}"
            (project / found[1]).parent.mkdir(parents=True, exist_ok=True)
            (project / found[1]).write_text(content)
    raise AssertionError("the guide asks nothing of a server")


def test_a_stranger_brings_a_table_of_another_shape_and_kind(own):
    def machinery():
        files = (file for file in (own / "vendor").rglob("*") if file.suffix != ".pyc")
        return {file: file.read_bytes() for file in files if file.is_file()}

    before, done = machinery(), []
    request = follow(own, done)
    assert machinery() == before
    _, told = done
    assert "things-that-end version 1, alias challenger" in told
    assert "production serves r-" in told
    assert "data/raw/patients/2020-10.parquet" in told
    metrics = json.loads((own / "reports/metrics.json").read_text())
    assert metrics["rmse_skill"] > 0.1

    # The port of the guide may be taken on this machine.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    answer = run(own, "sh", "-ec", f"""
        .venv/bin/things-that-end serve --port {port} > serve.log 2>&1 &
        trap "kill $!" EXIT
        for i in $(seq 100); do grep -q http: serve.log && break; sleep 0.2; done
        {request.replace("8000", str(port))}""")  # fmt: skip
    [predicted] = json.loads(answer)["predictions"]
    # No probability: a measure between 25 and 346.
    assert 25 < predicted["score"] < 346
    assert "features.patients" in run(
        own, ".venv/bin/things-that-end", "trace", predicted["prediction_id"]
    )


def test_what_is_not_about_the_example_holds_for_the_new_table(own):
    if not (own / "reports/metrics.json").exists():
        follow(own, [])
    names = [
        "releases/test_scoring.py",
        "releases/test_tracking.py",
        "lineage/test_impact.py",
        "lineage/test_structure.py",
        "monitoring/test_monitor.py",
        "monitoring/test_rollout.py",
        "serving/test_app.py",
        "serving/test_online.py",
        "serving/test_schema.py",
        "stages/test_ingest.py",
        "test_params.py",
    ]
    own_tests = [
        "stages",
        *(f"test_{name}.py" for name in ("contract", "leaks", "story", "tables")),
    ]
    command = [".venv/bin/python", "-m", "pytest", "-p", "no:cacheprovider"]
    assert "passed" in run(own, *command, *(f"tests/{name}" for name in own_tests))
    tests = [f"tests/machinery/{name}" for name in names]
    command = [sys.executable, *command[1:], "--project", str(own)]
    done = run(TEMPLATE, *command, *tests)
    assert "passed" in done
