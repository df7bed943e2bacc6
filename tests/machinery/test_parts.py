"""A project that does without some parts: their commands and flows say so, their rooms may go, and the rest works."""

import json
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

import lifecycle
from lifecycle import project
from lifecycle.commands import everything as all_commands
from lifecycle.files import write_json
from lifecycle.monitoring.measure import freshness
from lifecycle.monitoring.window import connect
from lifecycle.params import load_params
from lifecycle.parts import PARTS
from lifecycle.predictions import ids
from lifecycle.predictions.log import COLUMNS, FOLDER
from lifecycle.releases import online
from lifecycle.testing import Releases, cli, cli_json, commit_all, edit_params, environment

OF_COMMAND = {each.name: each.part for each in all_commands() if each.part}
ROOMS = Path("vendor/lifecycle/lifecycle")
SOURCE = Path(lifecycle.__file__).parent
# Packages that a part alone needs, and its files outside of its room. docs/how-do-i.md names these packages.
OWN = {
    "serving": ({"orjson", "prometheus_client"}, set[str]()),
}
SWITCH = "to switch it on, take {} out of `without` under [tool.lifecycle] in pyproject.toml"
# Imports what prefect.yaml deploys, and runs what stands after the --.
RUN_FLOWS = """
import sys
from importlib import import_module
from lifecycle.flows import server

server.ensure_api()
names = sys.argv[1:]
flows = [getattr(import_module(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in names]
for flow in flows:
    if flow.name in ("monitor", "refresh", "rollout", "score"):
        state = flow(return_state=True)
        print(flow.name, state.type.value, state.name, state.message, sep="|")
"""


def switch_off(folder: Path, *names: str) -> None:
    """In the one place there is for it."""
    file = folder / "pyproject.toml"
    text = file.read_text(encoding="utf-8").replace("[tool.lifecycle]", f"[tool.lifecycle]\nwithout = {[*names]}")
    file.write_text(text, encoding="utf-8")
    project._read.cache_clear()


def delete(folder: Path, *names: str) -> None:
    for name in names:
        if PARTS[name].room:
            shutil.rmtree(folder / ROOMS / PARTS[name].room)


def own_code(folder: Path) -> dict[str, str]:
    """The environment in which a copy's processes run the machinery of the copy."""
    return {"PYTHONPATH": project.python_path(folder)}


def sentence(name: str, named: str) -> str:
    what = f"the part {name}" + (f" needs {named}, which" if named != name else "")
    return f"{what} is switched off: {SWITCH.format(named)}"


def log_one(release: str) -> str:
    """A line of the log, as a server writes it; returns its id."""
    made = {"prediction_id": ids.new(), "at": datetime.now(UTC).isoformat(), "release": release, "shadow": False}
    served = {"channel": "production", "generation": 1, "score": 0.5, "latency_ms": 1.0, "request": "0", "features": {}}
    file = FOLDER / ids.day(made["prediction_id"]) / "server.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(dict.fromkeys(COLUMNS) | made | served) + "\n", encoding="utf-8")
    return made["prediction_id"]


