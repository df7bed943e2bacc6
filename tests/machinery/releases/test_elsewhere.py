"""A stage on another machine, which has a clone, the DVC remote, and nothing else of this one."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lifecycle.errors import UserError
from lifecycle.releases import elsewhere, git
from lifecycle.releases.pipeline import LOCK_FILE, Pipeline, StageError
from lifecycle.releases.store import Store
from lifecycle.testing import FEWER_LEAVES, cli, commit_all, copy_project, digests, edit_params, environment, repro

STAGE = "train"
RESULTS = [Path("model"), Path("reports/learning_curve.csv"), LOCK_FILE]
# A process that kills itself when its work comes to a function.
DIE = """
import importlib, os, signal
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
where = importlib.import_module({module!r})
setattr(getattr(where, {of!r}) if {of!r} else where, {name!r}, die)
{work}
"""
COMMAND = "from lifecycle.cli import main; main()"
# The caller dies in the hand-over, or when it takes the result.
CALLER = {
    "with its inputs there": ("hand_over", "lifecycle.releases.git", "", "commit_tree"),
    "before it fetches": ("take_over", "lifecycle.releases.store", "Store", "fetch"),
    "before it restores": ("take_over", "lifecycle.releases.pipeline", "Pipeline", "run"),
}
STEPS = {
    "before it fetches": ("lifecycle.releases.store", "Store", "fetch"),
    "with its inputs": ("lifecycle.releases.pipeline", "Pipeline", "run"),
    "before it pushes": ("lifecycle.releases.store", "Store", "push"),
    "before the entry": ("lifecycle.releases.store", "Store", "push_run"),
}


@pytest.fixture
def remote(built: Path, tmp_path: Path) -> Path:
    """The project here with a git remote, and a stale stage."""
    shared = tmp_path / "shared.git"
    subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", str(shared)], check=True)
    commit_all(built, "Result")
    git.git("remote", "add", "origin", str(shared))
    git.git("push", "--quiet", "origin", "main")
    edit_params(built, {"train": {"num_leaves": FEWER_LEAVES}})
    return shared


@pytest.fixture
def worker(remote: Path, tmp_path: Path) -> Path:
    """Another machine's clone: it shares a git remote and a DVC remote with the project, and no other file."""
    return clone(remote, tmp_path)


