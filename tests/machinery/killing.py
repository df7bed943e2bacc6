"""What must hold when a lifecycle operation is killed: nothing has happened, or all of it does."""

import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from lifecycle.errors import UserError
from lifecycle.releases import git
from lifecycle.releases import ledger as book
from lifecycle.releases.ledger import Ledger
from lifecycle.releases.pipeline import outputs
from lifecycle.releases.verify import verify_ledger
from lifecycle.testing import CLI, environment

from workers import Ended, Worker, end_all_in


@dataclass(frozen=True)
class Seen:
    """Everything that somebody could see of what is released and served, and of the work tree, at one moment."""

    ledger: str | None
    head: str
    index: str
    # From here on: equal, however often it was tried.
    entries: int
    channels: dict[str, tuple[str | None, int]]
    quarantined: list[str]
    tags: dict[str, bool]
    pointers: dict[str, tuple[str | None, int] | None]
    aliases: dict[str, str]
    versions: list[str]
    branch: str
    tree: str
    uncommitted: str
    work_tree: str

    def but(self, *names: str) -> dict[str, Any]:
        """All of it but some."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name not in names}


# So many steps on either side of the commit point are near it.
NEAR = 5
# They differ between two goes at the same thing: commits hold the time.
NEVER_EQUAL = ("ledger", "head", "index")


def look() -> Seen:
    """See the project that this process stands in; changes nothing."""
    index = _digest(Path(".git/index"))
    tip = git.resolve(book.REF)
    ledger = Ledger(tip, git.tree_files(tip) if tip else {})
    channels = {name: (each.release, each.generation) for name, each in ledger.channels().items()}
    aliases, versions = _mlflow()
    return Seen(
        ledger=tip,
        head=str(git.resolve("HEAD")),
        index=index,
        entries=len(ledger.entries()),
        channels=dict(channels),
        quarantined=sorted(path for path in ledger.files if path.startswith("quarantine/")),
        tags=_tags(ledger),
        pointers={path.stem: _pointer(path) for path in sorted(Path(".lifecycle/channels").glob("*.json"))},
        aliases=aliases,
        versions=versions,
        branch=git.git("symbolic-ref", "HEAD"),
        tree=git.project_tree("HEAD"),
        uncommitted=git.git("--no-optional-locks", "status", "--porcelain"),
        work_tree=_work_tree(),
    )


def _tags(ledger: Ledger) -> dict[str, bool]:
    """Release -> whether its tag is where it belongs; without those that have none."""
    lines = git.git("for-each-ref", "--format=%(refname:lstrip=3) %(objectname)", "refs/tags/release/").splitlines()
    there = dict(line.split() for line in lines)
    return {each.id: there[each.id] == each.commit for each in ledger.read_releases(there.keys() & {*ledger.releases})}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _pointer(path: Path) -> tuple[str | None, int] | None:
    found = json.loads(path.read_text(encoding="utf-8"))  # one that is half written is no pointer
    return found["release"], found["generation"]


def _mlflow() -> tuple[dict[str, str], list[str]]:
    """Channel -> the release that its alias is at; every release that a version is tagged with."""
    with closing(sqlite3.connect("file:mlflow.db?mode=ro", uri=True)) as database:
        tags = """select name, version, value from model_version_tags join model_versions using (name, version)
            where key = 'release' and current_stage != 'Deleted_Internal'"""
        released = {(name, version): value for name, version, value in database.execute(tags)}
        aliases = database.execute(
            "select name, version, alias from registered_model_aliases where alias != 'challenger'"
        )
        return {alias: released.get((name, version), "?") for name, version, alias in aliases}, sorted(
            released.values()
        )


def _work_tree() -> str:
    """One digest of all files under git, and of all that the pipeline has built."""
    files = git.git("ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    names = sorted({name for name in files if name})
    for out in _outputs():
        path = Path(out["path"])
        names += [str(file) for file in (sorted(path.rglob("*")) if path.is_dir() else [path]) if not file.is_dir()]
    found = [(name, _digest(Path(name)) if Path(name).exists() else None) for name in names]
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def _outputs() -> list[dict[str, Any]]:
    """What dvc.lock names; nothing while a git that was killed has left it half written."""
    try:
        return outputs()
    except UserError:
        return []


class Snapshot:
    """A project as it was, to be put back: only what has changed since is copied."""

    def __init__(self, folder: Path, aside: Path) -> None:
        self.folder, self.aside = folder, aside
        shutil.copytree(folder, aside, symlinks=True)

    def put_back(self) -> None:
        """Make the project's folder what it was."""
        was, now = dict(_stats(self.aside)), dict(_stats(self.folder))
        for name in sorted(now.keys() - was.keys(), reverse=True):  # what is in a folder before the folder
            (self.folder / name).rmdir() if now[name] is None else (self.folder / name).unlink()
        for name in sorted(was):
            if was[name] is None:
                (self.folder / name).mkdir(exist_ok=True)
            elif now.get(name) != was[name]:
                (self.folder / name).unlink(missing_ok=True)
                shutil.copy2(self.aside / name, self.folder / name)


