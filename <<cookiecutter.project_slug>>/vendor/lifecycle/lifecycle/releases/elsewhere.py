"""A stage that runs on another machine, which has the repository and the DVC remote, and nothing else of this one.

Here, `hand_over` pushes the stage's inputs to the DVC remote, and the work tree as a commit to the git remote. There,
`work` fetches both, runs the stage, and pushes its outputs and its entry in DVC's run-cache. Here again, `take_over`
fetches that entry: DVC restores the outputs, and writes dvc.lock as if the stage had run here.

Every step may be killed and repeated. What counts is the entry in the run-cache: it is pushed last, by one rename.
"""

import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import yaml

from ..errors import UserError, one_line
from . import git
from .pipeline import LOCK_FILE, LOGS, PIPELINE_FILE, SAFE_LOADER, Pipeline, StageError, StageResult, locked
from .store import Output, Store

REF = "refs/lifecycle/stages/"
MESSAGE = "For the stage "


def hand_over(stage: str, store: Store) -> str:
    """Push what a stage needs. Return the commit to run it from; equal work trees give the same one.

    Raises:
        UserError: there is no git remote or no DVC remote, or an input is missing.
    """
    remote = git.remote()
    if remote is None:
        raise UserError(f"the stage {stage} runs on another machine, and there is no git remote to send it through")
    inputs = _inputs(stage)
    if wrong := store.fetch(inputs) or store.push(inputs):
        raise UserError(f"an input of the stage {stage} cannot be sent: {wrong[0]}")
    commit = _snapshot(stage)
    git.git("push", "--quiet", remote, f"{commit}:{REF}{commit}")
    return commit


def check_out(commit: str) -> None:
    """Put the commit of a hand-over into this clone, which belongs to the worker.

    Raises:
        UserError: the clone has changes of its own, or the commit is not in the git remote.
    """
    head = git.head()
    # What an earlier stage has left in a worker's clone is nobody's work.
    mine = head is not None and git.git("show", "--no-patch", "--format=%s", head.sha).startswith(MESSAGE)
    if head is None or (head.changed and not mine):
        raise UserError("a stage from another machine needs a clone of its own, without changes: clone the repository")
    if git.resolve(commit) is None:
        if (remote := git.remote()) is None:
            raise UserError(f"the commit {commit} is not here, and there is no git remote `origin` to fetch it from")
        git.git("fetch", "--quiet", remote, f"{REF}{commit}")
    git.git("checkout", "--quiet", "--force", "--detach", commit)


def work(stage: str, store: Store) -> StageResult:
    """Run a stage here, on what the DVC remote has, and push its outputs and its entry in the run-cache.

    Raises:
        UserError: an input is not in the DVC remote, or the result cannot be pushed.
        StageError: the stage failed.
    """
    inputs = _inputs(stage)
    if wrong := store.fetch(inputs):
        raise UserError(f"an input of the stage {stage} cannot be fetched: {wrong[0]}")
    store.checkout(inputs)
    pipeline = Pipeline()
    with suppress(FileNotFoundError):  # another worker may have done it
        _fetch_entry(pipeline.run_cache_key(stage), store)
    result = pipeline.run(stage)
    outs = [Output(out["path"], out["md5"], out["size"]) for out in locked()[stage]["outs"]]
    if wrong := store.push(outs):
        raise UserError(f"an output of the stage {stage} cannot be pushed: {wrong[0]}")
    _push_entry(pipeline.run_cache_key(stage), store)
    return result


def is_done(stage: str, pipeline: Pipeline, store: Store) -> bool:
    """Return whether the stage needs no worker: it is up to date, or the run-cache has its result, here or there."""
    if next(each for each in pipeline.status() if each.stage == stage).fresh:
        return True
    with suppress(FileNotFoundError):
        _fetch_entry(pipeline.run_cache_key(stage), store)
        return True
    return False


def take_over(stage: str, pipeline: Pipeline, store: Store) -> StageResult:
    """Restore the outputs of a stage from its entry in the run-cache, as DVC does for a stage that ran here before.

    Raises:
        UserError: an output is not in the DVC remote.
        StageError: no worker has left a result for these inputs.
    """
    with suppress(FileNotFoundError):
        for output in _fetch_entry(pipeline.run_cache_key(stage), store):
            if wrong := store.fetch([output]):
                raise UserError(f"an output of the stage {stage} cannot be fetched: {wrong[0]}")
    if not is_done(stage, pipeline, store):
        reason = "the worker left no result for these inputs in the DVC remote"
        raise StageError(stage, reason, LOGS / f"{stage}.log", for_good=False)
    return pipeline.run(stage)


