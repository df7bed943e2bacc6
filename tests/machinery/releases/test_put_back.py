"""Release, restore, reproduce and gc: what is released stays, and comes back byte for byte."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from lifecycle.errors import UserError
from lifecycle.releases import gc, git, ledger, reproduce, restore, verify
from lifecycle.releases import release as releasing
from lifecycle.releases.pipeline import Pipeline
from lifecycle.releases.reconcile import open_ledger
from lifecycle.releases.record import Release
from lifecycle.releases.store import Store, file_md5
from lifecycle.testing import (
    CLI,
    Releases,
    cli,
    cli_json,
    commit_all,
    digests,
    edit_params,
    environment,
    repro,
    without_network,
)

import synthetic

OUTPUTS = [Path(name) for name in ("data/raw", "data/features", "model", "reports")]


def load(release_id: str) -> Release:
    return ledger.load().release(release_id)


def problems(release_id: str) -> list[str]:
    return verify.verify_release(load(release_id), ledger.load(), Store()).problems


def stale() -> list[str]:
    return [status.stage for status in Pipeline().status() if not status.fresh]


def as_released(release: Release) -> None:
    """The work tree is the release's: what git keeps, and what DVC does."""
    assert git.project_tree("HEAD") == release.materials["git"]["tree"]
    assert git.changed() == ()
    for file in Store().files(release.outputs()):
        assert file_md5(Path(file.path)) == file.md5


# Release


@pytest.mark.parametrize("name", ["params.yaml", "a new file.txt", "src/é.py"])
def test_a_work_tree_with_changes_is_not_released(name: str, releases: Releases) -> None:
    with Path(name).open("a", encoding="utf-8") as file:
        file.write("\n# changed\n")
    before = ledger.load()
    with pytest.raises(UserError, match="has changes that would not be in the release") as refused:
        releasing.release(before, Store())
    assert name in str(refused.value)
    assert ledger.load() == before


def test_a_stale_result_and_a_failed_gate_are_not_released(releases: Releases) -> None:
    edit_params(releases.folder, {"train": {"seed": 7}})
    commit_all(releases.folder, "Another seed")
    with pytest.raises(UserError, match=r"train, evaluate are stale.*`run` first"):
        releasing.release(ledger.load(), Store())
    gate = next(iter(yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))["evaluate"]["gates"]))
    edit_params(releases.folder, {"evaluate": {"gates": {gate: {"min": 2.0}}}})
    commit_all(releases.folder, "A gate that nothing passes")
    repro(releases.folder)
    with pytest.raises(UserError, match=f"does not pass its gates.*{gate}"):
        releasing.release(ledger.load(), Store())


def test_what_run_writes_is_committed_on_a_detached_head_too(releases: Releases) -> None:
    git.git("checkout", "--quiet", "--detach")
    before = git.resolve("HEAD")
    assert cli("run", "--through", synthetic.MONTHS[-1]).returncode == 0
    done = cli("run", "--through", synthetic.MONTHS[-2])
    assert done.returncode == 0, done.stderr
    made = releasing.release(ledger.load(), Store())
    assert sorted(made.committed) == ["dvc.lock", "params.yaml"]
    assert git.git("rev-list", f"{before}..HEAD").split() == [made.release.commit]
    assert git.changed() == ()


def test_the_source_outlives_its_branch(releases: Releases) -> None:
    release = load(releases.second)
    git.git("checkout", "--quiet", "--orphan", "other")
    commit_all(releases.folder, "All squashed")
    git.git("branch", "-D", "main")
    git.git("update-ref", "-d", releasing.TAG + releases.second)
    git.git("reflog", "expire", "--expire=now", "--all")
    git.git("gc", "--quiet", "--prune=now")
    assert git.project_tree(release.commit) == release.materials["git"]["tree"]
    assert "the tag release/" in "".join(open_ledger().done)
    assert problems(releases.second) == []


def test_everything_is_in_the_remote(releases: Releases) -> None:
    shutil.rmtree(".dvc/cache")
    for name in (releases.first, releases.second):
        assert Store().fetch(load(name).outputs()) == []
        assert problems(name) == []


def test_a_remote_that_cannot_be_written_is_one_line_and_no_release(releases: Releases) -> None:
    edit_params(releases.folder, {"train": {"num_leaves": 5}})
    commit_all(releases.folder, "Even smaller trees")
    repro(releases.folder)
    nowhere = "[core]\n    remote = nowhere\n['remote \"nowhere\"']\n    url = /proc/nowhere\n"
    Path(".dvc/config.local").write_text(nowhere, encoding="utf-8")
    before = ledger.load()
    done = cli("release")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "in the remote: `dvc push` shows details. Nothing was released" in done.stderr
    assert ledger.load() == before


