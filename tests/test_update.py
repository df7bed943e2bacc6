"""A project takes a newer template, and keeps what its team did."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from baking import PROJECT, TEMPLATE, files_of

IDENTITY = {f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER") for what, value in
            (("NAME", "Tests"), ("EMAIL", "tests@example.com"))}  # fmt: skip
IN_TEMPLATE = PROJECT.name


def git(folder, *arguments):
    done = subprocess.run(
        ["git", *arguments],
        cwd=folder,
        env=os.environ | IDENTITY,
        check=True,
        capture_output=True,
        encoding="utf-8",
    )
    return done.stdout.strip()


def commit(folder, message="Something"):
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "-m", message)
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def template(tmp_path):
    """A repository of its own with the template as it is in the work tree; release v1.0.0."""
    folder = tmp_path / "template"
    listed = git(TEMPLATE, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in listed.split("\0"):
        if name and (TEMPLATE / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(TEMPLATE / name, folder / name)
    git(tmp_path, "init", "--quiet", "--initial-branch", "main", str(folder))
    commit(folder)
    git(folder, "tag", "v1.0.0")
    return folder


def bake(template, parent, *answers, start=None):
    parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "cookiecutter", str(template), "--no-input", "-o", str(parent)]
    environment = os.environ | IDENTITY | {"HOME": str(parent.parent)}
    cwd = start or parent.parent
    subprocess.run([*command, *answers], check=True, capture_output=True, env=environment, cwd=cwd)
    [project] = [path for path in parent.iterdir() if path.name != ".git"]
    return project


@pytest.fixture
def project(template, tmp_path):
    return bake(template, tmp_path / "out")


def tool(project, *arguments, stdin=subprocess.DEVNULL):
    """The project's own tool, with the Python that the tests have cookiecutter in."""
    return subprocess.run(
        [sys.executable, "tools/template.py", *arguments],
        cwd=project,
        env=os.environ | IDENTITY,
        stdin=stdin,
        capture_output=True,
        encoding="utf-8",
    )


def edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def kept(project):
    return json.loads((project / ".template.json").read_text(encoding="utf-8"))


def customise(project):
    """What a team does: edit, delete, rename and edit, add."""
    edit(project / "params.yaml", "seed: 20130101", "seed: 7")
    (project / "docs/ci.md").unlink()
    git(project, "mv", "docs/data.md", "docs/our_data.md")
    edit(project / "docs/our_data.md", "# ", "# Ours: ")
    (project / "src/flight_delays/ours.py").write_text("OURS = 1\n", encoding="utf-8")
    commit(project, "Ours")


def improve(template):
    """What the template does: edits, a deletion, a new name, a new file, a new question."""
    folder = template / IN_TEMPLATE
    edit(folder / "params.yaml", "num_leaves: 63", "num_leaves: 31")
    with (folder / ".examples/flights/docs/data.md").open("a", encoding="utf-8") as file:
        file.write("\nMore of the template.\n")
    (folder / ".examples/flights/docs/intended_use.md").unlink()
    git(template, "mv", f"{IN_TEMPLATE}/docs/own-data.md", f"{IN_TEMPLATE}/docs/your-data.md")
    (folder / "docs/new.md").write_text("Colour: << cookiecutter.colour >>\n", encoding="utf-8")
    edit(
        template / "cookiecutter.json",
        '"author_name":',
        '"colour": ["red", "blue"],\n  "author_name":',
    )
    edit(template / "CHANGELOG.md", "## [Unreleased]", "## [Unreleased]\n\n- Colours.")
    commit(template, "Improve")
    git(template, "tag", "v1.1.0")


def test_what_the_team_did_and_what_the_template_did_both_hold(template, project):
    customise(project)
    improve(template)
    due = tool(project, "check")
    assert due.returncode == 1
    assert "v1.1.0" in due.stdout
    assert "v1.0.0" in due.stdout
    done = tool(project, "update")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "- Colours." in done.stdout
    params = (project / "params.yaml").read_text()
    assert "seed: 7" in params
    assert "num_leaves: 31" in params
    ours = (project / "docs/our_data.md").read_text()
    assert ours.startswith("# Ours: ")
    assert ours.endswith("More of the template.\n")
    assert (project / "docs/new.md").read_text() == "Colour: red\n"
    assert (project / "docs/your-data.md").exists()
    assert (project / "src/flight_delays/ours.py").exists()
    for gone in ("data", "ci", "own-data", "intended_use"):
        assert not (project / f"docs/{gone}.md").exists(), gone
    assert kept(project)["answers"]["colour"] == "red"
    assert kept(project)["commit"] == git(template, "rev-parse", "HEAD")
    assert git(project, "status", "--porcelain") == ""
    assert git(project, "rev-list", "--count", "HEAD") == "3"


