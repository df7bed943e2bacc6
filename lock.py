"""Resolve the project's dependencies, with every option, into one requirements.lock.

`make lock` runs it; needs uv. What only some answers need stands there under their condition, and
every answer gets the same version of what it shares with the others. Of the same versions,
requirements-test.lock has every option and the template's own tools, to test the machinery with;
requirements-dev.lock has the tools alone, to bake and to build the docs. requirements-airflow.lock
is of an environment of its own, for the tests that start Airflow.
The names that the lock's packages use are added to taken_names.txt, which no project may have.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import tomllib
import yaml
from cookiecutter.main import cookiecutter

TEMPLATE = Path(__file__).resolve().parent
TAKEN = TEMPLATE / "taken_names.txt"
DEV_LOCK, TEST_LOCK = TEMPLATE / "requirements-dev.lock", TEMPLATE / "requirements-test.lock"
AIRFLOW_LOCK = TEMPLATE / "requirements-airflow.lock"
LOCK = TEMPLATE / ("<" + "<cookiecutter.project_slug>" + ">") / "requirements.lock"
# The answers that need the least, and for each option those that need more.
LEAST = {"example": "blank", "dvc_remote": "local", "fan_out": "threads"}
MORE = [("example", "flights")]
MORE += [("dvc_remote", remote) for remote in ("s3", "gs", "azure", "ssh")]
MORE += [("fan_out", runner) for runner in ("dask", "ray")]
COMPILE = [
    *("uv", "pip", "compile", "--universal", "--python-version", "3.11", "--quiet"),
    *("--no-emit-index-url", "--no-emit-find-links", "--no-header", "--no-annotate"),
]


# Run by a Python that has the packages: modules, distributions, commands, dbt's reserved words.
INSTALLED = """
import importlib.metadata, pathlib, sys
from dbt.contracts.project import BANNED_PROJECT_NAMES
names = {*sys.stdlib_module_names, *BANNED_PROJECT_NAMES}
names.update(importlib.metadata.packages_distributions())
for each in importlib.metadata.distributions():
    names.add(each.name)
    names.update(entry.name for entry in each.entry_points if entry.group == "console_scripts")