def test_a_clone_has_the_ledger_before_it_fetches_anything(releases: Releases, tmp_path: Path) -> None:
    git.git("clone", "--quiet", "--bare", ".", str(tmp_path / "origin"))
    git.git("clone", "--quiet", str(tmp_path / "origin"), str(tmp_path / "clone"))
    assert cli_json("history", folder=tmp_path / "clone")["entries"] == cli_json("history")["entries"]


# Restore


def test_a_release_comes_back_byte_for_byte_as_a_new_commit(releases: Releases) -> None:
    release, before = load(releases.first), git.resolve("HEAD")
    done = restore.restore(release, Store())
    as_released(release)
    assert git.git("rev-parse", "HEAD^").strip() == before
    assert done.commit == git.resolve("HEAD")
    assert git.git("symbolic-ref", "--short", "HEAD").strip() == "main"
    assert stale() == []
    assert cli("run").stdout.startswith("Done.")  # MLflow's challenger follows
    assert restore.restore(release, Store()).commit is None


def test_it_comes_back_from_the_remote(releases: Releases) -> None:
    shutil.rmtree(".dvc/cache")
    restore.restore(load(releases.first), Store())
    as_released(load(releases.first))


@pytest.mark.parametrize("name", ["params.yaml", "notes.txt"])
def test_uncommitted_work_is_never_overwritten(name: str, releases: Releases) -> None:
    with Path(name).open("a", encoding="utf-8") as file:
        file.write("\n# mine\n")
    before = digests(Path("params.yaml"), Path(name), Path("dvc.lock"), *OUTPUTS)
    with pytest.raises(UserError, match=f"uncommitted work.*{name}"):
        restore.restore(load(releases.first), Store())
    assert digests(Path("params.yaml"), Path(name), Path("dvc.lock"), *OUTPUTS) == before


def test_what_is_nowhere_refuses_before_anything_changes(releases: Releases) -> None:
    release, head = load(releases.first), git.resolve("HEAD")
    lost = Store().files(release.outputs("model"))[0].md5
    for place in (".dvc/cache", ".dvc-remote"):
        Path(place, "files/md5", lost[:2], lost[2:]).unlink()
    before = digests(*OUTPUTS)
    with pytest.raises(UserError, match=r"cannot be restored: model/.* is missing"):
        restore.restore(release, Store())
    assert (git.resolve("HEAD"), digests(*OUTPUTS), restore.unfinished()) == (head, before, False)


# DVC, killed while it writes what dvc.lock holds into its index.
KILLED_DVC = """
import os
import signal
from dvc.repo import Repo
from dvc_data.index import DataIndex

written, write = [], DataIndex.__setitem__

def write_some(index, key, entry):
    if len(written) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    written.append(key)
    write(index, key, entry)

DataIndex.__setitem__ = write_some
Repo(".").checkout(force=True)
"""


def test_an_index_that_a_killed_dvc_has_left_half_written_costs_no_file(releases: Releases) -> None:
    release = load(releases.first)
    git.git("checkout", "--quiet", release.commit)
    killed = subprocess.run([sys.executable, "-c", KILLED_DVC], check=False)
    assert killed.returncode == -signal.SIGKILL
    git.git("checkout", "--quiet", "main")
    restore.restore(release, Store())
    as_released(release)


def test_data_alone_comes_back_and_nothing_seen_before_runs_again(releases: Releases) -> None:
    release = load(releases.second)
    assert cli("run", "--through", synthetic.MONTHS[-2]).returncode == 0
    edit_params(releases.folder, {"evaluate": {"gates": {"rows": {"min": 1}}}})
    commit_all(releases.folder, "A shorter window, and another gate")
    gates = Path("params.yaml").read_text(encoding="utf-8").split("evaluate:")[1]
    restore.restore(release, Store(), data_only=True)
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    assert params["data"] == release.materials["params"]["data"]
    assert Path("params.yaml").read_text(encoding="utf-8").split("evaluate:")[1] == gates
    for file in Store().files(release.outputs("data")):
        assert file_md5(Path(file.path)) == file.md5
    done = cli("run")
    assert done.returncode == 0, done.stderr
    ran = {line.split()[0]: line.split()[1] for line in done.stderr.splitlines() if line.split()[1:]}
    assert (ran["ingest"], ran["transform"], ran["train"]) == ("cached", "cached", "cached")