def _stats(top: Path) -> Iterator[tuple[str, tuple[int, int, int] | None]]:
    """Name -> size, time and mode of each file; None for a folder."""
    for folder, folders, files in os.walk(top):
        below = os.path.relpath(folder, top)
        yield from ((f"{below}/{name}", None) for name in folders)
        for name in files:
            stat = Path(folder, name).stat()
            yield f"{below}/{name}", (stat.st_size, stat.st_mtime_ns, stat.st_mode)


@dataclass(frozen=True)
class Operation:
    """An operation to be killed. `commit`: what of `Seen` has moved once it is committed."""

    name: str
    arguments: dict[str, Any]
    command: tuple[str, ...]
    commit: str = "ledger"
    # What it may change before its commit point, none of it released or served.
    early: tuple[str, ...] = ()

    def repeated_well(self, ended: Ended, committed: bool) -> bool:
        """Whether the same operation once more was done, or said that there is nothing to do."""
        if self.name == "rollback" and committed:
            return "has served nothing else" in ended.text
        if ended.error:
            return False
        new = {"promote": "changed", "rollback": "changed", "release": "new", "restore": "commit"}[self.name]
        return bool(ended.result[new]) != committed


def operations(first: str, second: str) -> dict[str, Operation]:
    """The four of them, for a project in which `first` serves production, and `second` could or does."""
    reason = "it misses"
    return {
        "promote": Operation(
            "promote", {"what": second, "to": "production"}, ("promote", second, "--to", "production")
        ),
        "rollback": Operation(
            "rollback",
            {"channel": "production", "reason": reason},
            ("rollback", "production", "--reason", reason),
        ),
        "restore": Operation("restore", {"what": first}, ("restore", first), commit="head"),
        # It commits what `run` has written, and MLflow may know the model already.
        "release": Operation("release", {}, ("release",), early=("head", "index", "tree", "uncommitted", "versions")),
    }


@dataclass
class Tally:
    """What a row of kills came to. The times are those of the worst case."""

    kills: int = 0
    before: int = 0
    after: int = 0
    mixtures: list[str] = field(default_factory=list)
    next_seconds: float = 0.0
    doctor_seconds: float = 0.0


