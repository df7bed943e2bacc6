"""Keep what the answers chose, note the template, put the project under git, say what is next.

Installs nothing, needs no network, and is safe to run again: an existing repository
is left alone. A project without git is still a project, so no failure of git stops
the bake. As in the other hook, answers come in one place, as JSON.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

ANSWERS = json.loads(r"""<< cookiecutter | tojson >>""")
TEMPLATE = json.loads(r"""<< template | tojson >>""")

BY_HAND = "git init && git add --all && git commit -m 'Bake the project'"
# Of git's variables only these are about the user; the others name a repository, an
# index or a template folder that belongs to whoever called cookiecutter.
KEPT = ("GIT_AUTHOR_", "GIT_COMMITTER_", "GIT_CONFIG", "GIT_CEILING_", "GIT_EXEC_PATH")
# The files of each example, in the folder of its name, as they lie in a project.
EXAMPLES = Path(".examples")
# What belongs to one answer of a question, and goes with the others.
ONLY_FOR = {
    "ci": {
        "github": {".github", "docs/ci.md"},
        "gitlab": {".gitlab-ci.yml", ".gitlab", "docs/ci.md"},
        "none": set(),
    },
}
# The user's own hooks, excludes and signing key are for later commits.
FIRST_COMMIT = [
    *("-c", f"core.hooksPath={os.devnull}"),
    *("-c", f"core.excludesFile={os.devnull}"),
    *("-c", "commit.gpgSign=false"),
]


class GitFailed(Exception):
    """A git command failed; its text is what git said."""


def git(*arguments):
    """Run git in the project, and return its output."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("GIT_") or k.startswith(KEPT)}
    done = subprocess.run(
        ["git", *arguments],
        env={**kept, "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    if done.returncode != 0:
        raise GitFailed(done.stderr.strip() or f"git {arguments[0]}: exit {done.returncode}")
    return done.stdout.strip()


def succeeds(*arguments):
    """Tell whether a git command succeeds."""
    try:
        git(*arguments)
    except GitFailed:
        return False
    return True


def enclosing_repository():
    """Return the top of the work tree the project would become a part of, if any."""
    try:
        if git("rev-parse", "--is-inside-work-tree") != "true" or succeeds(
            "check-ignore", "-q", "."
        ):
            return None
        return git("rev-parse", "--show-toplevel")
    except GitFailed as failure:
        if "not a git repository" in str(failure):
            return None
        raise


def identity():
    """Return the options that sign the first commit when git knows no user."""
    known = ("-c", "user.useConfigOnly=true", "var")
    if succeeds(*known, "GIT_AUTHOR_IDENT") and succeeds(*known, "GIT_COMMITTER_IDENT"):
        return []
    return [
        *("-c", f"user.name={ANSWERS['author_name']}"),
        *("-c", f"user.email={ANSWERS['author_email']}"),
    ]


def remove_unchosen():
    """Delete the files of the answers that were not given."""
    for question, names in ONLY_FOR.items():
        for name in set().union(*names.values()) - names[ANSWERS[question]]:
            shutil.rmtree(name) if Path(name).is_dir() else Path(name).unlink()


def remove_caches():
    """Delete what Python and its tools leave in the template where its code was run in place."""
    for name in ("__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache"):
        for folder in Path("vendor").rglob(name):
            shutil.rmtree(folder)


def lay_out(example):
    """Move an example's files to where they belong, and drop the other examples."""
    for file in [each for each in (EXAMPLES / example).rglob("*") if each.is_file()]:
        target = file.relative_to(EXAMPLES / example)
        target.parent.mkdir(parents=True, exist_ok=True)
        file.rename(target)
    shutil.rmtree(EXAMPLES)


def absolute(place, base):
    """Return a path that exists as one that holds in any folder; a URL as it is."""
    path = Path(base, place)
    return str(path.resolve()) if path.exists() else place


def template():
    """Return where the whole team finds the template later, and its commit.

    Both as far as git tells: a zip file knows its commit alone, any other folder neither.
    """
    folder = TEMPLATE["folder"]
    url = absolute(ANSWERS["_template"], TEMPLATE["started_in"])
    try:
        if Path(git("-C", folder, "rev-parse", "--show-toplevel")) != Path(folder):
            return url, TEMPLATE["commit"]
        commit = git("-C", folder, "rev-parse", "HEAD")
        if git("-C", folder, "branch", "--remotes", "--contains", commit):
            url = absolute(git("-C", folder, "config", "remote.origin.url"), folder)
    except (GitFailed, OSError):
        return url, TEMPLATE["commit"]
    return re.sub(r"(?<=://)[^/@]*@", "", url), commit


def note_template():
    """Write what `make template-update` needs to know."""
    url, commit = template()
    answers = {key: answer for key, answer in ANSWERS.items() if not key.startswith("_")}
    text = json.dumps(
        {"template": url, "commit": commit, "answers": answers}, indent=2, ensure_ascii=False
    )
    Path(".template.json").write_text(text + "\n", encoding="utf-8")


def start_repository():
    """Make the repository and its first commit; return a sentence on what was done."""
    if Path(".git").exists():
        return "It already is a git repository, which was left as it is."
    if shutil.which("git") is None:
        return f"git was not found: install it, then run in the project: {BY_HAND}"
    try:
        if top := enclosing_repository():
            return (
                f"It lies inside the git repository {top}, so it got none of its own: commit it "
                f"there, or let that repository ignore it and run in the project: {BY_HAND}"
            )
        git("init", "--quiet", "--template=")
        git("symbolic-ref", "HEAD", "refs/heads/main")  # `init -b` is younger than 2.28
        git(*FIRST_COMMIT, "add", "--all")
        git(*FIRST_COMMIT, *identity(), "commit", "--quiet", "-m", "Bake the project")
    except (GitFailed, OSError) as failure:
        return f"git failed ({failure}): put that right, then run in the project: {BY_HAND}"
    return "It is a git repository with one commit on main."


def main():
    remove_unchosen()
    remove_caches()
    lay_out(ANSWERS["example"])
    note_template()
    done = start_repository()
    here, started_in = Path.cwd(), Path(TEMPLATE["started_in"])
    folder = here.relative_to(started_in) if started_in in here.parents else here
    print(f"\n{ANSWERS['project_slug']} is ready. {done}\n")
    print(f"    cd {shlex.quote(str(folder))}\n    make run\n")


if __name__ == "__main__":
    main()