def test_a_file_edited_during_an_interrupted_restore_is_kept_aside(releases: Releases) -> None:
    release, head = load(releases.first), git.resolve("HEAD")
    tree = release.materials["git"]["tree"]
    new = git.commit_tree(tree, [head or ""], "As a killed restore leaves it\n")
    outputs = [vars(each) for each in release.outputs()]
    note = {"release": release.id, "from": head, "to": new, "outputs": outputs}
    restore.NOTE.write_text(json.dumps(note), encoding="utf-8")
    git.swap_ref("HEAD", new, head)
    Path("params.yaml").write_text("mine: true\n", encoding="utf-8")
    assert f"the restore of {release.id}, which was interrupted, is complete" in open_ledger().done
    as_released(release)
    assert (restore.SAVED / "params.yaml").read_text(encoding="utf-8") == "mine: true\n"


# Reproduce


def silent(*_: Any) -> None:
    """Progress that nobody waits for."""


def test_a_release_is_rebuilt_to_the_same_bytes_in_a_clean_work_tree(releases: Releases) -> None:
    before = (git.resolve("HEAD"), digests(*OUTPUTS), sorted(Store().objects()))
    # The source is a folder, so that no network is needed.
    command = [*without_network(), *CLI, "reproduce", releases.first, "--json"]
    done = subprocess.run(command, env=environment(releases.folder), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ran = [line.split()[:2] for line in done.stderr.splitlines()]
    assert ran == [[stage.name, "ran"] for stage in Pipeline().stages()]
    made = json.loads(done.stdout)["artifacts"]
    assert {each["level"] for each in made} == {"L0"}
    assert {each["path"] for each in made} == {each.path for each in load(releases.first).outputs()}
    assert (git.resolve("HEAD"), digests(*OUTPUTS), sorted(Store().objects())) == before
    assert len(git.git("worktree", "list").splitlines()) == 1


def test_a_source_that_is_gone_is_kept_and_a_result_that_differs_is_named(releases: Releases) -> None:
    shutil.rmtree("extracts")
    # A record that claims the first release's source for the second one's result.
    release = load(releases.second)
    release.observed["commit"] = load(releases.first).commit
    made = reproduce.reproduce(release, Store(), silent)
    levels = {each.path: each.level for each in made.artifacts}
    assert (levels["data/raw"], levels["data/features"]) == ("kept", "L0")
    assert levels["model"] == "L2"
    assert levels["reports/metrics.json"] == "differs" == made.level
    assert "other predictions for the probe" in next(each.detail for each in made.artifacts if each.path == "model")


# gc


def test_gc_frees_what_nobody_needs_and_keeps_every_release_whole(releases: Releases) -> None:
    edit_params(releases.folder, {"train": {"num_leaves": 3}})
    commit_all(releases.folder, "An experiment")
    repro(releases.folder)
    git.git("checkout", "--quiet", "HEAD~1", "--", "params.yaml", "dvc.lock")
    commit_all(releases.folder, "Not that")
    subprocess.run(["git", "update-ref", "-d", "ORIG_HEAD"], check=True)
    restore.restore(load(releases.first), Store())
    size = sum(size for _, size in Store().objects())
    planned = gc.collect(ledger.load(), Store(), dry_run=True)
    assert sum(size for _, size in Store().objects()) == size
    freed = gc.collect(ledger.load(), Store())
    assert freed == planned
    assert 0 < freed.bytes == size - sum(size for _, size in Store().objects())
    shutil.rmtree(".dvc-remote")
    assert problems(releases.first) == problems(releases.second) == []
    assert stale() == []


def test_gc_stops_when_it_cannot_tell_what_a_release_needs(releases: Releases) -> None:
    listing = next(each for each in load(releases.first).outputs() if each.md5.endswith(".dir"))
    Store().object_path(listing.md5).unlink()
    gc.collect(ledger.load(), Store())  # the remote has it
    assert problems(releases.first) == []
    Store().object_path(listing.md5).unlink()
    shutil.rmtree(".dvc-remote")
    before = sorted(Store().objects())
    with pytest.raises(UserError, match=f"needs the listing of {listing.path}.*nothing was deleted"):
        gc.collect(ledger.load(), Store())
    assert sorted(Store().objects()) == before


# diff


def test_diff_names_what_differs(releases: Releases) -> None:
    found = cli_json("diff", releases.first, releases.second)
    assert [each["name"] for each in found["params"]] == ["train.num_leaves"]
    assert {line.split("\t")[1] for line in found["code"]} == {"dvc.lock", "params.yaml"}
    metrics = {each["name"]: (each["old"], each["new"]) for each in found["metrics"]}
    ours, theirs = (load(name).evidence["metrics"] for name in (releases.first, releases.second))
    measured = [name for name, value in ours.items() if isinstance(value, float) and value != theirs[name]]
    assert measured
    assert {name: metrics[name] for name in measured} == {name: (ours[name], theirs[name]) for name in measured}
    assert found["data"] == found["sql"] == []
    assert "no difference" in cli("diff", releases.first, releases.first).stdout