def forget(commit: str) -> None:
    """Delete the commit of a hand-over from the git remote. It does not matter if it is gone already."""
    with suppress(git.GitError):
        git.git("push", "--quiet", git.remote() or "origin", "--delete", f"{REF}{commit}")


def _declared(stage: str) -> dict[str, Any]:
    stages = yaml.load(PIPELINE_FILE.read_bytes(), SAFE_LOADER)["stages"]  # noqa: S506
    if stage not in stages:
        raise UserError(f"{PIPELINE_FILE} has no stage {stage}: its stages are {', '.join(stages)}")
    return dict(stages[stage])


def _inputs(stage: str) -> list[Output]:
    """Return the outputs of other stages that a stage depends on, as dvc.lock has them."""
    deps = [str(dep) for dep in _declared(stage).get("deps", [])]
    return [
        Output(out["path"], out["md5"], out["size"])
        for out in (out for made in (locked() if LOCK_FILE.exists() else {}).values() for out in made.get("outs", []))
        if any(f"{dep}/".startswith(f"{out['path']}/") or f"{out['path']}/".startswith(f"{dep}/") for dep in deps)
    ]


def _snapshot(stage: str) -> str:
    """Return a commit of the tracked files as they are now, and of the stage's own new ones. Moves nothing here."""
    head = git.head()
    if head is None:
        raise UserError("there is no commit yet: `git add --all`, then `git commit`")
    made = {output.path for output in _inputs(stage)}
    own = [dep for dep in _declared(stage).get("deps", []) if dep not in made and Path(dep).exists()]
    when = git.git("show", "--no-patch", "--format=%cI", head.sha).strip()
    fixed = {f"GIT_{role}_DATE": when for role in ("AUTHOR", "COMMITTER")}
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder, "index"))}
        git.git("read-tree", head.sha, env=index)
        git.git("add", "--update", ".", env=index)
        git.git("add", "--force", "--", PIPELINE_FILE.name, LOCK_FILE.name, *own, env=index)
        tree = git.git("write-tree", env=index).strip()
    return git.commit_tree(tree, [head.sha], f"{MESSAGE}{stage}", env=fixed)


def _remote_runs(store: Store, key: str) -> tuple[Any, str]:
    """Return the DVC remote, and the folder there with the entries of a key."""
    remote = store.remote_of_runs()
    return remote, remote.fs.join(remote.path, "runs", key[:2], key)


def _push_entry(key: str, store: Store) -> None:
    remote, folder = _remote_runs(store, key)
    for entry in _entries(store, key):
        target = remote.fs.join(folder, entry.name)
        try:
            if remote.fs.exists(target):
                continue
            # Under its own name only when it is whole: a reader takes any file there for an entry.
            part = remote.fs.join(remote.path, "tmp", uuid4().hex)
            remote.fs.makedirs(remote.fs.parent(part), exist_ok=True)
            remote.fs.makedirs(folder, exist_ok=True)
            remote.fs.put_file(str(entry), part)
            remote.fs.move(part, target)
        except Exception as error:  # every remote raises its own errors
            raise UserError(f"the DVC remote cannot be written: {one_line(error)}") from None


def _fetch_entry(key: str, store: Store) -> list[Output]:
    """Fetch a key's entry into the run-cache, unless it is there. Return the outputs it names.

    Raises:
        FileNotFoundError: there is none.
    """
    entries = list(_entries(store, key))
    if not entries:
        remote, folder = _remote_runs(store, key)
        local = store.runs(key)
        for path in sorted(remote.fs.find(folder)) if remote.fs.exists(folder) else []:
            local.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=local.parent) as scratch:
                part = Path(scratch, "entry")
                remote.fs.get_file(path, str(part))
                part.replace(local / remote.fs.name(path))
        entries = list(_entries(store, key))
    if not entries:
        raise FileNotFoundError(key)
    found = yaml.load(entries[-1].read_bytes(), SAFE_LOADER)  # noqa: S506
    return [Output(out["path"], out["md5"], out["size"]) for out in found["outs"]]


def _entries(store: Store, key: str) -> Iterator[Path]:
    yield from sorted(store.runs(key).glob("*"), key=lambda path: path.stat().st_mtime)
