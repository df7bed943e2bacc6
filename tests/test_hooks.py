"""What the hooks do with git, and say, in the surroundings users really have."""

import ast
import json
import os
import shutil
import subprocess
import sys

import pytest

from baking import HOSTILE, TEMPLATE, files_of, run_cookiecutter

ANSWERS = ("author_name=Jane O'Neil", "author_email=jane@example.com")


def git(folder, *arguments):
    """Run git as the tests' user, who has an identity and no other settings."""
    identity = ("-c", "user.name=Tests", "-c", "user.email=tests@example.com")
    command = ["git", *identity, *arguments]
    return subprocess.run(
        command, cwd=folder, check=True, capture_output=True, encoding="utf-8"
    ).stdout.strip()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder to bake in, which also is the home of a user with no git settings at all."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def bake(home, *arguments, **environment):
    """Bake with the command; return the project and what was printed."""
    done = run_cookiecutter(home, *ANSWERS, *arguments, **environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return home / "out/flight-delays", done.stdout


def check_first_commit(project, author="Jane O'Neil <jane@example.com>"):
    """The project is a clean repository with everything in one commit on main."""
    assert git(project, "rev-parse", "--show-toplevel") == str(project.resolve())
    assert (
        git(project, "log", "--format=%an <%ae>|%cn <%ce>|%D") == f"{author}|{author}|HEAD -> main"
    )
    assert git(project, "status", "--porcelain", "--ignored") == ""
    assert git(project, "ls-files", "LICENSE") == "LICENSE"


def test_commits_everything_without_any_git_settings(home):
    project, printed = bake(home)
    check_first_commit(project)
    assert "one commit on main" in printed


def test_the_two_commands_it_prints_are_right(home):
    project, printed = bake(home)
    change_folder, run = [line.strip() for line in printed.splitlines() if line.startswith("    ")]
    assert run == "make run"
    shell = f"{change_folder} && pwd -P && make --dry-run run > make.log && rm make.log"
    done = subprocess.run(shell, shell=True, cwd=home, capture_output=True, encoding="utf-8")
    assert done.stdout.strip() == str(project.resolve()), done.stderr
    assert change_folder == "cd out/flight-delays"


def test_nothing_in_hostile_answers_runs_or_reaches_a_file_that_is_a_template(home):
    """dbt, DVC, Prefect, CI and Jinja would evaluate it in theirs, and make in Makefile."""
    answers = [f"{key}={answer}" for key, answer in HOSTILE.items()]
    done = run_cookiecutter(home, *answers)
    assert done.returncode == 0, done.stderr
    project = home / "out" / HOSTILE["project_slug"]
    subprocess.run(["make", "help"], cwd=project, check=True, capture_output=True)
    subprocess.run(["make", "--dry-run", "run"], cwd=project, check=True, capture_output=True)
    assert git(project, "status", "--porcelain", "--ignored") == ""
    assert list(home.rglob("*pwned*")) == []
    for name in files_of(project):
        told = ("LICENSE", "README.md", "pyproject.toml", ".template.json")
        if name not in told and not name.endswith(".py"):
            assert "touch pwned" not in (project / name).read_text(), name


def test_an_identity_of_the_users_own_is_used(home):
    (home / ".gitconfig").write_text("[user]\nname = Max\nemail = max@example.com\n")
    project, _ = bake(home)
    check_first_commit(project, "Max <max@example.com>")


def test_an_identity_from_the_environment_is_used(home):
    environment = {
        f"GIT_{role}_{part}": value
        for role in ("AUTHOR", "COMMITTER")
        for part, value in {"NAME": "Max", "EMAIL": "max@example.com"}.items()
    }
    project, _ = bake(home, **environment)
    check_first_commit(project, "Max <max@example.com>")


def test_settings_for_later_commits_do_not_get_in_the_way(home):
    """Signing without a key, hooks that refuse, a hook template, odd branch and excludes."""
    for folder in ("hooks", "template/hooks"):
        (home / folder).mkdir(parents=True)
        (home / folder / "pre-commit").write_text("#!/bin/sh\nexit 1\n")
        (home / folder / "pre-commit").chmod(0o755)
    (home / "excludes").write_text("LICENSE\n*.toml\n")
    (home / ".gitconfig").write_text(
        "[commit]\ngpgSign = true\n[gpg]\nprogram = false\n"
        "[init]\ndefaultBranch = trunk\n"
        f"templateDir = {home}/template\n"
        f"[core]\nhooksPath = {home}/hooks\nexcludesFile = {home}/excludes\n"
    )
    project, _ = bake(home, GIT_TEMPLATE_DIR=str(home / "template"))
    check_first_commit(project)
    assert not (project / ".git/hooks").exists()


def test_a_callers_repository_is_not_touched(home):
    """As when cookiecutter runs in a git hook, where git says which repository is meant."""
    (home / "theirs").mkdir()
    git(home / "theirs", "init", "--quiet")
    git(home / "theirs", "commit", "--quiet", "--allow-empty", "-m", "theirs")
    theirs = home / "theirs/.git"
    before = sorted((path, path.stat().st_mtime_ns) for path in theirs.rglob("*"))
    project, _ = bake(
        home,
        GIT_DIR=str(theirs),
        GIT_WORK_TREE=str(theirs.parent),
        GIT_INDEX_FILE=str(theirs / "index"),
        GIT_OBJECT_DIRECTORY=str(theirs / "objects"),
    )
    check_first_commit(project)
    assert sorted((path, path.stat().st_mtime_ns) for path in theirs.rglob("*")) == before


def test_inside_another_work_tree_it_makes_no_repository_and_says_what_to_do(home):
    git(home, "init", "--quiet")
    project, printed = bake(home)
    assert not (project / ".git").exists()
    assert f"inside the git repository {home.resolve()}" in printed
    assert "commit it there" in printed
    assert git(home, "diff", "--cached", "--name-only") == ""


@pytest.mark.parametrize("ignored", ["out/", "out/*", "flight-delays"])
def test_where_the_other_work_tree_ignores_it_it_makes_its_own(home, ignored):
    git(home, "init", "--quiet")
    (home / ".gitignore").write_text(ignored)
    project, _ = bake(home)
    check_first_commit(project)


def test_without_git_it_says_what_to_do(home):
    (home / "empty").mkdir()
    project, printed = bake(home, PATH=str(home / "empty"))
    assert not (project / ".git").exists()
    assert "git was not found" in printed
    by_hand = printed.split("run in the project: ")[1].splitlines()[0]
    (home / ".gitconfig").write_text("[user]\nname = Max\nemail = max@example.com\n")
    subprocess.run(by_hand, shell=True, cwd=project, check=True, capture_output=True)
    assert git(project, "status", "--porcelain") == ""


def test_a_git_that_fails_does_not_fail_the_bake(home):
    (home / "bin").mkdir()
    (home / "bin/git").write_text("#!/bin/sh\necho 'fatal: disk on fire' >&2\nexit 128\n")
    (home / "bin/git").chmod(0o755)
    project, printed = bake(home, PATH=f"{home}/bin:{os.environ['PATH']}")
    assert (project / "LICENSE").exists()
    assert "git failed (fatal: disk on fire)" in printed


def test_an_old_git_without_initial_branch(home):
    (home / "bin").mkdir()
    (home / "bin/git").write_text(
        '#!/bin/sh\ncase "$*" in *" -b "*|*--initial-branch*) exit 129;; esac\n'
        f'exec "{shutil.which("git")}" -c init.defaultBranch=master "$@"\n'
    )
    (home / "bin/git").chmod(0o755)
    project, _ = bake(home, PATH=f"{home}/bin:{os.environ['PATH']}")
    check_first_commit(project)


def test_baking_again_leaves_the_repository_alone(home):
    project, _ = bake(home)
    (project / "LICENSE").write_text("mine\n")
    git(project, "commit", "--quiet", "--all", "-m", "mine")
    _, printed = bake(home, "--overwrite-if-exists")
    assert "left as it is" in printed
    assert git(project, "log", "--format=%s") == "mine\nBake the project"
    assert git(project, "status", "--porcelain").split() == ["M", "LICENSE"]


def test_a_refusal_is_short_and_leaves_nothing(home):
    done = run_cookiecutter(home, "project_slug=../../etc/x")
    assert done.returncode == 1
    [refusal] = done.stdout.splitlines()
    assert done.stderr == ""
    assert refusal.startswith("Refused: project_slug must be 1 to 30 lower-case ASCII letters")
    assert refusal.endswith('"../../etc/x" is not.')
    assert not (home / "out").exists()


def test_a_refusal_leaves_an_existing_project_alone(home):
    project, _ = bake(home)
    before = git(project, "rev-parse", "HEAD")
    done = run_cookiecutter(home, "--overwrite-if-exists", "project_slug=flight_delays")
    assert done.returncode == 1
    assert git(project, "rev-parse", "HEAD") == before
    assert git(project, "status", "--porcelain") == ""


def test_an_older_cookiecutter_gets_a_clear_message():
    """2.0 to 2.5 look for a folder in curly braces and run the hook without rendering it.

    1.7 stops at the name of that folder, which says what is needed.
    """
    [decoy] = TEMPLATE.glob("{{*cookiecutter*}}")
    assert decoy.name == "{{cookiecutter.needs_cookiecutter_2_6_or_newer}}"
    hook = [sys.executable, str(TEMPLATE / "hooks/pre_gen_project.py")]
    done = subprocess.run(hook, capture_output=True, encoding="utf-8")
    assert done.returncode == 1
    assert done.stderr == "This template needs cookiecutter 2.6 or newer.\n"


@pytest.mark.parametrize(
    "path", ["needs_cookiecutter_2_6_or_newer.py", "hooks/post_gen_project.py"]
)
def test_what_bakes_parses_on_python_3_10(path):
    ast.parse((TEMPLATE / path).read_text(), feature_version=(3, 10))


@pytest.mark.parametrize("key", ["project_slug", "project_name", "description", "author_email"])
def test_an_edited_replay_file_is_refused(home, key):
    replay = json.loads((TEMPLATE / "tests/replay/ordinary.json").read_text())
    replay["cookiecutter"][key] = "edited@example.com" if key == "author_email" else "edited"
    (home / "edited.json").write_text(json.dumps(replay))
    done = run_cookiecutter(home, "--replay-file", "edited.json", typed="")
    assert done.returncode == 1
    refusal = done.stdout.splitlines()[-1]
    assert refusal.startswith(f"Refused: {key} differs from what this replay file derived")
    assert list((home / "out").iterdir()) == []
