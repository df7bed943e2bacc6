"""What is lost, altered, unreachable or full: refused before the switch with nothing changed, or healed after it."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lifecycle.errors import UserError
from lifecycle.processes import free_port
from lifecycle.releases import approving, git, loading, operations, pointers, reconcile, tracking
from lifecycle.releases import ledger as book
from lifecycle.releases.ledger import Entry, UnreachableError
from lifecycle.releases.record import Release
from lifecycle.releases.store import File, Store
from lifecycle.releases.verify import verify_ledger, verify_release
from lifecycle.testing import CLI, FEWER_LEAVES, OWN, Releases, cli, commit_all, copy_project, environment

from killing import look
from needs import lacking

REMOTE = Path(".dvc-remote")


def promote(release_id: str) -> None:
    assert operations.promote(release_id, "production").result.changed


def refused(release_id: str, *words: str) -> None:
    """Its promotion is refused in one line that holds these words, and nothing has changed."""
    before = look()
    with pytest.raises(UserError) as refusal:
        promote(release_id)
    said = str(refusal.value)
    assert len(said.splitlines()) == 1
    assert not [word for word in words if word not in said], said
    assert look() == before


def serves(release_id: str) -> None:
    """The ledger, the pointer and MLflow say so, and the release is whole."""
    ledger = book.load()
    channel, pointer = ledger.channel("production"), pointers.read("production")
    assert channel is not None
    assert pointer is not None
    assert channel.release == pointer.release == look().aliases["production"] == release_id
    release = ledger.release(release_id)
    assert verify_release(release, ledger, Store()).problems == []
    assert loading.wrong_files(release, loading.RELEASES / release_id) == []
    assert verify_ledger(ledger).problems == []


def get(release_id: str) -> Release:
    return book.load().release(release_id)


def damage(path: Path) -> None:
    """Other bytes of the same length, as on a disk that goes bad."""
    path.chmod(0o644)
    content = path.read_bytes()
    path.write_bytes(bytes(byte ^ 1 for byte in content[:1]) + content[1:])


def truncate(path: Path) -> None:
    path.chmod(0o644)
    os.truncate(path, path.stat().st_size // 2)


# Objects of DVC's cache


@pytest.fixture
def model(releases: Releases) -> File:
    """A file of the second release's model that the first does not have, which is needed: its folder is gone."""
    shutil.rmtree(loading.RELEASES / releases.second)
    store = Store()
    one, two = (store.files(get(each).outputs(get(each).model["path"])) for each in (releases.first, releases.second))
    return next(file for file in two if file.md5 not in {other.md5 for other in one})


def in_cache(file: File) -> Path:
    return Store().object_path(file.md5)


def in_remote(file: File) -> Path:
    (path,) = REMOTE.rglob(f"{file.md5[:2]}/{file.md5[2:]}")
    return path


@pytest.mark.parametrize("harm", [Path.unlink, damage, truncate])
def test_an_object_lost_or_altered_in_the_cache_comes_from_the_remote(
    harm: Callable[[Path], None], model: File, releases: Releases
) -> None:
    harm(in_cache(model))
    promote(releases.second)
    serves(releases.second)


@pytest.mark.parametrize("harm", [Path.unlink, damage, truncate])
def test_an_object_that_the_remote_does_not_have_either_is_named(
    harm: Callable[[Path], None], model: File, releases: Releases
) -> None:
    harm(in_cache(model))
    aside = in_remote(model).rename("aside")
    refused(releases.second, model.path, "the DVC remote does not have it either", "`dvc push`")
    aside.rename(REMOTE / "files/md5" / model.md5[:2] / model.md5[2:])
    promote(releases.second)
    serves(releases.second)


def test_an_object_altered_in_the_remote_too_is_refused(model: File, releases: Releases) -> None:
    damage(in_cache(model))
    damage(in_remote(model))
    refused(releases.second, model.path, "cannot be used")


# The folder of a release on this machine


def model_file(release: Release) -> Path:
    return loading.RELEASES / release.id / max(release.model["files"])


def code_file(release: Release) -> Path:
    return loading.RELEASES / release.id / "src" / release.model["package"] / "model.py"


