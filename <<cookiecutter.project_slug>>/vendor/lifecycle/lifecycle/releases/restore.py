"""`restore`: bring a past release back into the work tree, as a new commit.

Fetches and hashes everything first. Then writes a note on what is being restored, moves HEAD (the commit point), and
updates the files. If a restore is killed before HEAD moves, nothing has changed; after that, the next command finishes
it from the note.
"""

import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError
from ..files import write_json
from ..params import PARAMS_FILE
from . import git
from .pipeline import LOCK_FILE
from .record import Release
from .store import Output, Store

NOTE = Path(".lifecycle/restoring.json")
SAVED = Path(".lifecycle/saved")
DATA = "data"
# The files that `make setup` installs from.
INSTALLED = ("pyproject.toml", "requirements.lock", "vendor")


@dataclass(frozen=True)
class Restored:
    """What was restored. `commit` is None if the work tree was already in this state.

    `setup`: packages or the machinery differ from the installed ones.
    """

    release: str
    commit: str | None
    outputs: list[str]
    files: int
    setup: bool


def restore(release: Release, store: Store, data_only: bool = False) -> Restored:
    """Restore the release's code, parameters, data, features and model; or, with `data_only`, only its data.

    Data means: what the pipeline keeps below data/, the data window in params.yaml, and the files under git there.
    Code, other parameters and the model stay; `run` then brings the results up to date.

    Raises:
        UserError: there is uncommitted work, or something in the release is missing or altered; nothing has changed.
    """
    if changed := git.changed():
        raise UserError(
            f"there is uncommitted work that a restore would lose: {', '.join(changed[:5])}"
            f"{f' and {len(changed) - 5} more' if len(changed) > 5 else ''}. Commit it, or `git stash -u`"
        )
    if git.resolve(release.commit) is None:
        raise UserError(
            f"the commit {release.commit[:12]} of {release.id} is not here: `git fetch --tags` may bring it"
        )
    outputs = release.outputs(DATA) if data_only else release.outputs()
    if wrong := store.fetch(outputs):
        raise UserError(f"{release.id} cannot be restored: {wrong[0]}, and the DVC remote does not have it either")
    head = git.resolve("HEAD")
    assert head is not None
    tree = _with_data(release, head) if data_only else _with_project(release, head)
    new = None
    if tree != git.git("rev-parse", f"{head}^{{tree}}").strip():
        what = "data of " if data_only else ""
        new = git.commit_tree(tree, [head], f"Restore {what}{release.id}\n\n{release.digest}\n")
    write_json(
        NOTE, {"release": release.id, "from": head, "to": new or head, "outputs": [asdict(each) for each in outputs]}
    )
    if new and not git.swap_ref("HEAD", new, head, f"restore {release.id}"):
        NOTE.unlink()
        raise UserError("the branch was moved in the meantime; nothing was restored: try again")
    finish(store)
    files, setup = _files_between(head, new), bool(_files_between(head, new, *INSTALLED))
    return Restored(release.id, new, [each.path for each in outputs], len(files), setup)


def _files_between(old: str, new: str | None, *paths: str) -> list[str]:
    return git.git("diff", "--name-only", old, new, "--", *paths).splitlines() if new else []


def _with_project(release: Release, head: str) -> str:
    """Return HEAD's tree with the project's folder from the release."""
    prefix = git.git("rev-parse", "--show-prefix").strip()
    tree: str = release.materials["git"]["tree"]
    return git.tree_with_folder(head, prefix, tree) if prefix else tree


def _with_data(release: Release, head: str) -> str:
    """Return HEAD's tree with the release's versions of the files that describe the data."""
    prefix = git.git("rev-parse", "--show-prefix").strip()
    then = git.tree_files(release.materials["git"]["tree"])
    now = {path.removeprefix(prefix) for path in git.tree_files(head) if path.startswith(f"{prefix}{DATA}/")}
    changes: dict[str, bytes | None] = dict.fromkeys(now)
    names = [path for path in then if path.startswith(f"{DATA}/")]
    changes |= dict(zip(names, git.read(*(then[name] for name in names)), strict=True))
    changes[str(PARAMS_FILE)] = _params(then, head)
    changes[str(LOCK_FILE)] = _lock(then, head)
    return git.tree_with(head, {prefix + path: content for path, content in changes.items()})