class Range:
    """A project in which one operation is killed again and again, each time from the same start."""

    def __init__(self, operation: Operation, folder: Path, aside: Path, worker: Worker) -> None:
        """Begin with the operation undisturbed: what it comes to is what every other go must come to."""
        self.operation, self.folder, self.worker, self.tally = operation, folder, worker, Tally()
        self.snapshot = Snapshot(folder, aside)
        self.start = look()
        begun = time.monotonic()
        ended = worker.do(folder, operation.name, **operation.arguments)
        assert not ended.error, ended
        self.seconds = time.monotonic() - begun
        self.steps = ended.steps
        self._doctor()
        self.end = look()
        assert self._committed(self.end), "the operation did nothing"

    def _put_back(self) -> None:
        end_all_in(self.folder)  # MLflow follows in a process of its own
        self.snapshot.put_back()

    def _committed(self, seen: Seen) -> bool:
        return bool(getattr(seen, self.operation.commit) != getattr(self.start, self.operation.commit))

    def at_every_step(self, far: int = 1) -> None:
        """Kill it at each of its steps; of those that are far from the commit point, at one in `far`."""
        ref = {"ledger": book.REF, "head": "HEAD"}[self.operation.commit]
        commit = next(n for n, step in enumerate(self.steps) if step.startswith("git update-ref") and ref in step)
        for number in range(len(self.steps)):
            if abs(number - commit) <= NEAR or number % far == 0:
                self._kill(die_at=number + 1)

    def inside_git(self, ref: str) -> None:
        """Kill it and the git that it has just started, which holds the lock of a ref and has not moved it yet."""
        self._put_back()
        hook = self.folder / ".git/hooks/reference-transaction"
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f'#!/bin/sh\n[ "$1" = prepared ] && grep -q " {ref}$" && kill -KILL 0\nexit 0\n')
        hook.chmod(0o755)
        ended = self.worker.do(self.folder, self.operation.name, **self.operation.arguments)
        hook.unlink()
        assert ended.killed, ended
        end_all_in(self.folder)
        locks = list(self.folder.glob(".git/**/*.lock"))
        assert locks
        for lock in locks:
            os.utime(lock, (0, 0))  # the next command comes later: it need not wait to be sure
        self._look_at_what_is_left(f"the moment git was about to move {ref}")

    def after_seconds(self, seconds: float) -> None:
        """Kill it after some time, in whatever it does then."""
        self._kill(die_after=seconds)

    def _kill(self, **how: Any) -> bool:
        self._put_back()
        ended = self.worker.do(self.folder, self.operation.name, **how, **self.operation.arguments)
        assert ended.killed or not ended.error, ended
        end_all_in(self.folder)
        if ended.killed:
            self._look_at_what_is_left(ended.killed)
        return bool(ended.killed)

    def command_after_seconds(self, seconds: float) -> None:
        """Kill the real command line after some time."""
        self._put_back()
        process = subprocess.Popen(
            [*CLI, *self.operation.command],
            cwd=self.folder,
            env=environment(self.folder),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(seconds)
        killed = process.poll() is None
        end_all_in(self.folder)
        process.wait()
        if killed:
            self._look_at_what_is_left(f"the command after {seconds:.3f} s")

    def _look_at_what_is_left(self, where: str) -> None:
        left = look()
        committed = self._committed(left)
        self.tally.kills += 1
        self.tally.before += not committed
        self.tally.after += committed
        try:
            self._must_hold(left, committed)
        except AssertionError as problem:
            self.tally.mixtures.append(f"{self.operation.name} killed at {where}: {problem}")

    def _must_hold(self, left: Seen, committed: bool) -> None:
        early = self.operation.early
        if committed:
            _each_is_old_or_new(left, self.start, self.end)
        else:
            _equal("before the commit", left.but(*early), self.start.but(*early))
        begun = time.monotonic()
        ended = self.worker.do(self.folder, "history")
        self.tally.next_seconds = max(self.tally.next_seconds, time.monotonic() - begun)
        assert not ended.error, f"the next command: {ended}"
        now = look()
        if committed:
            # MLflow follows when it is told: after the next operation, or by doctor.
            _equal("after the next command", now.but(*MLFLOW, *NEVER_EQUAL), self.end.but(*MLFLOW, *NEVER_EQUAL))
        else:
            _equal("after the next command", now.but(*early), self.start.but(*early))
        repeat = not committed or self.tally.kills % 2 == 0
        if repeat:
            again = self.worker.do(self.folder, self.operation.name, **self.operation.arguments)
            assert self.operation.repeated_well(again, committed), f"once more: {again}"
        if not repeat or self.operation.name == "rollback":  # after which MLflow is told in the background
            begun = time.monotonic()
            self._doctor()
            self.tally.doctor_seconds = max(self.tally.doctor_seconds, time.monotonic() - begun)
        _equal("in the end", look().but(*NEVER_EQUAL), self.end.but(*NEVER_EQUAL))
        problems = verify_ledger(book.load()).problems
        assert not problems, problems

    def _doctor(self) -> None:
        end_all_in(self.folder)  # MLflow follows in a process of its own: doctor must not need that
        ended = self.worker.do(self.folder, "doctor")
        assert not ended.error, f"doctor: {ended}"


MLFLOW = ("aliases", "versions")


def _equal(when: str, now: dict[str, Any], wanted: dict[str, Any]) -> None:
    wrong = {name: (now[name], wanted[name]) for name in now if now[name] != wanted[name]}
    assert not wrong, f"{when}, (is, should be): {wrong}"


def _each_is_old_or_new(left: Seen, old: Seen, new: Seen) -> None:
    """Nothing is half done: of each thing there is the old state or the new one."""
    for name, now in left.but(*NEVER_EQUAL, "work_tree", "uncommitted").items():
        was, will_be = getattr(old, name), getattr(new, name)
        if isinstance(now, dict):
            wrong = {key: value for key, value in now.items() if value not in (was.get(key), will_be.get(key))}
            assert not wrong, f"{name} has {wrong}, neither old nor new"
        else:
            assert now in (was, will_be), f"{name} is {now}, neither {was} nor {will_be}"
