"""A stage that runs on another machine, which shares only the git remote and the DVC remote with this one.

Here, `hand_over` pushes the stage's inputs to the DVC remote, and the work tree as a commit to the git remote. There,
`work` fetches both, runs the stage, and pushes its outputs and its entry in DVC's run-cache. Here again, `take_over`
fetches that entry: DVC restores the outputs, and writes dvc.lock as if the stage had run here.

Every step may be killed and repeated. What counts is the entry in the run-cache: it is pushed last, by one rename.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .. import project
from ..errors import UserError, redacted
from ..files import write_text
from ..params import PARAMS_FILE, SAFE_LOADER
from . import git
from .pipeline import LOCK_FILE, LOGS, PIPELINE_FILE, Pipeline, StageError, StageResult, locked
from .store import Output, Store

REF = "refs/lifecycle/stages/"
SCRATCH = Path(".lifecycle/scratch")
MESSAGE = "For the stage "


def hand_over(stage: str, store: Store) -> str:
    """Push what a stage needs. Return the commit to run it from; equal work trees give the same one.

    Raises:
        UserError: the project has no git remote or no DVC remote, or an input is missing.
    """
    remote = git.remote()
    if remote is None:
        raise UserError(
            f"the stage {stage} cannot be sent to another machine, because this repository has no git remote: "
            "`git remote add origin URL`"
        )
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
    # Changes on top of such a commit are what an earlier stage wrote.
    mine = head is not None and git.git("show", "--no-patch", "--format=%s", head.sha).startswith(MESSAGE)
    if head is None or (head.changed and not mine):
        raise UserError("this clone has uncommitted changes: run stages of other machines in a clone of its own")
    if git.resolve(commit) is None:
        if (remote := git.remote()) is None:
            raise UserError(
                f"this clone does not have the commit {commit}, and has no git remote `origin` to fetch it from"
            )
        git.git("fetch", "--quiet", remote, f"{REF}{commit}")
    git.git("checkout", "--quiet", "--force", "--detach", commit)


def work(stage: str, store: Store) -> StageResult:
    """Run a stage here on inputs from the DVC remote. Push its outputs and its entry in the run-cache.

    Raises:
        UserError: an input is not in the DVC remote, or the result cannot be pushed.
        StageError: the stage failed.
    """
    inputs = _inputs(stage)
    if wrong := store.fetch(inputs):
        raise UserError(f"an input of the stage {stage} cannot be fetched: {wrong[0]}")
    store.checkout(inputs)
    pipeline = Pipeline()
    key = pipeline.run_cache_key(stage)
    store.fetch_run(key)  # another worker may have done it
    result = pipeline.run(stage)
    if wrong := store.push(_outputs(locked()[stage])):
        raise UserError(f"an output of the stage {stage} cannot be pushed: {wrong[0]}")
    store.push_run(key)
    return result


def process_of(stage: str, *options: str, folder: Path | None = None) -> tuple[list[str], dict[str, str]]:
    """Return the command that runs a stage for another machine, and its environment; in the clone here, or in another.

    A process of its own: the commit that was checked out may have other code than this process has loaded.
    """
    command = [sys.executable, "-m", "lifecycle.cli", "run-stage", stage, *options]
    return command, {**os.environ, "PYTHONPATH": project.python_path(folder or Path.cwd())}


def why_failed(done: subprocess.CompletedProcess[str]) -> UserError:
    """Return the message of a stage that ended badly."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return UserError(lines[-1].removeprefix("error: ") if lines else f"it ended with exit code {done.returncode}")


@dataclass(frozen=True)
class Origin:
    """Where a worker gets a stage from: plain values, which can be sent to another machine.

    `cache`, `scratch`: the DVC cache and the folder for new clones of a worker on this machine.
    """

    repository: str
    ref: str
    prefix: str
    cache: str = ""
    scratch: str | None = None


@contextmanager
def lent(stage: str, store: Store, far: bool) -> Iterator[Origin]:
    """Offer a stage to workers on this machine, or through the git remote and the DVC remote to those elsewhere.

    Raises:
        UserError: as for `hand_over`; or the URL of the git remote holds a password, and would be sent to the workers.
    """
    prefix = git.git("rev-parse", "--show-prefix").strip()
    if not far:
        if wrong := store.fetch(_inputs(stage)):
            raise UserError(f"an input of the stage {stage} is lost: {wrong[0]}. `dvc pull` or `run`")
        SCRATCH.mkdir(parents=True, exist_ok=True)
        top = git.git("rev-parse", "--show-toplevel").strip()
        yield Origin(top, _snapshot(stage), prefix, str(store.root.resolve()), str(SCRATCH.resolve()))
        return
    commit = hand_over(stage, store)
    try:
        url = git.git("remote", "get-url", git.remote() or "origin").strip()
        if redacted(url) != url:
            raise UserError(
                "the URL of the git remote origin holds a password, and would be sent to the workers: use a credential "
                "helper instead, and `git remote set-url origin` without the password"
            )
        yield Origin(url, f"{REF}{commit}", prefix)
    finally:
        forget(commit)