def test_updating_again_changes_nothing(template, project):
    improve(template)
    assert tool(project, "update").returncode == 0
    before = git(project, "rev-parse", "HEAD")
    again = tool(project, "update")
    assert (again.returncode, git(project, "rev-parse", "HEAD")) == (0, before), again.stderr
    assert "nothing to update" in again.stdout
    assert tool(project, "check").returncode == 0


def test_both_changing_a_line_is_an_ordinary_conflict(template, project):
    edit(project / "params.yaml", "num_leaves: 63", "num_leaves: 15")
    before = commit(project)
    improve(template)
    done = tool(project, "update")
    assert done.returncode == 1
    assert "  params.yaml\n" in done.stdout
    assert "<" * 7 in (project / "params.yaml").read_text()
    git(project, "cherry-pick", "--abort")
    assert git(project, "rev-parse", "HEAD") == before
    assert git(project, "status", "--porcelain") == ""
    assert tool(project, "update").returncode == 1
    git(project, "checkout", "--ours", "params.yaml")
    git(project, "add", "params.yaml")
    git(project, "-c", "core.editor=true", "cherry-pick", "--continue")
    assert tool(project, "check").returncode == 0


def test_uncommitted_changes_are_refused(template, project):
    improve(template)
    edit(project / "params.yaml", "seed: 20130101", "seed: 7")
    done = tool(project, "update")
    assert done.returncode == 2
    assert "uncommitted" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (project / "docs/new.md").exists()


def test_an_untracked_file_is_not_overwritten(template, project):
    improve(template)
    (project / "docs/new.md").write_text("mine\n")
    before = git(project, "rev-parse", "HEAD")
    done = tool(project, "update")
    assert done.returncode == 2
    assert "docs/new.md" in done.stderr
    assert (project / "docs/new.md").read_text() == "mine\n"
    assert git(project, "rev-parse", "HEAD") == before
    assert git(project, "status", "--porcelain") == "?? docs/new.md"


def test_a_project_in_a_larger_repository_is_updated_alone(template, tmp_path):
    git(tmp_path, "init", "--quiet", "--initial-branch", "main", "mono")
    (tmp_path / "mono/docs").mkdir()
    (tmp_path / "mono/docs/new.md").write_text("the monorepo's\n")
    project = bake(template, tmp_path / "mono/teams/ours")
    commit(tmp_path / "mono")
    improve(template)
    done = tool(project, "update")
    assert done.returncode == 0, done.stderr
    changed = git(tmp_path / "mono", "diff", "--name-only", "HEAD~1").splitlines()
    assert "teams/ours/flight-delays/docs/new.md" in changed
    assert all(path.startswith("teams/ours/flight-delays/") for path in changed), changed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--to", "v9"], "has no v9"),
        (["--template", "{here}/nowhere"], "nowhere: `make template-update TEMPLATE=...`"),
        (["--template", "{here}/other"], "has no commit"),
    ],
)
def test_what_cannot_be_is_one_sentence(template, project, tmp_path, arguments, said):
    git(tmp_path, "init", "--quiet", "other")
    (tmp_path / "other/file").touch()
    commit(tmp_path / "other")
    arguments = [argument.format(here=tmp_path) for argument in arguments]
    for what in ("update", "check"):
        done = tool(project, what, *arguments)
        assert done.returncode == 2
        assert said in done.stderr
        assert "Traceback" not in done.stderr


def test_an_answer_that_is_no_longer_offered_is_named(template, project):
    edit(template / "cookiecutter.json", '"MIT", ', "")
    edit(template / "cookiecutter.json", '      "MIT": "MIT (short, permissive)",\n', "")
    commit(template)
    git(template, "tag", "v2.0.0")
    done = tool(project, "update")
    assert done.returncode == 2
    assert "license" in done.stderr
    assert "Apache-2.0" in done.stderr


def test_without_releases_the_newest_commit_counts(template, tmp_path):
    git(template, "tag", "--delete", "v1.0.0")
    project = bake(template, tmp_path / "out")
    assert tool(project, "check").returncode == 0
    improve(template)
    git(template, "tag", "--delete", "v1.1.0")
    assert tool(project, "check").returncode == 1
    assert tool(project, "update").returncode == 0
    assert (project / "docs/new.md").exists()


def test_what_is_newer_than_the_newest_release_is_not_taken_back(template, tmp_path):
    improve(template)
    git(template, "tag", "--delete", "v1.1.0")
    project = bake(template, tmp_path / "out")
    assert tool(project, "update").returncode == 0
    assert kept(project)["commit"] == git(template, "rev-parse", "HEAD")


def test_the_team_finds_the_template_where_it_was_cloned_from(template, tmp_path):
    """A folder on one laptop is of no use to the others; a password is for nobody."""
    git(tmp_path, "clone", "--quiet", str(template), "mine")
    project = bake(tmp_path / "mine", tmp_path / "a")
    assert kept(project)["template"] == str(template)
    git(tmp_path / "mine", "remote", "set-url", "origin", "https://me:secret@example.org/t.git")
    assert kept(bake(tmp_path / "mine", tmp_path / "b"))["template"] == "https://example.org/t.git"
    (tmp_path / "mine/local").touch()
    commit(tmp_path / "mine")
    assert kept(bake(tmp_path / "mine", tmp_path / "c"))["template"] == str(tmp_path / "mine")


