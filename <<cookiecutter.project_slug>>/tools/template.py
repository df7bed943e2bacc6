"""Take a newer version of the template that this project was made from: `make template-update`, `make template-check`.

The template is rendered twice with this project's answers (.template.json): as it was, and as it is now. The difference
is a commit, and git picks it: what both sides changed is an ordinary conflict.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ANSWERS = Path(".template.json")
# Who asked for this may have set them, for a repository of their own.
INHERITED = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_OBJECT_DIRECTORY")


class RefusedError(Exception):
    """Why nothing was done, and what to do about it."""


def git(*arguments: str, folder: Path | str = ".", **variables: str) -> str:
    """What a git command prints.

    Raises:
        RefusedError: it failed.
    """
    env = {key: value for key, value in os.environ.items() if key not in INHERITED} | variables
    done = subprocess.run(["git", *arguments], cwd=folder, env=env, capture_output=True, encoding="utf-8")
    if done.returncode:
        raise RefusedError(f"git {arguments[0]}: {(done.stderr or done.stdout).strip()}")
    return done.stdout.strip()


def succeeds(*arguments: str, folder: Path | str = ".") -> bool:
    """Whether a git command does."""
    try:
        git(*arguments, folder=folder)
    except RefusedError:
        return False
    return True


def clone(template: str, commit: str | None, folder: Path) -> None:
    """Get the template with its whole history, and see that it has the commit that this project stands at."""
    elsewhere = "`make template-update TEMPLATE=...` takes it from another folder or URL"
    try:
        git("clone", "--quiet", "--no-checkout", template, str(folder))
    except RefusedError as error:
        said = str(error).splitlines()[-1]
        raise RefusedError(f"the template cannot be cloned from {template}: {elsewhere} ({said})") from None
    if not commit:
        raise RefusedError(
            f"{ANSWERS} names no commit: this project was not made from a git repository. Write the full id of the "
            'commit that it was made from there as "commit"'
        )
    if not succeeds("cat-file", "-e", f"{commit}^{{commit}}", folder=folder):
        raise RefusedError(f"{template} has no commit {commit}, which {ANSWERS} names: {elsewhere}")


def newest(commit: str, to: str, template: Path) -> str:
    """The commit to go to: what was asked for, else the newest release, else the newest commit."""
    if to:
        for name in (to, f"origin/{to}"):
            if succeeds("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}", folder=template):
                return git("rev-parse", f"{name}^{{commit}}", folder=template)
        raise RefusedError(f"the template has no {to}: a tag, a branch or a commit of it is wanted")
    releases = git("tag", "--list", "v[0-9]*", "--sort=version:refname", folder=template).splitlines()
    found = git("rev-parse", f"{releases[-1] if releases else 'HEAD'}^{{commit}}", folder=template)
    # Made from something newer than the newest release.
    return commit if succeeds("merge-base", "--is-ancestor", found, commit, folder=template) else found


def name_of(commit: str, template: Path) -> str:
    """A commit as people call it: v1.2.0, or v1.2.0-4-g1a2b3c4."""
    return git("describe", "--tags", "--always", "--match", "v[0-9]*", commit, folder=template)


def complete(answers: dict[str, Any], template: Path) -> dict[str, Any]:
    """The answers to the template's questions; new ones are asked, or take their default without a terminal."""
    from cookiecutter.generate import generate_context
    from cookiecutter.prompt import read_user_choice, read_user_variable, render_variable
    from cookiecutter.utils import create_env_with_context

    context = generate_context(str(template / "cookiecutter.json"))["cookiecutter"]
    context.pop("_extensions", None)  # the template's own code, which cookiecutter itself loads to render it
    questions = {key: default for key, default in context.items() if not key.startswith("_")}
    env = create_env_with_context({"cookiecutter": context})
    given: dict[str, Any] = {}
    for key, default in questions.items():
        offered = render_variable(env, default, given)
        if key in answers:
            given[key] = answers[key]
            if isinstance(offered, list) and given[key] not in offered:
                raise RefusedError(f"{key} in {ANSWERS} is no longer {given[key]}: it is one of {', '.join(offered)}")
        elif sys.stdin.isatty():
            ask = read_user_choice if isinstance(offered, list) else read_user_variable
            given[key] = ask(key, offered, context.get("__prompts__", {}))
        else:
            given[key] = offered[0] if isinstance(offered, list) else offered
    return given


def render(template: Path, commit: str, answers: dict[str, Any], source: str, scratch: Path) -> Path:
    """The project as the template made it at a commit, with .template.json saying so."""
    git("checkout", "--quiet", "--force", commit, folder=template)
    given = complete(answers, template)
    config = scratch / "config.yml"
    config.write_text(f"replay_dir: {json.dumps(str(scratch))}\ncookiecutters_dir: {json.dumps(str(scratch))}\n")
    out = scratch / commit
    command = [sys.executable, "-m", "cookiecutter", str(template), "--no-input", "--config-file", str(config)]
    pairs = [f"{key}={value}" for key, value in given.items()]
    done = subprocess.run([*command, "--output-dir", str(out), *pairs], capture_output=True, encoding="utf-8")
    if done.returncode:
        raise RefusedError(f"the template at {commit[:12]} cannot be rendered: {(done.stderr or done.stdout).strip()}")
    [project] = out.iterdir()
    kept = {"template": source, "commit": commit, "answers": dict(sorted(given.items()))}
    (project / ANSWERS).write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return project