def clone(remote: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "elsewhere/worker"
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run(["git", "clone", "--quiet", str(remote), str(folder)], check=True, env=environment(folder))
    settings = f"[core]\n    remote = tests\n['remote \"tests\"']\n    url = {tmp_path / 'project/.dvc-remote'}\n"
    (folder / ".dvc/config.local").write_text(settings, encoding="utf-8")
    return folder


def expected(here: Path, tmp_path: Path) -> dict[str, str]:
    """What the stage makes where it runs at home."""
    oracle = tmp_path / "oracle/project"
    copy_project(here, oracle)
    subprocess.run(
        [sys.executable, "-m", "dvc", "repro", "--quiet", "--single-item", STAGE],
        cwd=oracle, env=environment(oracle), check=True, capture_output=True,
    )  # fmt: skip
    found = digests(*(oracle / path for path in RESULTS))
    return {str(Path(path).relative_to(oracle)): digest for path, digest in found.items()}


def test_the_result_and_the_lock_file_are_those_of_a_run_at_home(built: Path, worker: Path, tmp_path: Path) -> None:
    same, store = expected(built, tmp_path), Store()
    assert digests(*RESULTS) != same
    pipeline = Pipeline()
    assert not elsewhere.is_done(STAGE, pipeline, store)
    commit = elsewhere.hand_over(STAGE, store)
    assert elsewhere.hand_over(STAGE, store) == commit, "the same work tree is the same commit"
    assert git.resolve("HEAD") != commit
    assert not (worker / "data/features").exists()
    done = cli("run-stage", STAGE, "--commit", commit, folder=worker)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{STAGE} ran, ")
    assert elsewhere.is_done(STAGE, Pipeline(), store)
    result = elsewhere.take_over(STAGE, Pipeline(), store)
    assert (result.outcome, digests(*RESULTS)) == ("cached", same)
    repro(built)
    elsewhere.forget(commit)
    assert elsewhere.REF not in git.git("ls-remote", "origin")
    elsewhere.forget(commit)


def test_the_worker_takes_a_result_that_is_there_already(built: Path, worker: Path) -> None:
    commit = elsewhere.hand_over(STAGE, Store())
    for outcome in ("ran", "cached"):
        done = cli("run-stage", STAGE, "--commit", commit, folder=worker)
        assert done.stdout.startswith(f"{STAGE} {outcome}, "), done.stderr


@pytest.mark.parametrize("step", STEPS)
def test_a_killed_worker_leaves_nothing_and_the_next_completes(
    step: str, built: Path, worker: Path, remote: Path, tmp_path: Path
) -> None:
    module, of, name = STEPS[step]
    store, same = Store(), expected(built, tmp_path)
    before = digests(*RESULTS)
    commit = elsewhere.hand_over(STAGE, store)
    git_of_worker = ["git", "-C", str(worker)]
    subprocess.run([*git_of_worker, "fetch", "--quiet", "origin", f"{elsewhere.REF}{commit}"], check=True)
    subprocess.run([*git_of_worker, "checkout", "--quiet", "--detach", commit], check=True)
    code = DIE.format(module=module, of=of, name=name, work=COMMAND)
    killed = subprocess.run(
        [sys.executable, "-c", code, "run-stage", STAGE], cwd=worker, env=environment(worker), capture_output=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with pytest.raises(StageError, match="left no result"):
        elsewhere.take_over(STAGE, Pipeline(), store)
    assert digests(*RESULTS) == before
    # As a new pod would, or a worker that starts again where the old one was.
    folder = worker if step == "before the entry" else clone(remote, tmp_path)
    done = cli("run-stage", STAGE, "--commit", commit, folder=folder)
    assert done.returncode == 0, done.stderr
    elsewhere.take_over(STAGE, Pipeline(), store)
    assert digests(*RESULTS) == same


@pytest.mark.parametrize("step", CALLER)
def test_a_killed_caller_leaves_nothing_half_done(step: str, built: Path, worker: Path, tmp_path: Path) -> None:
    function, module, of, name = CALLER[step]
    same, before = expected(built, tmp_path), digests(*RESULTS)
    if function == "take_over":
        done = cli("run-stage", STAGE, "--commit", elsewhere.hand_over(STAGE, Store()), folder=worker)
        assert done.returncode == 0, done.stderr
    arguments = "Store()" if function == "hand_over" else "Pipeline(), Store()"
    work = "from lifecycle.releases.pipeline import Pipeline; from lifecycle.releases.store import Store\n"
    work += f"from lifecycle.releases import elsewhere; elsewhere.{function}({STAGE!r}, {arguments})"
    code = DIE.format(module=module, of=of, name=name, work=work)
    killed = subprocess.run([sys.executable, "-c", code], env=environment(built), capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert digests(*RESULTS) == before
    if function == "hand_over":
        done = cli("run-stage", STAGE, "--commit", elsewhere.hand_over(STAGE, Store()), folder=worker)
        assert done.returncode == 0, done.stderr
    elsewhere.take_over(STAGE, Pipeline(), Store())
    assert digests(*RESULTS) == same


def test_what_cannot_be_handed_over_is_named(built: Path, remote: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no stage fly: its stages are ingest, transform"):
        elsewhere.hand_over("fly", Store())
    with pytest.raises(StageError, match="left no result"):
        elsewhere.take_over(STAGE, Pipeline(), Store())
    with pytest.raises(
        UserError, match="this clone has uncommitted changes: run stages of other machines in a clone of its own"
    ):
        elsewhere.check_out("0" * 40)  # this work tree has changes
    git.git("remote", "remove", "origin")
    with pytest.raises(UserError, match="cannot be sent to another machine, because this repository has no git remote"):
        elsewhere.hand_over(STAGE, Store())


def test_a_failing_stage_fails_there_with_its_own_words(built: Path, worker: Path) -> None:
    edit_params(built, {"train": {"num_leaves": -1}})
    commit = elsewhere.hand_over(STAGE, Store())
    done = cli("run-stage", STAGE, "--commit", commit, folder=worker)
    assert done.returncode == 2, "a retry will not help"
    assert done.stderr.splitlines()[-1].startswith(f"error: stage {STAGE} failed: ")
    assert "Traceback" not in done.stderr


def test_only_the_stage_s_own_new_files_are_sent(built: Path, worker: Path) -> None:
    Path("notes.txt").write_text("a password\n", encoding="utf-8")
    commit = elsewhere.hand_over(STAGE, Store())
    names = git.git("ls-tree", "-r", "--name-only", commit).split()
    assert "notes.txt" not in names
    assert ".dvc/config.local" not in names
    assert os.fspath(LOCK_FILE) in names
    assert git.head() and "notes.txt" in git.changed()