print(*names, sep="\\n")
"""


def bake(folder, answers):
    """Bake with some answers; returns the project."""
    config = folder / "config.yml"
    config.write_text(f'replay_dir: "{folder}"\ncookiecutters_dir: "{folder}"\n')
    return cookiecutter(
        str(TEMPLATE),
        no_input=True,
        extra_context=answers,
        output_dir=str(folder / "-".join(answers.values())),
        config_file=str(config),
        accept_hooks=False,
    )


def needs(folder, answers):
    """What pyproject.toml asks for with some answers, tools included."""
    project = Path(bake(folder, answers))
    asked = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    return [*asked["dependencies"], *asked["optional-dependencies"]["dev"]]


def own(group="dev"):
    """What the template itself asks for, in one of its groups."""
    asked = tomllib.loads((TEMPLATE / "pyproject.toml").read_text())["project"]
    return asked["optional-dependencies"][group]


def declared(project):
    """The names that a project gives to its stages, artifacts, tables, dbt nodes and files."""
    pipeline = yaml.safe_load((project / "dvc.yaml").read_text())
    names = {*pipeline["stages"], *pipeline["artifacts"]} - {project.name}
    names |= {path.stem for path in project.iterdir()}
    examples = [*(project / ".examples").iterdir()]
    for example in examples:
        sources = yaml.safe_load((example / "transform/models/sources.yml").read_text())["sources"]
        for source in sources:
            names |= {source["name"], *(table["name"] for table in source["tables"])}
    for start in (project, *examples):
        for folder in ("tests", "transform"):
            names |= {path.stem for path in (start / folder).rglob("*")}
    return names


def taken(folder):
    """The names in use by a lock's packages, with every option, and by a project's own files."""
    run = {"cwd": folder, "check": True, "encoding": "utf-8"}
    subprocess.run(["uv", "venv", "--quiet", "--python", sys.executable, "installed"], **run)
    python = folder / "installed/bin/python"
    lock = ["--require-hashes", "-r", "all.lock"]
    subprocess.run(["uv", "pip", "install", "--quiet", "--python", python, *lock], **run)
    printed = subprocess.run([python, "-c", INSTALLED], stdout=subprocess.PIPE, **run).stdout
    names = {*printed.splitlines(), *declared(Path(bake(folder, {"ci": "none"})))}
    return {re.sub(r"[-.]", "_", name).lower() for name in names}


def add_taken(names):
    """Add names to the list. None is taken off: an older Python or lock may still use it."""
    kept = {name for name in names if re.fullmatch(r"[a-z][a-z0-9_]{,29}", name)}
    TAKEN.write_text("\n".join(sorted({*TAKEN.read_text().split(), *kept})) + "\n")


def resolve(folder, requirements, output, *options):
    """What uv makes of some requirements, on the systems that the lock is for."""
    project = {"name": "all", "version": "0", "dependencies": requirements}
    lines = [f"{key} = {json.dumps(value)}" for key, value in project.items()]
    systems = ["sys_platform == 'linux'", "sys_platform == 'darwin'"]
    text = "\n".join(["[project]", *lines, "[tool.uv]", f"environments = {json.dumps(systems)}"])
    (folder / "pyproject.toml").write_text(text)
    command = [*COMPILE, "--output-file", str(output), *options, "pyproject.toml"]
    subprocess.run(command, cwd=folder, check=True)
    return blocks(output.read_text())


def blocks(text):
    """The packages of a lock, each with its lines; versions may depend on Python."""
    found = {}
    for block in re.split(r"(?m)^(?=[A-Za-z0-9])", text):
        if block.strip():
            name = re.match(r"[\w.-]+", block)[0]
            found[name] = found.get(name, "") + block
    return found


def pins(block):
    """A package's versions as constraints. One version is for every Python there is."""
    lines = [line.removesuffix("\\").strip() for line in block.splitlines() if line[0] != " "]
    return lines if len(lines) > 1 else [lines[0].split(";")[0]]


def main():
    upgrade = ["--upgrade"] if sys.argv[1:] == ["--upgrade"] else []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        least = needs(folder, LEAST)
        asked = {(key, answer): needs(folder, LEAST | {key: answer}) for key, answer in MORE}
        every_option = (each for more in asked.values() for each in more)
        everything = sorted({*least, *own(), *own("servers"), *every_option})
        merged = folder / "all.lock"
        merged.write_text(re.sub(r"<%.*%>\n", "", LOCK.read_text()) + TEST_LOCK.read_text())
        locked = resolve(folder, everything, merged, "--generate-hashes", *upgrade)
        TEST_LOCK.write_text("".join(locked.values()))
        versions = folder / "versions.txt"
        versions.write_text("\n".join(pin for block in locked.values() for pin in pins(block)))
        pinned = ("--constraint", str(versions))
        alone = resolve(folder, own(), folder / "dev.lock", "--generate-hashes", *pinned)
        DEV_LOCK.write_text("".join(alone.values()))
        always = resolve(folder, least, folder / "least.lock", *pinned)
        only = {
            choice: resolve(folder, more, folder / "more.lock", *pinned).keys() - always.keys()
            for choice, more in asked.items()
        }
        add_taken(taken(folder))
        resolve(folder, own("airflow"), AIRFLOW_LOCK, "--generate-hashes", *upgrade)
    written = []
    for package, block in locked.items():
        if package not in always:
            needing = [choice for choice, more in only.items() if package in more]
            if not needing:  # a tool of the template
                continue
            tests = [f"cookiecutter.{key} == '{answer}'" for key, answer in needing]
            block = f"<% if {' or '.join(tests)} -%>\n{block}<% endif -%>\n"
        written.append(block)
    LOCK.write_text("".join(written))


if __name__ == "__main__":
    main()