def tree(rendered: Path, scratch: Path) -> str:
    """A git tree of the whole repository, with this project as rendered and all else as it is."""
    index = {"GIT_INDEX_FILE": str(scratch / f"{rendered.parent.name}.index")}
    of_project = {"GIT_DIR": git("rev-parse", "--absolute-git-dir"), "GIT_WORK_TREE": str(rendered), **index}
    git("-c", "core.excludesFile=", "add", "--all", "--force", ".", folder=rendered, **of_project)
    project = git("write-tree", **index)
    prefix = git("rev-parse", "--show-prefix")
    if not prefix:
        return project
    git("read-tree", "HEAD", **index)
    git("rm", "-r", "--cached", "--quiet", "--ignore-unmatch", ".", **index)
    git("read-tree", f"--prefix={prefix}", project, **index)
    return git("write-tree", **index)


def pick(before: Path, after: Path, message: str, scratch: Path) -> list[str]:
    """Commit what changed from one rendering to the other, on top of what the team did. Returns the conflicts."""
    base = git("commit-tree", tree(before, scratch), "-m", "The template as it was")
    change = git("commit-tree", tree(after, scratch), "-p", base, "-m", message)
    try:
        git("cherry-pick", change)
    except RefusedError:
        if conflicts := git("diff", "--name-only", "--diff-filter=U", "--relative").splitlines():
            return conflicts
        git("cherry-pick", "--quit")
        raise
    return []


def news(old: str, new: str, template: Path) -> str:
    """What the template's changelog has gained."""
    lines = git("diff", "--unified=0", old, new, "--", "CHANGELOG.md", folder=template).splitlines()
    return "\n".join(line[1:] for line in lines if line.startswith("+") and not line.startswith("+++"))


def update(template: str, to: str) -> int:
    """Bring the project to another version of the template, as one commit."""
    if git("status", "--porcelain", "--untracked-files=no"):
        raise RefusedError("there are uncommitted changes: commit or stash them first (`git status`)")
    kept = json.loads(ANSWERS.read_text(encoding="utf-8"))
    source = template or kept["template"]
    with tempfile.TemporaryDirectory() as name:
        scratch, cloned = Path(name), Path(name) / "template"
        clone(source, kept["commit"], cloned)
        old, new = kept["commit"], newest(kept["commit"], to, cloned)
        if old == new:
            print(f"This is the template's {name_of(new, cloned)}: nothing to update.")
            return 0
        before = render(cloned, old, kept["answers"], kept["template"], scratch)
        after = render(cloned, new, kept["answers"], source, scratch)
        what = f"{name_of(old, cloned)} to {name_of(new, cloned)}"
        conflicts = pick(before, after, f"Update the template from {what}", scratch)
        changes = news(old, new, cloned)
    print(f"The template went from {what}.\n")
    if changes:
        print(f"{changes}\n")
    if not conflicts:
        print("It is one commit: look at it with `git show`, undo it with `git revert HEAD`. Then `make test`.")
        return 0
    print("Both sides changed:", *(f"  {path}" for path in conflicts), sep="\n")
    print(
        "Resolve these, `git add` them, and `git cherry-pick --continue`; or go back with `git cherry-pick --abort`. "
        "For requirements.lock: `git checkout --theirs requirements.lock`, then `make lock`."
    )
    return 1


def check(template: str, to: str) -> int:
    """Whether the template has something newer; 1 if so."""
    kept = json.loads(ANSWERS.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as name:
        cloned = Path(name) / "template"
        clone(template or kept["template"], kept["commit"], cloned)
        new = newest(kept["commit"], to, cloned)
        here, there = name_of(kept["commit"], cloned), name_of(new, cloned)
    if new == kept["commit"]:
        print(f"This is the template's {here}: nothing to update.")
        return 0
    print(f"The template is at {there}, this project at {here}: make template-update")
    return 1


def main() -> int:
    """Do what was asked for, or say in one sentence why not."""
    parser = argparse.ArgumentParser(prog="tools/template.py", description=__doc__)
    parser.add_argument("what", choices=["update", "check"])
    parser.add_argument("--template", default="", help="URL or folder, instead of the one in .template.json")
    parser.add_argument("--to", default="", help="tag, branch or commit; default: the newest release")
    asked = parser.parse_args()
    os.chdir(Path(__file__).resolve().parents[1])
    try:
        return (update if asked.what == "update" else check)(asked.template, asked.to)
    except (RefusedError, OSError, ValueError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