def run_apart(stage: str, origin: Origin, params: str) -> None:
    """Run a stage in a new clone with this text as params.yaml. Its result is then in DVC's run-cache.

    Raises:
        UserError: it failed; the message is the command's.
    """
    from dvc.config import Config

    with tempfile.TemporaryDirectory(prefix="stage-", dir=origin.scratch, ignore_cleanup_errors=True) as clone:
        git.git("init", "--quiet", clone)
        # Version 2 of git's protocol also fetches a commit that no branch or tag has.
        version = ("-c", "protocol.version=2")
        git.git("-C", clone, *version, "fetch", "--quiet", "--depth=1", origin.repository, origin.ref)
        git.git("-C", clone, "checkout", "--quiet", "--detach", "FETCH_HEAD")
        folder = Path(clone, origin.prefix)
        write_text(folder / PARAMS_FILE, params)
        if origin.cache:  # it is the remote, too: then there is nothing to fetch or to push
            with Config(str(folder / ".dvc")).edit("local") as settings:
                settings["core"], settings["cache"] = {"remote": "cache"}, {"dir": origin.cache}
                settings["remote"] = {"cache": {"url": origin.cache}}
        command, own = process_of(stage, folder=folder)
        own["DVC_SITE_CACHE_DIR"] = str(folder / ".dvc/tmp/site")  # it goes with the clone
        done = subprocess.run(command, cwd=folder, env=own, capture_output=True, text=True, check=False)
        if done.returncode:
            raise why_failed(done)


def is_done(stage: str, pipeline: Pipeline, store: Store) -> bool:
    """Return whether the stage needs no worker: it is up to date, or the run-cache has its result, here or there."""
    return is_fresh(stage, pipeline) or store.fetch_run(pipeline.run_cache_key(stage)) is not None


def take_over(stage: str, pipeline: Pipeline, store: Store) -> StageResult:
    """Restore the outputs of a stage from its entry in the run-cache, as DVC does for a stage that ran here before.

    Raises:
        UserError: an output is not in the DVC remote.
        StageError: no worker has left a result for these inputs.
    """
    entry = store.fetch_run(pipeline.run_cache_key(stage))
    if entry is None and not is_fresh(stage, pipeline):
        reason = "the worker left no result for these inputs in the DVC remote"
        raise StageError(stage, reason, LOGS / f"{stage}.log", for_good=False)
    if entry and (wrong := store.fetch(_outputs(entry))):
        raise UserError(f"an output of the stage {stage} cannot be fetched: {wrong[0]}")
    return pipeline.run(stage)


def is_fresh(stage: str, pipeline: Pipeline) -> bool:
    """Return whether the stage is up to date here.

    Raises:
        UserError: dvc.yaml does not have this stage.
    """
    _declared(stage)
    return next(each.fresh for each in pipeline.status() if each.stage == stage)


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
    made = [out for stage in (locked() if LOCK_FILE.exists() else {}).values() for out in _outputs(stage)]
    return [
        out
        for out in made
        if any(f"{dep}/".startswith(f"{out.path}/") or f"{out.path}/".startswith(f"{dep}/") for dep in deps)
    ]


def _outputs(stage: dict[str, Any]) -> list[Output]:
    """Return the outputs of a stage in dvc.lock or in an entry of the run-cache, which have the same form."""
    return [Output.of(out) for out in stage.get("outs", [])]


def _snapshot(stage: str) -> str:
    """Return a commit of the tracked files as they are now, and of the stage's own new ones. Moves nothing here."""
    head = git.head()
    if head is None:
        raise UserError("this repository has no commit yet: run `git add --all` and `git commit`")
    made = {output.path for output in _inputs(stage)}
    names = [PIPELINE_FILE.name, LOCK_FILE.name, *_declared(stage).get("deps", [])]
    own = [name for name in names if name not in made and Path(name).exists()]
    when = git.git("show", "--no-patch", "--format=%cI", head.sha).strip()
    fixed = {f"GIT_{role}_DATE": when for role in ("AUTHOR", "COMMITTER")}
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder, "index"))}
        git.git("read-tree", head.sha, env=index)
        git.git("add", "--update", ".", env=index)
        git.git("add", "--", *own, env=index)
        tree = git.git("write-tree", env=index).strip()
    return git.commit_tree(tree, [head.sha], f"{MESSAGE}{stage}", env=fixed)
