"""The network, cut at any moment of a push or a fetch: what is said is true, and what was decided happens once."""

import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lifecycle.errors import UserError
from lifecycle.processes import free_port, running, wait_until
from lifecycle.releases import git, operations, pointers
from lifecycle.releases import ledger as book
from lifecycle.releases.ledger import Ledger, UnreachableError
from lifecycle.releases.verify import verify_ledger
from lifecycle.testing import CLI, Releases, cli, environment, new_repository, with_own_settings, without_network

import ledgers
from needs import lacking

# A push, turn by turn. A turn is all that one side says until the other one speaks.
ASKS, REFS, PACK, REPORT = 1, 2, 3, 4


@dataclass(frozen=True)
class Cut:
    """Where a connection ends: so many bytes into one of its turns. Silent: it stays open, and nothing passes."""

    turn: int
    after: int = 0
    silent: bool = False


@dataclass
class Wire:
    """A TCP relay on loopback. `plan`: for each connection to come, where it is cut, or what happens before it."""

    server: int
    port: int = field(default_factory=free_port)
    plan: list[Cut | Callable[[], object]] = field(default_factory=list)
    listener: socket.socket | None = None
    ends: list[socket.socket] = field(default_factory=list)

    def plug(self) -> None:
        """Take connections; else they are refused."""
        self.listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._listen, args=[self.listener], daemon=True).start()

    def cut(self) -> None:
        """End every connection."""
        for each in self.ends:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self.ends = []

    def unplug(self) -> None:
        """End every connection, and refuse new ones."""
        self.cut()
        if self.listener:
            self.listener.shutdown(socket.SHUT_RDWR)  # close() does not wake the thread that waits for a connection
            self.listener.close()
        self.listener = None

    def _listen(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", self.server))
                self.ends += [near, far]
                planned = self.plan.pop(0) if self.plan else None
                cut = planned if isinstance(planned, Cut) else None
                if planned and not cut:
                    planned()
                threading.Thread(target=self._relay, args=[near, far, cut], daemon=True).start()

    def _relay(self, near: socket.socket, far: socket.socket, cut: Cut | None) -> None:
        turn, passed, speaker = 0, 0, far
        with suppress(OSError, ValueError), near, far:
            while True:
                for source in select.select([near, far], [], [])[0]:
                    if not (heard := source.recv(65536)):
                        return
                    if source is not speaker:
                        turn, passed, speaker = turn + 1, 0, source
                    pass_on = heard[: cut.after - passed] if cut and cut.turn == turn else heard
                    (far if source is near else near).sendall(pass_on)
                    passed += len(pass_on)
                    if pass_on != heard:
                        while cut and cut.silent and near.recv(65536):
                            pass
                        return


@dataclass(frozen=True)
class Far:
    """A remote that is reached over a wire; `folder` is its repository."""

    folder: Path
    wire: Wire

    def tip(self) -> str | None:
        """The remote's ledger, seen from beside the network."""
        said = git.git("ls-remote", str(self.folder), book.REF).split()
        return said[0] if said else None


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Wire]:
    """git's own server of all that is below `tmp_path`, behind a wire."""
    port = free_port()
    options = ["--export-all", "--enable=receive-pack", "--reuseaddr", f"--base-path={tmp_path}", f"--port={port}"]
    if not Path(git.git("--exec-path").strip(), "git-daemon").exists():
        lacking("git-daemon", "this git has no daemon")
    command = ["git", "daemon", "--listen=127.0.0.1", *options]
    with running(command, tmp_path, tmp_path / "daemon.log", environment(tmp_path)) as process:
        wait_until(lambda: process.poll() is not None or _listens(port))
        wire = Wire(port)
        wire.plug()
        yield wire
        wire.unplug()


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def shared(folder: Path, wire: Wire) -> Far:
    """Let the project that the test stands in share its ledger over the wire."""
    far = folder.parent / "far.git"
    git.git("clone", "--quiet", "--bare", ".", str(far))
    git.git("remote", "add", "origin", f"git://127.0.0.1:{wire.port}/far.git")
    book.fetch()
    return Far(far, wire)


@pytest.fixture
def far(tmp_path: Path, daemon: Wire, monkeypatch: pytest.MonkeyPatch) -> Far:
    """The remote of a small repository with one release in its ledger; the test stands in that."""
    with_own_settings(new_repository(tmp_path / "repository"), monkeypatch)
    ledgers.release(book.load(), ledgers.record("content"))
    return shared(tmp_path / "repository", daemon)


