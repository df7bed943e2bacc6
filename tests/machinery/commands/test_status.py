"""`status` of a project that needs a person."""

import re
import subprocess
import sys

import psutil

from lifecycle.commands.monitor import monitor
from lifecycle.commands.status import project_status
from lifecycle.testing import CLI, Releases, cli_json, environment

from predictions import failing

WIDE = 80


def test_status_says_first_what_needs_a_person(releases: Releases) -> None:
    before = project_status()
    assert before.waiting() == [] and before.as_text().startswith("data ")
    assert "has not measured this release yet: `" in before.as_text()

    # Staging still serves what production was rolled back from, and production has a breach of its own.
    cli_json("promote", releases.second, "--to", "production")
    cli_json("rollback", "production", "--reason", "misses\nthe\x1b[31m late ones")
    cli_json("hold", "production", "--reason", "holidays")
    failing(releases.first, 0.2)
    monitor("production", [], "")
    found = project_status()
    # Of the features of these few rows others may be in breach too.
    quarantined, *breaches, hold = (each.what for each in found.waiting())
    assert quarantined.startswith(f"staging serves {releases.second}, which is in quarantine: misses")
    assert f"in breach: {releases.first}: errors of predictions (log) is 0.2" in breaches[0]
    assert hold == "production is on hold: holidays"
    typed = [" ".join(each.command.split()[1:3]) for each in found.waiting()]
    assert typed[:2] == ["rollback staging", "rollback production"] and typed[-1] == "hold production"

    text = found.as_text()
    commands = [each.command for each in found.waiting()]
    assert text.startswith("needs a person\n")
    assert all(len(line) <= WIDE for line in text.splitlines() if line.strip() not in commands)
    channels = text[text.rindex("\nstaging") :]
    assert "approved by Tests" in channels and "IN QUARANTINE" in channels and "on hold" in channels
    assert re.search(r"\d open breach(es)? at 20", channels) and "open incident: " in channels
    assert "\x1b" not in text
    data = found.as_dict()
    assert [each["command"] for each in data["waiting"]] == commands
    assert data["approvers"][releases.first] == ["Tests"] and list(data["quarantine"]) == [releases.second]


def test_status_imports_no_server_and_starts_nothing(releases: Releases) -> None:
    failing(releases.first, 0.2)
    monitor("production", [], "")
    running = set(psutil.pids())
    command = [sys.executable, "-X", "importtime", *CLI[1:], "status"]
    done = subprocess.run(command, env=environment(releases.folder), check=True, capture_output=True, text=True)
    left = psutil.process_iter(["pid", "cmdline", "cwd"])
    new = [each.info for each in left if each.info["pid"] not in running]
    assert not [
        each for each in new if sys.executable in (each["cmdline"] or ()) and each["cwd"] == str(releases.folder)
    ]
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    imported = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in lines}
    assert "typer" in imported
    # Each takes seconds of CPU.
    assert not imported & {"dbt", "lightgbm", "mlflow", "prefect"}