FOLDER: dict[str, Callable[[Release], object]] = {
    "a truncated model": lambda release: truncate(model_file(release)),
    "a lost model": lambda release: model_file(release).unlink(),
    "altered code": lambda release: damage(code_file(release)),
    "more code": lambda release: code_file(release).with_name("extra.py").write_text("raise SystemExit\n"),
}


@pytest.mark.parametrize("what", FOLDER)
def test_a_release_s_folder_is_made_anew_when_it_is_not_whole(what: str, releases: Releases) -> None:
    for release_id in (releases.first, releases.second):
        FOLDER[what](get(release_id))
    promote(releases.second)
    serves(releases.second)
    operations.rollback("production", "it misses")
    assert loading.wrong_files(get(releases.first), loading.RELEASES / releases.first) == []


@pytest.mark.parametrize("what", FOLDER)
def test_doctor_makes_what_serves_whole_again(what: str, releases: Releases) -> None:
    FOLDER[what](get(releases.first))
    (said,) = (line for line in reconcile.doctor().done if releases.first in line)
    assert said.startswith(f"{releases.first}, which production serves, is whole again")
    serves(releases.first)


# git


def test_a_record_altered_by_hand_is_not_followed(releases: Releases) -> None:
    path, before = f"releases/{releases.second}.json", book.load()
    content = (git.read(before.files[path])[0] or b"").decode()
    better = content.replace(f'"num_leaves": {FEWER_LEAVES}', f'"num_leaves": {FEWER_LEAVES + 1}')
    assert better != content
    forged = git.commit_tree(git.tree_with(before.tip, {path: better.encode()}), [str(before.tip)], "Nothing to see\n")
    git.git("update-ref", book.REF, forged)
    done = cli("verify", "--all")
    assert done.returncode == 1
    for says in (
        f"note: ledger commit {forged[:12]} is not allowed",
        f"ledger commit {forged[:12]}: it holds no readable",
    ):
        assert says in done.stdout
    promote(releases.second)
    after, pointer = book.load(), pointers.read("production")
    assert pointer and pointer.release == after.resolve("production") == releases.second
    assert after.files[path] == git.tree_files(str(after.tip))[path] == before.files[path]


@pytest.mark.parametrize("made", [True, False], ids=["with its folder", "without its folder"])
def test_a_release_whose_source_commit_is_gone_is_refused(made: bool, releases: Releases) -> None:
    """The ledger keeps it and the tag names it: only a damaged repository can have lost it."""
    commit = get(releases.second).commit
    if not made:
        shutil.rmtree(loading.RELEASES / releases.second)
    aside = Path(f".git/objects/{commit[:2]}/{commit[2:]}").rename("aside")
    pointer = Path(".lifecycle/channels/production.json").read_bytes()
    tip = git.git("rev-parse", book.REF)
    done = cli("promote", releases.second, "--to", "production")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"error: the commit {commit[:12]} is not in this repository: `git fetch --tags` may bring it" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert git.git("rev-parse", book.REF) == tip
    assert Path(".lifecycle/channels/production.json").read_bytes() == pointer
    aside.rename(f".git/objects/{commit[:2]}/{commit[2:]}")
    promote(releases.second)
    serves(releases.second)


@pytest.mark.parametrize("moved", [False, True], ids=["deleted", "moved"])
def test_a_tag_comes_back(moved: bool, releases: Releases) -> None:
    tag = f"refs/tags/release/{releases.first}"
    git.git("update-ref", *([tag, book.first_commit()] if moved else ["-d", tag]))
    done = reconcile.doctor().done if moved else reconcile.open_ledger().done
    assert any(f"release/{releases.first}" in line for line in done)
    assert git.resolve(tag) == get(releases.first).commit


POINTER = {
    "deleted": None,
    "empty": "",
    "damaged": '{"release": "r-',
    "another thing": "[]",
    "edited": json.dumps({"release": "r-000000000000", "generation": 1, "traffic": None, "ledger": "0" * 40}),
}


@pytest.mark.parametrize("state", POINTER)
def test_a_pointer_is_written_anew_by_any_command(state: str, releases: Releases) -> None:
    path = pointers.FOLDER / "production.json"
    before = path.read_bytes()
    path.unlink()
    if (content := POINTER[state]) is not None:
        path.write_text(content, encoding="utf-8")
    done = reconcile.open_ledger().done
    assert done == [f"production follows the ledger here: {releases.first}, generation 1"]
    found, wanted = json.loads(path.read_bytes()), json.loads(before)
    assert found | {"ledger": ""} == wanted | {"ledger": ""}