@pytest.mark.parametrize("name", PARTS)
def test_without_a_part(name: str, releases: Releases) -> None:
    folder, code = releases.folder, own_code(releases.folder)
    off = {each for each, part in PARTS.items() if name in (each, *part.needs)}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return cli(*arguments, folder=folder, **code)

    def listed() -> set[str]:
        text = cli("--help", folder=folder / "transform", **code).stdout
        return set(re.findall(r"(?m)^  ([a-z]+)  ", text.partition("Commands:")[2]))

    everything = listed()
    assert everything >= OF_COMMAND.keys()
    switch_off(folder, name)
    assert everything - listed() == {each for each, part in OF_COMMAND.items() if part in off}
    delete(folder, name)
    for command in (each for each, part in OF_COMMAND.items() if part in off):
        done = run(command, *([releases.second] if command == "rollout" else []))
        said = sentence(OF_COMMAND[command], name)
        assert (done.returncode, done.stdout, done.stderr) == (1, "", f"error: {said}\n")
        if command in ("drill", "monitor"):  # what CI runs on a schedule
            done = run(command, "--if-on")
            assert (done.returncode, done.stdout, done.stderr) == (0, "", f"note: {said}\n")
    for arguments in (["check"], ["trace", "production"], ["impact", "train.seed"], ["verify"]):
        done = run(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
    status = run("status")
    assert status.returncode == 0, status.stderr
    assert ("\nmonitor  " in status.stdout) == (name != "monitoring")


def test_without_any_part_the_rest_does_its_work(releases: Releases) -> None:
    folder, code = releases.folder, own_code(releases.folder)
    answered = log_one(releases.first)
    switch_off(folder, *PARTS)
    delete(folder, *PARTS)
    edit_params(folder, {"train": {"num_leaves": 5}})
    commit_all(folder, "Without")

    def run(*arguments: str) -> Any:
        return cli_json(*arguments, folder=folder, **code)

    assert run("run")["version"]
    third = run("release")["release"]
    run("promote", third, "--to", "staging")
    run("approve", third)
    run("promote", third, "--to", "production")
    assert run("rollback", "production", "--reason", "smaller")["release"] == releases.first
    run("verify", "--all")
    run("status")
    run("check")
    run("trace", "production")
    # What was answered before stays known.
    assert releases.first in str(run("trace", answered))
    assert "1 predictions" in run("impact", "train.seed")["text"]
    flows = [each["entrypoint"] for each in yaml.safe_load(Path("prefect.yaml").read_text())["deployments"]]
    command = [sys.executable, "-c", RUN_FLOWS, *flows]
    done = subprocess.run(command, env=environment(folder, **code), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = {name: sentence(OF_COMMAND[name], OF_COMMAND[name]) for name in ("monitor", "refresh", "rollout", "score")}
    lines = {line.partition("|")[0]: line for line in done.stdout.splitlines()}
    assert lines == {name: f"{name}|COMPLETED|Skipped|{why}" for name, why in said.items()}
    run("restore", releases.second)
    assert (folder / ROOMS / "serving").exists()  # as that release had it


def test_without_serving_nothing_waits_for_requests(releases: Releases) -> None:
    """No canary, and no complaint of an online table that is left from before."""
    moment = datetime(2026, 1, 1)
    write_json(online.POINTER, [{"newest": "2025-01-01T00:00:00"}])
    sources = {"online": load_params().monitoring.freshness["online"]}
    assert freshness(connect(), sources, moment, moment)[0].figures
    switch_off(releases.folder, "serving")
    assert freshness(connect(), sources, moment, moment)[0].figures == []
    done = cli_json("rollout", releases.second)
    assert [step["channel"] for step in done["steps"]] == ["production"]


def test_check_names_what_is_no_part_and_what_has_lost_its_folder(built: Path) -> None:
    switch_off(built, "server", "monitoring")
    delete(built, "serving", "monitoring")
    done = cli("check", **own_code(built))
    assert done.returncode == 1
    _, *problems = done.stdout.splitlines()
    assert problems == [
        "- without under [tool.lifecycle] in pyproject.toml names server: the parts are serving, scoring, monitoring, "
        "drills",
        f"- the part serving has lost its folder {ROOMS}/serving: bring that back, or put serving into `without` under "
        "[tool.lifecycle] in pyproject.toml",
    ]
    assert cli("serve", **own_code(built)).stderr == f"error: {problems[1].removeprefix('- ')}\n"
    file = built / "pyproject.toml"
    file.write_text(file.read_text(encoding="utf-8").replace("without = [", "without = 3 # ["), encoding="utf-8")
    done = cli("serve")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "must be a list of names" in done.stderr


@pytest.mark.parametrize("name", OWN)
def test_what_a_part_alone_needs_is_imported_nowhere_else(name: str) -> None:
    packages, files = OWN[name]
    importers = {
        str(file.relative_to(SOURCE))
        for file in SOURCE.rglob("*.py")
        if packages & set(re.findall(r"(?m)^\s*(?:from|import) (\w+)", file.read_text(encoding="utf-8")))
    }
    room = PARTS[name].room
    assert importers
    assert {file for file in importers - files if not (room and file.startswith(f"{room}/"))} == set()