def nothing() -> None:
    """A connection that is let alone."""


def promote(ledger: Ledger) -> Ledger:
    return ledgers.promote(ledger, ledger.releases[0], "staging")


def kinds() -> list[str]:
    ledger = book.load()
    assert verify_ledger(ledger).problems == []
    return [entry.kind for _, entry in ledger.entries()]


def is_true(said: str, before: str | None, far: Far) -> None:
    """That nothing was changed is said only where that is so; else what to type."""
    if "nothing was changed" in said:
        assert far.tip() == before
    else:
        assert "whether the entry is in the ledger there is not known. Type the same command again" in said


# A push


@pytest.mark.parametrize(
    "cut", [Cut(ASKS), Cut(REFS, 99), Cut(PACK), Cut(PACK, 250), Cut(REPORT), Cut(REPORT, 9)], ids=str
)
def test_a_push_that_is_cut_once_happens_once_or_not_at_all(cut: Cut, far: Far) -> None:
    before = far.tip()
    far.wire.plan = [cut]
    try:
        promote(book.load())
    except UserError as error:
        assert cut.turn <= REFS, "it could have been asked"
        is_true(str(error), before, far)
        promote(book.load())
    assert kinds() == ["release", "promote"]
    assert far.tip() == book.load().tip


@pytest.mark.parametrize(
    ("cut", "again"),
    [(Cut(REFS), Cut(ASKS)), (Cut(PACK, 250), Cut(ASKS)), (Cut(PACK), Cut(REPORT)), (Cut(REPORT), Cut(REFS, 99))],
    ids=str,
)
def test_where_the_remote_cannot_be_asked_either_it_is_said_and_the_next_fetch_knows(
    cut: Cut, again: Cut, far: Far
) -> None:
    before = book.load()
    far.wire.plan = [cut, again]
    with pytest.raises(UserError) as failure:
        promote(before)
    is_true(str(failure.value), before.tip, far)
    assert book.load() == before
    far.wire.plan.clear()
    taken = far.tip()
    assert (taken != before.tip) == (REPORT in (cut.turn, again.turn))
    book.fetch()
    assert book.load().tip == taken
    if taken == before.tip:
        promote(book.load())
    assert kinds() == ["release", "promote"]
    assert far.tip() == book.load().tip


def test_a_remote_that_refuses_connections_has_nothing_and_that_is_said(far: Far) -> None:
    before = book.load()
    far.wire.unplug()
    with pytest.raises(UserError, match=r"and nothing was changed: .*Connection refused"):
        promote(before)
    with pytest.raises(UnreachableError, match="cannot be reached"):
        book.fetch()
    assert book.load() == before
    far.wire.plug()
    assert promote(before).tip == far.tip()
    assert kinds() == ["release", "promote"]


def test_a_remote_that_falls_silent_is_asked_again(far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git, "NETWORK_SECONDS", 2)
    far.wire.plan = [Cut(REPORT, silent=True)]
    promote(book.load())
    assert kinds() == ["release", "promote"]
    assert far.tip() == book.load().tip


@pytest.mark.parametrize(("first", "second"), [("0.8", "0"), ("0.3", "1")], ids=["second first", "first first"])
def test_a_cut_push_that_the_remote_is_still_at_and_the_next_one_are_one(first: str, second: str, far: Far) -> None:
    hook = far.folder / "hooks/pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\nmkdir began 2> /dev/null && exec sleep {first}\nsleep {second}\n", encoding="utf-8")
    hook.chmod(0o755)

    def cut() -> None:
        wait_until((far.folder / "began").exists)
        far.wire.cut()

    threading.Thread(target=cut, daemon=True).start()
    promote(book.load())
    assert kinds() == ["release", "promote"]
    wait_until(lambda: not list(far.folder.glob("objects/*incoming*")), "the remote is still at the other push")
    assert far.tip() == book.load().tip


# Somebody else, in a clone that no wire leads to.
ELSEWHERE = """
import ledgers
from lifecycle.releases import ledger as book

book.fetch()
ledgers.approve(book.load(), book.load().releases[0])
"""