@pytest.mark.parametrize("moved", [False, True], ids=["deleted", "rewritten"])
def test_a_ledger_deleted_or_rewritten_stops_everything_and_the_way_back_is_told(
    moved: bool, releases: Releases
) -> None:
    before = book.load()
    git.git("update-ref", *([book.REF, f"{before.tip}~2"] if moved else ["-d", book.REF]))
    with pytest.raises(UserError, match="was rewritten" if moved else "is gone") as refusal:
        promote(releases.second)
    done = cli("rollback", "production", "--reason", "it misses")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"error: {refusal.value}\n")
    advice = str(refusal.value).split("`")[1]
    subprocess.run(advice.split(), check=True)
    assert book.load() == before


def test_the_lock_of_a_git_that_was_killed_is_in_nobody_s_way(releases: Releases) -> None:
    lock = Path(f".git/{book.REF}.lock")
    lock.touch()
    os.utime(lock, (0, 0))
    promote(releases.second)
    serves(releases.second)


def test_a_lock_is_left_alone_while_any_git_runs_here(releases: Releases) -> None:
    lock = Path(f".git/{book.REF}.lock")
    lock.touch()
    os.utime(lock, (0, 0))
    running = subprocess.Popen(["git", "hash-object", "--stdin"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    refused(releases.second, "try again")
    assert lock.exists()
    running.communicate()
    promote(releases.second)
    serves(releases.second)


# MLflow


def name_of_model() -> str:
    return str(book.load().release("production").model["name"])


def version_of(channel: str) -> str:
    return str(tracking.open_client().get_model_version_by_alias(name_of_model(), channel).version)


def delete_alias() -> None:
    tracking.open_client().delete_registered_model_alias(name_of_model(), "production")


def move_alias() -> None:
    tracking.open_client().set_registered_model_alias(name_of_model(), "production", version_of("staging"))


def delete_tag() -> None:
    tracking.open_client().delete_model_version_tag(name_of_model(), version_of("production"), "release")


def delete_version() -> None:
    tracking.open_client().delete_model_version(name_of_model(), version_of("production"))


@pytest.mark.parametrize("by_hand", [delete_alias, move_alias, delete_tag, delete_version])
def test_what_a_hand_has_changed_in_the_registry_is_put_right(by_hand: Callable[[], None], releases: Releases) -> None:
    before = look()
    by_hand()
    assert look() != before
    assert reconcile.doctor().done
    assert look() == before
    assert reconcile.doctor().done == []


def test_mlflow_lost_entirely_is_made_again_and_its_models_predict_as_before(releases: Releases) -> None:
    before = look()
    Path("mlflow.db").unlink()
    shutil.rmtree("mlartifacts")
    done = reconcile.doctor().done
    assert [line.split()[0] for line in done if "is logged to MLflow again" in line] == [
        releases.first,
        releases.second,
    ]
    assert look() == before
    import mlflow

    for channel, release_id in (("production", releases.first), ("staging", releases.second)):
        release = get(release_id)
        loaded = mlflow.pyfunc.load_model(f"models:/{release.model['name']}@{channel}")
        probe = release.model["probe"]
        np.testing.assert_allclose(loaded.predict(pd.DataFrame(probe["rows"])), probe["predictions"], rtol=1e-9)


def test_releases_that_differ_in_code_alone_have_a_version_each(releases: Releases) -> None:
    from dvc.repo import Repo

    with (releases.folder / "src" / OWN / "model.py").open("a", encoding="utf-8") as file:
        file.write("# The same outputs come of this.\n")
    commit_all(releases.folder, "A comment")
    with Repo(".") as repo:
        repo.commit(force=True)
    third = operations.release().result.release.id
    assert look().versions == sorted([releases.first, releases.second, third])
    operations.promote(third, "staging")
    assert look().aliases["staging"] == third
    assert reconcile.doctor().done == []


def test_with_mlflow_down_a_promotion_is_done_and_told_later(releases: Releases) -> None:
    down = {
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{free_port()}",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    }
    done = cli("promote", releases.second, "--to", "production", **down)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"note: MLflow at {down['MLFLOW_TRACKING_URI']} could not be updated: ")
    assert "`doctor` updates MLflow once it answers" in done.stdout
    assert look().aliases["production"] == releases.first
    assert any("alias production" in line for line in reconcile.doctor().done)
    serves(releases.second)


# DVC's remote


def test_without_the_dvc_remote_nothing_is_released_and_what_is_here_can_be_served(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    REMOTE.write_text("no folder")  # nobody can write below it, root neither
    before = look()
    done = cli("release")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: the DVC remote cannot be used: ")
    assert len(done.stderr.splitlines()) == 1
    after = look()
    assert (after.ledger, after.tags, after.pointers) == (None, {}, {}) == (before.ledger, before.tags, before.pointers)
    REMOTE.unlink()
    assert operations.release().result.new


def test_a_rollback_needs_no_dvc_remote(releases: Releases) -> None:
    promote(releases.second)
    shutil.rmtree(loading.RELEASES)
    shutil.rmtree(REMOTE)
    REMOTE.touch()
    assert operations.rollback("production", "it misses").result.release == releases.first
    reconcile.doctor()
    serves(releases.first)


# git's remote


@pytest.fixture
def origin(releases: Releases, tmp_path: Path) -> Path:
    """A bare repository that the project's ledger is shared through."""
    folder = tmp_path / "origin.git"
    subprocess.run(["git", "clone", "--quiet", "--bare", releases.folder, folder], check=True, capture_output=True)
    git.git("remote", "add", "origin", str(folder))
    book.fetch()
    return folder


def far_tip(origin: Path) -> str:
    return git.git(f"--git-dir={origin}", "rev-parse", book.REF).strip()


def test_with_the_git_remote_down_nothing_is_promoted(origin: Path, releases: Releases) -> None:
    aside = origin.rename(origin.with_name("aside"))
    refused(releases.second, "the ledger at origin cannot be reached", "Nothing was changed")
    aside.rename(origin)
    promote(releases.second)
    serves(releases.second)
    assert far_tip(origin) == book.load().tip


@pytest.mark.parametrize("next_command", ["doctor", "promote"])
def test_a_rollback_works_offline_and_is_sent_on_when_the_remote_is_back(
    next_command: str, origin: Path, releases: Releases
) -> None:
    promote(releases.second)
    before = far_tip(origin)
    aside = origin.rename(origin.with_name("aside"))
    done = operations.rollback("production", "it misses")
    assert done.result.release == releases.first
    assert any("continuing without the network" in note for note in done.notes)
    aside.rename(origin)
    assert far_tip(origin) == before
    if next_command == "doctor":
        reconcile.doctor()
    else:
        operations.promote(releases.first, "canary")
        reconcile.doctor()
    assert far_tip(origin) == book.load().tip
    assert book.load().channels()["production"].release == releases.first
    serves(releases.first)


def test_what_both_sides_did_meanwhile_is_brought_together_by_doctor(
    origin: Path, releases: Releases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(releases.second)
    other = tmp_path / "other"
    copy_project(releases.folder, other)
    aside = origin.rename(origin.with_name("aside"))
    ours = operations.rollback("production", "it misses").result
    aside.rename(origin)
    with monkeypatch.context() as elsewhere:
        elsewhere.chdir(other)
        approving.approve(book.load(), get(releases.second), "looks right")
        theirs = book.load().tip
    refused(releases.first, "have diverged", "`doctor`")
    done = reconcile.doctor().done
    assert any(line.startswith("done again: rollback of production by Tests") for line in done)
    ledger = book.load()
    last: list[Entry] = [entry for _, entry in ledger.entries()[-2:]]
    assert [entry.kind for entry in last] == ["approve", "rollback"]
    assert last[1].after == theirs
    assert (last[1].release, last[1].channel) == (ours.release, "production")
    assert far_tip(origin) == ledger.tip
    serves(releases.first)


def test_an_unreachable_remote_is_told_from_one_that_refuses(origin: Path) -> None:
    origin.rename(origin.with_name("aside"))
    with pytest.raises(UnreachableError, match="the ledger at origin cannot be reached"):
        book.fetch()


# The disk


def in_own_mounts(script: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a shell script that may mount what it likes: nobody else sees it, and it is gone with it."""
    command = ["unshare", "--map-root-user", "--mount", "sh", "-eu", "-c", script, "sh", *arguments]
    try:
        subprocess.run([*command[:3], "mount", "-t", "tmpfs", "tmpfs", "/mnt"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        lacking("mounts", f"no disk can be mounted here: {error}")
    return subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True)


READ_ONLY = """
mount --bind "$PWD" "$PWD"
mount -o remount,bind,ro "$PWD"
cd "$PWD"
! touch file
exec "$@"
"""


@pytest.mark.parametrize("prepared", [True, False], ids=["prepared", "to be prepared"])
def test_on_a_read_only_disk_a_promotion_is_refused_in_one_line(prepared: bool, releases: Releases) -> None:
    if not prepared:
        shutil.rmtree(loading.RELEASES / releases.second)
    before = look()
    done = in_own_mounts(READ_ONLY, *CLI, "promote", releases.second, "--to", "production", folder=releases.folder)
    said = [line for line in done.stderr.splitlines() if "touch" not in line]
    assert done.returncode == 1, done.stdout
    assert len(said) == 1, said
    assert said[0].startswith("error: ")
    assert "Read-only file system" in said[0]
    assert look() == before
    promote(releases.second)
    serves(releases.second)


def test_on_a_read_only_disk_one_can_look(releases: Releases) -> None:
    done = in_own_mounts(READ_ONLY, *CLI, "history", folder=releases.folder)
    assert done.returncode == 0, done.stderr
    assert releases.first in done.stdout


# $1 is put on a small disk of its own, which is filled. The command fails there; with space it does not.
FULL = """
disk=$1 out=$2
shift 2
cp -a "$disk" "$out/copy"
mount -t tmpfs -o size=$(($(du -sk "$disk" | cut -f1) + 2048))k tmpfs "$disk"
cp -a "$out/copy/." "$disk"
room=$(df -k --output=avail "$disk" | tail -1)
set +e
dd if=/dev/zero of="$disk/filler" bs=1k count=$((room + 64)) 2> /dev/null
"$@" > "$out/full.out" 2> "$out/full.err"
echo $? > "$out/full.code"
git rev-parse "$LEDGER" > "$out/full.ledger"
cat .lifecycle/channels/production.json > "$out/full.pointer"
rm "$disk/filler"
"$@" > "$out/room.out" 2> "$out/room.err"
echo $? > "$out/room.code"
git rev-parse "$LEDGER" > "$out/room.ledger"
cat .lifecycle/channels/production.json > "$out/room.pointer"
"""


@pytest.mark.parametrize(("disk", "prepared"), [(".git", True), (".lifecycle", True), (".lifecycle", False)])
def test_on_a_full_disk_a_promotion_fails_in_one_line_and_goes_on_when_there_is_space(
    disk: str, prepared: bool, releases: Releases, tmp_path: Path
) -> None:
    if not prepared:
        shutil.rmtree(loading.RELEASES / releases.second)
    before, out = look(), tmp_path / "out"
    out.mkdir()
    script = FULL.replace("$LEDGER", book.REF)
    command = [*CLI, "promote", releases.second, "--to", "production"]
    done = in_own_mounts(script, disk, str(out), *command, folder=releases.folder)
    assert done.returncode == 0, done.stderr
    found = {path.name: path.read_text() for path in out.glob("*.*")}
    assert found["full.code"] == "1\n", found
    assert len(found["full.err"].splitlines()) == 1, found["full.err"]
    assert "full" in found["full.err"] or "No space left" in found["full.err"]
    pointer = json.loads(found["full.pointer"])
    assert pointer["release"] == releases.first, "it serves on"
    committed = found["full.ledger"].strip() != before.ledger
    # A full .lifecycle is met by the pointer alone, when everything was prepared: then the next command moves it.
    assert committed == (disk == ".lifecycle" and prepared)
    assert (found["room.code"], found["room.err"]) == ("0\n", "")
    assert json.loads(found["room.pointer"])["release"] == releases.second
    assert (found["room.ledger"] == found["full.ledger"]) == committed
