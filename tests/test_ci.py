"""The project's CI files hold against their own linters, and the others leave nothing behind."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from baking import bake, files_of

TOOLS = Path(sys.executable).parent
SCHEMAS = {
    ".github/workflows/*.yml": ["vendor.github-workflows"],
    ".github/dependabot.yml": ["vendor.dependabot"],
    ".gitlab-ci.yml": ["vendor.gitlab-ci", "--data-transform", "gitlab-ci"],
}


def check(folder, tool, *arguments):
    done = subprocess.run(
        [TOOLS / tool, *arguments], cwd=folder, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(params=["github", "gitlab", "none"])
def chosen(request, tmp_path):
    return request.param, bake(tmp_path / "out", {"ci": request.param})


def test_the_others_leave_nothing_behind(chosen):
    answer, project = chosen
    files = files_of(project)
    for other in {"github", "gitlab"} - {answer}:
        assert not (project / f".{other}").exists()
        assert not [name for name in files if name.startswith(f".{other}")]
        for name in files:
            if name.endswith((".md", ".yml", ".yaml", ".toml", "Makefile")):
                assert other not in (project / name).read_text().lower(), name
    assert any(name.startswith(f".{answer}") for name in files) == (answer != "none")


def test_its_files_are_what_their_schemas_ask_for(chosen):
    _, project = chosen
    for pattern, schema in SCHEMAS.items():
        for file in project.glob(pattern):
            check(project, "check-jsonschema", "--builtin-schema", *schema, file)


def test_workflows_are_safe(tmp_path):
    """Pinned by hash, least permissions, no input in a script, no token left behind."""
    project = bake(tmp_path / "out", {"ci": "github"})
    check(project, "zizmor", "--offline", "--no-progress", "--quiet", ".github")
    for workflow in (project / ".github/workflows").iterdir():
        for used in re.findall(r"uses: (\S+)", workflow.read_text()):
            assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", used), f"{workflow.name}: {used}"
        assert yaml.safe_load(workflow.read_text())["permissions"] == {"contents": "read"}


def test_every_make_target_and_command_of_ci_exists(chosen):
    _, project = chosen
    targets = set(re.findall(r"(?m)^([a-z-]+):", (project / "Makefile").read_text()))
    commands = project.glob("vendor/lifecycle/lifecycle/commands/*.py")
    source = "\n".join(file.read_text() for file in commands)
    for file in [*project.glob(".github/workflows/*.yml"), *project.glob(".gitlab-ci.yml")]:
        text = file.read_text()
        assert set(re.findall(r"(?:run: |- )make ([a-z-]+)", text)) <= targets
        for command in re.findall(r"\.venv/bin/flight-delays ([a-z]+)", text):
            assert re.search(rf"(?m)^@command\(.*\ndef {command}\(", source), (
                f"{file.name}: {command}"
            )


def test_a_fresh_project_holds_no_secret(tmp_path):
    """And the scan that the project's CI runs finds one that is put there."""
    project = bake(tmp_path / "out")
    excluded = re.search(r"(?m)^HASHES := (.*)$", (project / "Makefile").read_text())[1]
    excluded = excluded.replace("$$", "$")

    def scan():
        listed = subprocess.run(["git", "ls-files"], cwd=project, capture_output=True, text=True)
        command = [TOOLS / "detect-secrets-hook", "--exclude-files", excluded]
        return subprocess.run(
            [*command, *listed.stdout.split()], cwd=project, capture_output=True, encoding="utf-8"
        )

    found = scan()
    assert found.returncode == 0, found.stdout
    with (project / "params.yaml").open("a") as file:
        file.write("aws_secret_access_key: " + "wJalrXUtnFEMI/K7MDENG/bPxRfi" + "CYEXAMPLEKEY\n")
    assert "params.yaml" in scan().stdout


def test_the_dev_container_is_json(tmp_path):
    container = json.loads((bake(tmp_path / "out") / ".devcontainer/devcontainer.json").read_text())
    assert container["name"] == "flight-delays"
    assert container["postCreateCommand"].startswith("make setup")