@pytest.fixture
def somebody_approves(far: Far, tmp_path: Path) -> Callable[[], None]:
    other = tmp_path / "other"
    git.git("clone", "--quiet", str(far.folder), str(other))
    paths = os.pathsep.join(sys.path)

    def approve() -> None:
        command = [sys.executable, "-c", ELSEWHERE]
        subprocess.run(command, cwd=other, env=environment(other, PYTHONPATH=paths), check=True, capture_output=True)

    return approve


def test_an_entry_that_another_one_was_put_on_meanwhile_is_no_lost_race(
    far: Far, somebody_approves: Callable[[], None]
) -> None:
    far.wire.plan = [Cut(REPORT), somebody_approves]
    after = promote(book.load())
    assert kinds() == ["release", "promote", "approve"]
    assert after.tip == far.tip()


def test_a_rollback_whose_answer_is_lost_is_done_here_and_there(far: Far) -> None:
    ledger = promote(book.load())
    far.wire.plan = [Cut(REPORT)]
    after = ledgers.rollback(ledger, "staging", None, offline=True)
    book.fetch()
    assert after.tip == book.load().tip == far.tip()
    assert kinds() == ["release", "promote", "rollback"]


def test_a_rollback_of_the_time_without_a_network_is_sent_once(far: Far) -> None:
    ledger = promote(book.load())
    far.wire.unplug()
    after = ledgers.rollback(ledger, "staging", None, offline=True)
    far.wire.plug()
    far.wire.plan = [nothing, Cut(REPORT), Cut(ASKS)]
    with pytest.raises(UnreachableError, match="whether the entry is in the ledger there is not known"):
        book.fetch()
    assert after.tip == book.load().tip == far.tip()
    book.fetch()
    assert kinds() == ["release", "promote", "rollback"]


# A fetch


def test_a_fetch_that_is_cut_anywhere_changes_nothing_and_the_next_one_brings_it_all(
    far: Far, somebody_approves: Callable[[], None]
) -> None:
    before = book.load()
    somebody_approves()
    # Asks for refs, then for objects; each is answered.
    for cut in (Cut(1), Cut(2, 9), Cut(3), Cut(4, 50), Cut(5, 9), Cut(6), Cut(6, 99)):
        far.wire.plan = [cut]
        with pytest.raises(UnreachableError, match="the ledger at origin cannot be reached"):
            book.fetch()
        assert book.load() == before
    book.fetch()
    assert kinds() == ["release", "approve"]
    assert book.load().tip == far.tip()
    git.git("fsck", "--strict")


# By the command line


def said(*command: str) -> str:
    """The one line that a command fails with."""
    done = cli(*command)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    return done.stderr


def test_a_command_whose_answer_was_lost_says_so_and_typed_again_is_done_once(releases: Releases, daemon: Wire) -> None:
    far = shared(releases.folder, daemon)
    before, pointer = book.load(), pointers.read("production")
    command = ("promote", releases.second, "--to", "production", "--reason", "it is better")
    daemon.plan = [nothing, Cut(REPORT), Cut(ASKS)]
    is_true(said(*command), before.tip, far)
    assert far.tip() != before.tip == book.load().tip
    assert pointers.read("production") == pointer
    done = cli(*command)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"production serves {releases.second} already" in done.stdout
    assert far.tip() == book.load().tip
    assert kinds() == [*(entry.kind for _, entry in before.entries()), "promote"]
    after = pointers.read("production")
    assert after
    assert after.release == releases.second


def test_a_command_whose_fetch_is_cut_changes_nothing(releases: Releases, daemon: Wire) -> None:
    far = shared(releases.folder, daemon)
    tip = far.tip()
    daemon.plan = [Cut(2, 9)]
    assert "cannot be reached" in (line := said("promote", releases.second, "--to", "production"))
    assert "Nothing was changed here" in line
    assert far.tip() == book.load().tip == tip


def test_without_any_network_what_needs_none_works(releases: Releases) -> None:
    """No git remote is set. `reproduce` is run so in test_put_back.py."""
    alone = without_network() or lacking("mounts", "no network can be set apart here")
    operations.promote(releases.second, "production", reason="it is better")
    for command in (
        ["trace", "production"],
        ["verify", "--all"],
        ["rollback", "production", "--reason", "it misses"],
    ):
        run = [*alone, *CLI, *command]
        done = subprocess.run(run, env=environment(releases.folder), capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
    pointer = pointers.read("production")
    assert pointer
    assert pointer.release == releases.first
