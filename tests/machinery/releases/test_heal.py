"""What a kill, a full disk or a power cut leaves half written or locked: the next command puts it right."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import yaml

from lifecycle.errors import UserError
from lifecycle.releases import git, ledger, pipeline
from lifecycle.releases.heal import RWLOCK, SAVED, heal
from lifecycle.releases.pipeline import Pipeline
from lifecycle.testing import Releases, cli, digests, environment, forget_runs

BUILT = [Path(name) for name in ("data/raw", "data/features", "model", "reports", "dvc.lock")]
TORN = ("", "{", '{"write": {"', "\0\0\0", "[]", '{"write": 3}')
OLD = (0, 0)


def fresh() -> bool:
    return all(stage.fresh for stage in Pipeline().status())


def run_stages() -> set[str]:
    """What `run` does between the gate and MLflow."""
    dvc = Pipeline()
    return {dvc.run(stage.name).outcome for stage in dvc.stages()}


def half(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@contextmanager
def process(*command: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(command, env=environment(Path.cwd()), stdout=subprocess.PIPE, text=True) as started:
        try:
            yield started
        finally:
            started.kill()


def asleep(*arguments: str) -> "contextmanager[subprocess.Popen[str]]":  # type: ignore[type-arg]
    """A process that does nothing, and whose command line ends with some words."""
    return process(sys.executable, "-c", "import time; time.sleep(600)", *arguments)


# DVC


def dvc_status() -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "status"], env=environment(Path.cwd()), capture_output=True, text=True
    )
    return done.stdout + done.stderr


def test_after_any_command_dvc_works_again(releases: Releases) -> None:
    RWLOCK.write_text("", encoding="utf-8")
    assert "Unable to read RWLock-file" in dvc_status()
    for command in (["status"], ["doctor"], ["run"], ["release"]):
        RWLOCK.write_text("", encoding="utf-8")
        done = cli(*command)
        assert done.returncode == 0, done.stderr
        assert done.stderr.startswith(f"note: {RWLOCK} was half written and is deleted\n")
    assert "up to date" in dvc_status()


def test_however_dvc_s_list_of_files_in_use_is_torn(built: Path) -> None:
    for content in TORN:
        RWLOCK.write_text(content, encoding="utf-8")
        with pytest.raises((UserError, AttributeError)):
            Pipeline().status()
        assert "half written" in " ".join(heal()), content
        assert (SAVED / "rwlock").read_text(encoding="utf-8") == content
        assert fresh()
    assert heal() == []


# It says when it holds the lock, and goes on holding it.
HOLD = """
import sys
from dvc.fs import localfs
from dvc.rwlock import rwlock
with rwlock(".dvc/tmp", localfs, " ".join(sys.argv), ["dvc.yaml"], ["data/raw"], False):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_only_what_no_living_process_uses_is_taken_out_of_it(built: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, "repro"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout and holder.stdout.readline() == "held\n"
        held = json.loads(RWLOCK.read_text(encoding="utf-8"))
        assert heal() == []
        assert json.loads(RWLOCK.read_text(encoding="utf-8")) == held
        holder.kill()
    assert heal() == [f"{RWLOCK} no longer names processes that are gone"]
    assert json.loads(RWLOCK.read_text(encoding="utf-8")) == {"write": {}, "read": {}}


@pytest.mark.parametrize(("command", "seconds"), [("dvc repro", -60), ("dvc repro", 60), ("dvc other", 60)])
def test_a_process_that_got_the_number_of_one_that_is_gone_holds_nothing(
    command: str, seconds: float, built: Path
) -> None:
    """It started after the list was written, or is another command; the same command, started before, holds it."""
    with asleep("repro") as later:
        raw = str(Path("data/raw").resolve())
        RWLOCK.write_text(json.dumps({"write": {raw: {"pid": later.pid, "cmd": f"/bin/{command}"}}}), encoding="utf-8")
        os.utime(RWLOCK, (time.time() + seconds,) * 2)
        lives = command == "dvc repro" and seconds > 0
        assert heal() == ([] if lives else [f"{RWLOCK} no longer names processes that are gone"])
        with pytest.raises(UserError, match="is busy") if lives else nullcontext():
            assert fresh()


def test_a_stage_that_runs_keeps_what_is_torn(built: Path) -> None:
    RWLOCK.write_text("", encoding="utf-8")
    command = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"]["train"]["cmd"]
    with asleep(*command.split()):
        assert "a stage still runs here" in " ".join(heal())
        assert RWLOCK.exists()
    heal()
    assert not RWLOCK.exists()


@pytest.mark.parametrize("cut", [0, 0.5, 0.97])
def test_a_torn_dvc_lock_comes_back_and_no_stage_runs_again(cut: float, built: Path) -> None:
    before = digests(*BUILT)
    content = Path("dvc.lock").read_bytes()
    Path("dvc.lock").write_bytes(content[: int(len(content) * cut)].rstrip(b"\n"))
    with pytest.raises(UserError, match="`git restore dvc"):
        pipeline.locked()
    assert heal() == ["dvc.lock was half written and is deleted: `run` takes what was built from DVC's cache"]
    assert run_stages() == {"cached"}
    assert digests(*BUILT) == before


def test_a_torn_dvc_lock_that_is_committed_is_the_committed_one(releases: Releases) -> None:
    half(Path("dvc.lock"))
    assert "the committed one again" in " ".join(heal())
    assert git.changed() == ()
    assert fresh()


def test_a_dvc_lock_with_a_conflict_is_left_to_a_person(built: Path) -> None:
    conflict = Path("dvc.lock").read_text(encoding="utf-8").replace("stages:", "=======\nstages:\n>>>>>>> other")
    Path("dvc.lock").write_text(conflict, encoding="utf-8")
    assert heal() == []
    with pytest.raises(UserError, match="`git restore dvc"):
        pipeline.locked()


def test_wherever_dvc_lock_is_cut_it_is_torn_or_names_only_what_it_knows(built: Path) -> None:
    content = Path("dvc.lock").read_bytes()
    whole = pipeline.whole_lock(content)
    for number in range(0, len(content), 7):
        try:
            cut = pipeline.whole_lock(content[:number])
        except ValueError:
            continue
        for name, stage in cut.items():
            assert all(each in whole[name][key] for key in ("deps", "outs") for each in stage.get(key, []))


def test_half_written_files_that_dvc_dbt_and_prefect_read_are_made_again(built: Path) -> None:
    before = digests(*BUILT)
    torn = [*Path("transform/target").glob("*.*"), *Path(".prefect").glob("*.toml")]
    torn = [path for path in torn if path.suffix != ".duckdb"]
    names = {path.name for path in torn}
    assert {"partial_parse.msgpack", "manifest.json", "graph.gpickle", "run_results.json", "memo_store.toml"} <= names
    for path in torn:
        path.chmod(0o644)
        half(path)
    for path in Path(".dvc/cache/runs").rglob("*"):  # DVC renames these into place: only a power cut leaves one empty
        if path.is_file():
            path.chmod(0o644)
            path.write_bytes(b"")
    Path("dvc.lock").unlink()  # so that every stage asks the run-cache, and then runs
    done = cli("run")
    assert done.returncode == 0, done.stderr
    assert digests(*BUILT) == before


def test_profiles_of_prefect_that_are_torn_are_kept_aside(built: Path) -> None:
    profiles = Path(".prefect/profiles.toml")
    profiles.write_text('active = "mine', encoding="utf-8")
    assert "is now in .lifecycle/saved" in " ".join(heal())
    assert not profiles.exists()
    assert (SAVED / "profiles.toml").read_text(encoding="utf-8") == 'active = "mine'


# A process that dies in the middle of a write of DVC's.
DIE = """
import io, os, signal, sys
import dvc.rwlock, dvc.utils.serialize._yaml as serialize

def die(file, content):
    file.write(content[: len(content) // 2])
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)

def dump(value, file):
    die(file, json.dumps(value))

def dump_yaml(value, file, **_):
    aside = io.StringIO()
    original(value, aside)
    if file.name.endswith("dvc.lock"):
        die(file, aside.getvalue())
    file.write(aside.getvalue())

json = dvc.rwlock.json
original = serialize._dump
if sys.argv.pop(1) == "rwlock":
    dvc.rwlock.json = type("half", (), {"load": json.load, "dump": dump, "JSONDecodeError": json.JSONDecodeError})
else:
    serialize._dump = dump_yaml
"""


def test_a_dvc_killed_while_it_writes_is_completed_by_the_next(built: Path) -> None:
    before = digests(*BUILT)
    for what in ("rwlock", "dvc.lock"):
        forget_runs(built)
        Path("dvc.lock").unlink(missing_ok=True)
        repro = "from dvc.cli import main\nmain(sys.argv[1:])"
        command = [sys.executable, "-c", f"{DIE}\n{repro}", what, "repro", "ingest"]
        done = subprocess.run(command, env=environment(built), capture_output=True, text=True, start_new_session=True)
        assert done.returncode == -signal.SIGKILL, done.stderr
        done = cli("status")
        assert done.returncode == 0, done.stderr
        assert f"{what} was half written" in done.stderr
    run_stages()
    assert digests(*BUILT) == before


# git


def lock_of(name: str) -> Path:
    lock = Path(".git", f"{name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.touch()
    return lock


@pytest.mark.parametrize("name", ["index", "HEAD", "config", "packed-refs", "shallow", "refs/heads/main", ledger.REF])
def test_a_lock_that_a_killed_git_has_left_is_deleted(name: str, releases: Releases) -> None:
    lock = lock_of(name)
    assert heal() == []  # it is new: whoever took it may be at work
    os.utime(lock, OLD)
    assert heal() == [f"{lock.resolve()}, left by a git that was killed, is deleted"]
    assert not lock.exists()


@pytest.mark.parametrize("holder", ["git", "open file"])
def test_a_lock_that_a_process_may_hold_stays_and_is_named(holder: str, releases: Releases) -> None:
    lock = lock_of("index")
    os.utime(lock, OLD)
    if holder == "git":
        command = ["git", "cat-file", "--batch"]
    else:
        command = [sys.executable, "-c", f"file = open({str(lock)!r}); print(1, flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        if holder != "git":
            assert other.stdout and other.stdout.readline()
        (said,) = heal()
        assert said.startswith(f"{lock.resolve()} is old, and process {other.pid} (") and "may hold it" in said
        assert lock.exists()
        other.kill()
    heal()
    assert not lock.exists()


@pytest.mark.parametrize("content", [b"", b"\0" * 41])
@pytest.mark.parametrize("ref", [ledger.REF, "refs/heads/main", "tag"])
def test_a_ref_that_a_power_cut_has_left_empty_is_where_it_was(ref: str, content: bytes, releases: Releases) -> None:
    ref = f"refs/tags/release/{releases.first}" if ref == "tag" else ref
    before = git.git("for-each-ref")
    Path(".git", ref).write_bytes(content)
    assert cli("history").returncode == 0
    assert git.git("for-each-ref") == before
    assert heal() == []


def test_an_index_that_a_power_cut_has_left_empty_is_that_of_head(releases: Releases) -> None:
    Path(".git/index").write_bytes(b"")
    Path("notes.txt").write_text("mine", encoding="utf-8")
    assert "that of HEAD again" in " ".join(heal())
    assert git.changed() == ("notes.txt",)


def test_an_object_that_a_power_cut_has_left_empty_is_written_again(releases: Releases) -> None:
    blob = git.git("hash-object", "-w", "--stdin", stdin="content").strip()
    path = Path(".git/objects", blob[:2], blob[2:])
    path.chmod(0o644)
    path.write_bytes(b"")
    assert git.read(blob) == [None]
    assert git.git("hash-object", "-w", "--stdin", stdin="content").strip() == blob
    assert git.read(blob) == [b"content"]


def test_a_head_that_is_empty_is_named(releases: Releases) -> None:
    Path(".git/HEAD").write_bytes(b"")
    assert ".git/HEAD is empty: write" in heal()[0]


# Half a file of ours is an extra one


def test_what_a_killed_write_leaves_beside_a_file_does_not_count(releases: Releases) -> None:
    left = [Path(".params.yaml.4711.tmp"), Path("data/.source.json.4711.tmp")]
    for path in left:
        path.write_text("half", encoding="utf-8")
        os.utime(path, OLD)
    assert git.changed() == ()
    done = cli("doctor")
    assert done.returncode == 0, done.stderr
    assert not any(path.exists() for path in left)