def _params(then: dict[str, str], head: str) -> bytes:
    """Return the current params.yaml with the release's data section: the lines between two top-level keys."""
    old, new = (_text(content) for content in git.read(then[str(PARAMS_FILE)], f"{head}:./{PARAMS_FILE}"))
    text = "".join(_section(old, "data")).join(_around(new, "data"))
    if yaml.safe_load(text) != yaml.safe_load(new) | {"data": yaml.safe_load(old)["data"]}:
        raise UserError(f"the data section of {PARAMS_FILE} cannot be restored separately: restore the whole release")
    return text.encode()


def _text(content: bytes | None) -> str:
    return (content or b"").decode("utf-8")


def _bounds(lines: list[str], key: str) -> tuple[int, int]:
    start = next((number for number, line in enumerate(lines) if line.startswith(f"{key}:")), 0)
    rest = range(start + 1, len(lines))
    return start, next((number for number in rest if lines[number][:1].isalpha()), len(lines))


def _section(text: str, key: str) -> list[str]:
    lines = text.splitlines(keepends=True)
    start, end = _bounds(lines, key)
    return lines[start:end]


def _around(text: str, key: str) -> tuple[str, str]:
    lines = text.splitlines(keepends=True)
    start, end = _bounds(lines, key)
    return "".join(lines[:start]), "".join(lines[end:])


def _lock(then: dict[str, str], head: str) -> bytes:
    """Return the current dvc.lock with the release's data stages, whose outputs are being restored."""
    old, new = (yaml.safe_load(_text(content)) for content in git.read(then[str(LOCK_FILE)], f"{head}:./{LOCK_FILE}"))
    stages: dict[str, Any] = dict(new["stages"]) if new else {}
    for name, stage in old["stages"].items():
        if any(out["path"].startswith(f"{DATA}/") for out in stage["outs"]):
            stages[name] = stage
    return yaml.safe_dump({"schema": old["schema"], "stages": stages}, sort_keys=False).encode()


def unfinished() -> bool:
    """Return whether a restore was interrupted after it took effect, or just before."""
    return NOTE.exists()


def finish(store: Store) -> str | None:
    """Finish a restore that has moved HEAD, or discard one that has not. Return the release that was finished.

    Raises:
        UserError: something it needs has since disappeared, or its note is damaged.
    """
    try:
        note = json.loads(NOTE.read_text(encoding="utf-8"))
    except ValueError:
        way_on = "look at `git status`, delete that file, then `restore RELEASE` again"
        raise UserError(f"{NOTE}, the note of a restore that was interrupted, is damaged: {way_on}") from None
    if git.resolve("HEAD") != note["to"]:
        NOTE.unlink()
        return None
    _sync_work_tree(note["from"], note["to"])
    outputs = [Output(**each) for each in note["outputs"]]
    if wrong := store.fetch(outputs):
        raise UserError(
            f"restoring {note['release']} stopped: {wrong[0]}; get it with `dvc pull`, then run any command to continue"
        )
    store.checkout(outputs)
    NOTE.unlink()
    return str(note["release"])


def _sync_work_tree(old: str, new: str) -> None:
    """Make the index and files match `new`. A file that matches neither tree is saved first."""
    odd = set(_differing(old)) & set(_differing(new))
    _keep_aside(odd)
    # Only in this folder: the repository may hold other projects.
    git.git("restore", f"--source={new}", "--staged", "--worktree", "--", ".")


def _differing(commit: str) -> Iterable[str]:
    return [
        name for name in git.git("diff", "--name-only", "-z", "--no-renames", commit, "--", ".").split("\0") if name
    ]


def _keep_aside(names: set[str]) -> None:
    top = Path(git.git("rev-parse", "--show-toplevel").strip())
    for name in sorted(names):
        if (top / name).is_file():
            (SAVED / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(top / name, SAVED / name)