@pytest.mark.parametrize("named", [".", "../template", "template", "git+file://{here}/template"])
def test_a_template_is_found_again_whatever_it_was_called(template, tmp_path, named):
    """Also after the project has moved, and started from a folder that is no more."""
    start = {".": template, "template": tmp_path}.get(named, tmp_path / "elsewhere")
    start.mkdir(exist_ok=True)
    named = named.format(here=tmp_path)
    out = tmp_path / "out"
    bake(named, out, start=start)
    project = (out / "flight-delays").rename(tmp_path / "moved")
    found = {"template": str(template), "commit": git(template, "rev-parse", "HEAD")}
    if "://" in named:
        found["template"] = named.removeprefix("git+")
    assert {key: kept(project)[key] for key in found} == found
    improve(template)
    done = tool(project, "update")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (project / "docs/new.md").exists()


def test_a_project_made_from_a_zip_file_is_updated_from_a_clone(template, tmp_path):
    git(template, "archive", "--prefix", "template/", "--output", str(tmp_path / "t.zip"), "HEAD")
    project = bake("t.zip", tmp_path / "out", start=tmp_path)
    assert kept(project)["template"] == str(tmp_path / "t.zip")
    assert kept(project)["commit"] == git(template, "rev-parse", "HEAD")
    improve(template)
    refused = tool(project, "update")
    assert refused.returncode == 2
    assert "cannot be cloned" in refused.stderr
    assert "TEMPLATE=" in refused.stderr
    done = tool(project, "update", "--template", str(template))
    assert done.returncode == 0, done.stdout + done.stderr
    assert kept(project)["template"] == str(template)
    assert (project / "docs/new.md").exists()


def test_a_project_made_from_a_plain_folder_says_how_to_update_it(template, tmp_path):
    shutil.copytree(template, tmp_path / "plain", ignore=shutil.ignore_patterns(".git"))
    project = bake(tmp_path / "plain", tmp_path / "out")
    done = tool(project, "update", "--template", str(template))
    assert done.returncode == 2
    assert "Write the full id of the commit" in done.stderr
    edit(project / ".template.json", "null", f'"{git(template, "rev-parse", "HEAD")}"')
    commit(project)
    improve(template)
    done = tool(project, "update", "--template", str(template))
    assert done.returncode == 0, done.stdout + done.stderr


def test_hostile_answers_come_through_an_update(template, tmp_path):
    project = bake(template, tmp_path / "out", 'author_name=O\'Neil "x" \\ = $(touch pwned) é 🛫')
    improve(template)
    done = tool(project, "update")
    assert done.returncode == 0, done.stderr
    assert git(project, "diff", "--stat", "HEAD~1", "--", "pyproject.toml", "LICENSE") == ""
    assert kept(project)["answers"]["author_name"].startswith('O\'Neil "x"')


def test_the_last_release_updates_to_what_is_here(template, tmp_path):
    """To the files of a fresh bake. Before the first release: from where updates began."""
    tags = git(TEMPLATE, "tag", "--list", "v[0-9]*", "--merged", "HEAD", "--sort=version:refname")
    tool_file = f"{IN_TEMPLATE}/tools/template.py"
    began = git(TEMPLATE, "log", "--diff-filter=A", "--format=%H", "--", tool_file).split()
    old = [*began[-1:], *tags.split()][-1]
    history = tmp_path / "history"
    git(tmp_path, "clone", "--quiet", str(TEMPLATE), str(history))
    git(history, "checkout", "--quiet", "-B", "main", old)
    project = bake(history, tmp_path / "old")
    # Before the template had code of its own, this was done by hand, as the changelog says.
    if not (history / "needs_cookiecutter_2_6_or_newer.py").exists():
        shutil.copy2(template / tool_file, project / "tools/template.py")
        commit(project)
    shutil.copytree(template, tmp_path / "now", ignore=lambda *_: [".git"])
    git(history, "rm", "-r", "--quiet", ".")
    shutil.copytree(tmp_path / "now", history, dirs_exist_ok=True)
    git(history, "add", "--all")
    git(history, "commit", "--quiet", "--allow-empty", "-m", "What is here")
    here = git(history, "rev-parse", "HEAD")
    done = tool(project, "update", "--to", here, "--template", str(history))
    assert done.returncode == 0, done.stdout + done.stderr
    fresh = bake(history, tmp_path / "fresh")
    assert files_of(project) == files_of(fresh)
    for name in files_of(fresh):
        if name != ".template.json":
            assert (project / name).read_bytes() == (fresh / name).read_bytes(), name
    assert kept(project)["commit"] == here
