"""The ledger, on small repositories: what is appended is there, and what others have written is never lost."""

import json
import shlex
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from lifecycle.errors import UserError
from lifecycle.releases import git, replay
from lifecycle.releases import ledger as book
from lifecycle.releases.ledger import ApartError, ChannelName, Entry, Ledger, MovedError
from lifecycle.releases.verify import verify_ledger
from lifecycle.testing import commit_all, new_repository, with_own_settings

import ledgers

CHANNELS: tuple[ChannelName, ...] = ("staging", "canary", "production")
PEOPLE = ("Alice <alice@example.org>", "Bärbel Ø <b@example.org>")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = new_repository(tmp_path / "repository")
    with_own_settings(folder, monkeypatch)
    return folder


def release(content: str) -> str:
    """Append a small release; returns its id."""
    made = ledgers.record(content)
    ledgers.release(book.load(), made)
    return made.id


class Model(RuleBasedStateMachine):
    """People who append operations, some of them having read the ledger a while ago, beside what that must come to."""

    folder: Path

    def __init__(self) -> None:
        super().__init__()
        place = Path(tempfile.mkdtemp(dir=self.folder))
        self.patch = pytest.MonkeyPatch()
        with_own_settings(new_repository(place / "repository"), self.patch)
        self.releases: list[str] = []
        self.approvals: set[tuple[str, str]] = set()
        # Channel -> (release, generation, previous, by); what went to quarantine, by whom it was put there.
        self.channels: dict[ChannelName, tuple[str | None, int, str | None, str]] = {}
        self.quarantine: dict[str, str] = {}
        self.served: dict[ChannelName, set[str]] = {}
        # Who touched a release's place in quarantine last, there or not.
        self.touched: dict[str, tuple[str, int]] = {}
        self.operations: list[tuple[str, str | None]] = []
        self.read_before: list[tuple[Ledger, dict[Any, Any], dict[Any, Any]]] = []

    @rule()
    def release(self) -> None:
        self.releases.append(release(f"content {len(self.releases)}"))
        self.operations.append(("release", self.releases[-1]))

    @precondition(lambda self: self.releases)
    @rule(data=st.data(), by=st.sampled_from(PEOPLE))
    def approve(self, data: st.DataObject, by: str) -> None:
        chosen = data.draw(st.sampled_from(self.releases))
        ledgers.approve(book.load(), chosen, by)
        self.approvals.add((chosen, by))
        self.operations.append(("approve", chosen))

    @precondition(lambda self: self.releases)
    @rule(data=st.data(), name=st.sampled_from(CHANNELS), by=st.sampled_from(PEOPLE), stale=st.booleans())
    def promote(self, data: st.DataObject, name: ChannelName, by: str, stale: bool) -> None:
        read = self.read_before[-4:] if stale else self.read_before[-1:]
        ledger, channels, touched = data.draw(st.sampled_from(read))
        if not ledger.releases:
            return
        chosen = data.draw(st.sampled_from(ledger.releases))
        if channels.get(name) != self.channels.get(name):
            with pytest.raises(MovedError) as lost:
                ledgers.promote(ledger, chosen, name, by)
            assert f"{name} was moved by {self.channels[name][3]} at {ledgers.AT}" in str(lost.value)
            return
        if touched.get(chosen) != self.touched.get(chosen):
            with pytest.raises(MovedError) as lost:
                ledgers.promote(ledger, chosen, name, by)
            assert f"{self.touched[chosen][0]} has changed {chosen} at {ledgers.AT}" in str(lost.value)
            return
        ledgers.promote(ledger, chosen, name, by)
        old = self.channels.get(name)
        self.operations.append(("promote", chosen))
        self.channels[name] = (chosen, (old[1] if old else 0) + 1, old[0] if old else None, by)
        self.served.setdefault(name, set()).add(chosen)
        if self.quarantine.pop(chosen, None):
            self.touched[chosen] = (by, len(self.operations))

    @precondition(lambda self: any(each[0] for each in self.channels.values()))
    @rule(data=st.data(), by=st.sampled_from(PEOPLE))
    def rollback(self, data: st.DataObject, by: str) -> None:
        name = data.draw(st.sampled_from([name for name, each in self.channels.items() if each[0]]))
        left, generation, *_ = self.channels[name]
        assert left
        targets = [None, *(each for each in self.releases if each != left)]
        chosen = data.draw(st.sampled_from(targets))
        allowed = chosen in self.served[name] - self.quarantine.keys() if chosen else name != "production"
        if not allowed:
            with pytest.raises(UserError, match=r"never served|in quarantine|must serve something"):
                ledgers.rollback(book.load(), name, chosen, by)
            return
        ledgers.rollback(book.load(), name, chosen, by)
        self.operations.append(("rollback", chosen))
        self.channels[name] = (chosen, generation + 1, left, by)
        self.quarantine[left] = by
        self.touched[left] = (by, len(self.operations))

    @invariant()
    def holds_what_was_appended(self) -> None:
        ledger = book.load()
        assert ledger.releases == sorted(self.releases)
        channels = {
            name: (channel.release, channel.generation, channel.previous, channel.by)
            for name, channel in ledger.channels().items()
        }
        assert channels == self.channels
        quarantine = [path for path in ledger.files if path.startswith("quarantine/")]
        assert quarantine == [f"quarantine/{release_id}.json" for release_id in sorted(self.quarantine)]
        for release_id, by in self.quarantine.items():
            found = ledger.quarantine(release_id)
            assert found and found.by == by
        assert sum(path.startswith("approvals/") for path in ledger.files) == len(self.approvals)
        last = ledger.last_entry()
        assert (last.number if last else 0) == len(self.operations)
        self.read_before.append((ledger, dict(self.channels), dict(self.touched)))

    def teardown(self) -> None:
        ledger = book.load()
        assert [(entry.kind, entry.release) for _, entry in ledger.entries()] == self.operations
        assert verify_ledger(ledger).problems == []
        self.patch.undo()


def test_it_holds_what_was_appended_and_whoever_is_late_is_told(tmp_path: Path) -> None:
    Model.folder = tmp_path
    # To shrink a failure would take minutes, and it is short as it is.
    quick = settings(max_examples=8, stateful_step_count=15, phases=(Phase.reuse, Phase.generate))
    run_state_machine_as_test(Model, settings=quick)


# Names of releases


@pytest.fixture
def served(repository: Path) -> tuple[str, str]:
    """Two releases whose ids begin alike; the first serves production."""
    by_start: dict[str, str] = {}
    for number in range(1000):
        made = ledgers.record(f"content {number}")
        if made.id[:3] in by_start:
            ids = (release(by_start[made.id[:3]]), release(f"content {number}"))
            break
        by_start[made.id[:3]] = f"content {number}"
    ledgers.promote(book.load(), ids[0], "production")
    return ids


def test_a_release_is_named_by_its_id_the_start_of_it_or_its_channel(served: tuple[str, str]) -> None:
    ledger = book.load()
    one, two = served
    length = next(length for length in range(3, 15) if one[:length] != two[:length])
    assert ledger.resolve(one) == ledger.resolve(one[:length]) == ledger.resolve(one[2:length]) == one
    assert ledger.resolve("production") == one
    assert ledger.release(two).id == two


def test_a_name_that_could_be_two_is_refused_with_both(served: tuple[str, str]) -> None:
    with pytest.raises(UserError) as refusal:
        book.load().resolve(served[0][:3])
    assert all(release_id in str(refusal.value) for release_id in served)


@pytest.mark.parametrize(
    "change", [lambda name: f"{name[:-1]}x", lambda name: f"{name}0", lambda name: f"r-x{name[2:]}"]
)
def test_an_unknown_name_is_refused_with_the_nearest(served: tuple[str, str], change: Callable[[str], str]) -> None:
    wrong = change(served[1])
    with pytest.raises(UserError, match=f"no release {wrong}; the nearest is {served[1]}"):
        book.load().resolve(wrong)


@pytest.mark.parametrize("what", ["", "r-", "r-0", "../entry", "canary ", "*"])
def test_what_names_nothing_is_refused(repository: Path, what: str) -> None:
    with pytest.raises(UserError, match="`release` makes one"):
        book.load().resolve(what)


def test_a_channel_that_serves_nothing_says_how_it_would(served: tuple[str, str]) -> None:
    with pytest.raises(UserError, match="`promote RELEASE --to canary`"):
        book.load().resolve("canary")


# Others at the same time


def test_whoever_is_late_is_told_who_moved_the_channel_and_when(served: tuple[str, str]) -> None:
    before = book.load()
    ledgers.promote(book.load(), served[1], "production", "Bob <bob@example.org>", "2020-02-02T02:02:02+00:00")
    tip = git.resolve(book.REF)
    with pytest.raises(MovedError, match=r"production was moved by Bob <bob@example\.org> at 2020-02-02T02:02:02"):
        ledgers.promote(before, served[1], "production")
    assert git.resolve(book.REF) == tip


def test_whoever_is_late_is_told_of_the_one_who_was_in_the_way_not_of_the_last(served: tuple[str, str]) -> None:
    before = book.load()
    ledgers.promote(before, served[1], "staging")
    ledgers.rollback(book.load(), "staging", None, "Bob <bob@example.org>", "2020-02-02T02:02:02+00:00")
    ledgers.approve(book.load(), served[0], "Carol <carol@example.org>")
    with pytest.raises(MovedError, match=rf"Bob .* has changed {served[1]} at 2020-02-02T02:02:02.*\(rollback\)"):
        ledgers.promote(before, served[1], "canary")


def test_what_does_not_touch_the_same_is_no_conflict(served: tuple[str, str]) -> None:
    before = book.load()
    ledgers.promote(before, served[0], "staging")
    ledgers.promote(before, served[1], "canary")
    after = ledgers.approve(before, served[1])
    assert {name: channel.release for name, channel in after.channels().items()} == {
        "staging": served[0],
        "canary": served[1],
        "production": served[0],
    }
    assert [entry.number for _, entry in after.entries()] == [1, 2, 3, 4, 5, 6]


def test_a_branch_named_lifecycle_is_in_the_way_and_is_named(repository: Path) -> None:
    git.git("branch", "lifecycle")
    with pytest.raises(UserError, match="'refs/heads/lifecycle' exists"):
        release("content")


# What was seen


def test_a_rewritten_branch_is_noticed_and_the_printed_command_puts_it_back(served: tuple[str, str]) -> None:
    seen = book.load().tip
    git.git("update-ref", book.REF, f"{seen}~1")
    _noticed("was rewritten: it is at", seen)


def test_a_branch_that_was_written_anew_is_noticed(served: tuple[str, str]) -> None:
    seen = book.load().tip
    git.git("update-ref", book.REF, git.commit_tree(git.tree_with(None, {}), [], "Anew\n"))
    _noticed("was rewritten: it is at", seen)


def test_a_deleted_branch_is_noticed_and_the_printed_command_puts_it_back(served: tuple[str, str]) -> None:
    seen = book.load().tip
    git.git("branch", "--quiet", "-D", book.BRANCH)
    _noticed("is gone", seen)


def _noticed(says: str, seen: str | None) -> None:
    for _ in range(2):  # to have noticed it once is not to have accepted it
        with pytest.raises(UserError, match=says) as refusal:
            book.load()
    subprocess.run(shlex.split(str(refusal.value).split("`")[1]), check=True)
    assert book.load().tip == seen


# What stands there


def test_keys_of_a_later_version_are_read_over(served: tuple[str, str]) -> None:
    ledger = book.load()
    new: dict[str, Any] = {"release": served[1], "previous": served[0], "generation": 2, "a later version's": [1]}
    place = {"channels/production.json": {"entry": 4}, book.ENTRY: {"number": 4, "after": ledger.tip}}
    changes: dict[str, bytes | str | None] = {}
    for path, more in place.items():
        changes[path] = json.dumps(json.loads(git.read(ledger.files[path])[0] or b"") | new | more).encode()
    later = git.commit_tree(git.tree_with(ledger.tip, changes), [str(ledger.tip)], "Of a later version\n")
    assert git.swap_ref(book.REF, later, ledger.tip)
    found = book.load()
    assert (found.refused, found.resolve("production")) == ([], served[1])
    last = found.last_entry()
    assert last and (last.number, last.release) == (4, served[1])


def test_a_commit_that_damages_a_file_is_not_followed(served: tuple[str, str]) -> None:
    before = book.load()
    tip = str(before.tip)
    tree = git.tree_with(tip, {"channels/production.json": b"{"})
    assert git.swap_ref(book.REF, git.commit_tree(tree, [tip], "Damaged\n"), tip)
    found = book.load()
    assert found.channels() == before.channels()
    (warning,) = found.warnings()
    assert "it holds no readable entry. production stays with" in warning


def test_every_ledger_begins_with_the_same_commit_whoever_makes_it(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = book.first_commit()
    with_own_settings(new_repository(tmp_path / "elsewhere"), monkeypatch)
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Somebody Else")
    git.git("config", "i18n.commitEncoding", "ISO-8859-1")
    assert book.first_commit() == one


def test_nothing_beside_the_ledger_is_touched(repository: Path) -> None:
    (repository / "README.md").write_text("uncommitted", encoding="utf-8")
    (repository / "new file").write_text("new", encoding="utf-8")
    git.git("add", "new file")

    def state() -> tuple[Any, ...]:
        git_files = {name: (repository / ".git" / name).read_bytes() for name in ("index", "HEAD")}
        return git_files, git.resolve("HEAD"), (repository / "README.md").read_bytes()

    before = state()
    made = release("content")
    ledgers.promote(book.load(), made, "staging")
    assert state() == before
    assert git.changed() == ("README.md", "new file", str(replay.CACHE))


def test_a_release_keeps_its_commit_when_no_branch_does(repository: Path) -> None:
    made = ledgers.record("content")
    ledgers.release(book.load(), made)
    git.git("reflog", "expire", "--expire=now", "--all")
    git.git("gc", "--quiet", "--prune=now")
    assert git.resolve(made.commit) == made.commit


@pytest.mark.parametrize("where", ["a folder ü", "folder/of a larger/one ø"])
def test_wherever_the_project_lies(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top = new_repository(tmp_path / "tøp of all")
    folder = top / where
    folder.mkdir(parents=True)
    (folder / "file").touch()
    commit_all(top, "Second")
    with_own_settings(folder, monkeypatch)
    made = release("content")
    before = ledgers.promote(book.load(), made, "staging")
    ledger = ledgers.rollback(before, "staging", None)
    assert book.load() == ledger
    assert set(ledger.files) == {
        book.ENTRY,
        "channels/staging.json",
        f"quarantine/{made}.json",
        f"releases/{made}.json",
    }
    assert verify_ledger(ledger).problems == []
    with pytest.raises(MovedError, match=f"has changed {made} at"):
        ledgers.promote(before, made, "canary")


def test_without_an_identity_the_account_is_written_down(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git.git("config", "user.useConfigOnly", "true")
    for name in ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL", "EMAIL"):
        monkeypatch.delenv(name, raising=False)
    made = release("content")
    assert book.load().releases == [made]
    assert verify_ledger(book.load()).problems == []


# With a git remote


@pytest.fixture
def clones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Two clones of one remote; the test stands in the first."""
    folders = tmp_path / "one", tmp_path / "two"
    new_repository(folders[0])
    with_own_settings(folders[0], monkeypatch)
    git.git("clone", "--quiet", "--bare", ".", "../the remote.git")
    git.git("remote", "add", "origin", str(tmp_path / "the remote.git"))
    git.git("clone", "--quiet", "../the remote.git", str(folders[1]))
    return folders


def at_remote() -> str | None:
    said = git.git("ls-remote", "origin", book.REF).split()
    return said[0] if said else None


def test_the_remote_has_it_first_and_a_clone_sees_it_after_a_fetch(
    clones: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = release("content")
    here = book.load()
    assert at_remote() == here.tip
    monkeypatch.chdir(clones[1])
    assert book.load().tip is None
    assert book.fetch()
    assert book.load() == here
    there = ledgers.promote(book.load(), made, "staging")
    assert at_remote() == there.tip
    monkeypatch.chdir(clones[0])
    assert book.load() == here
    book.fetch()
    assert book.load() == there


def test_no_push_no_entry(clones: tuple[Path, Path], tmp_path: Path) -> None:
    made = release("content")
    before = book.load()
    (tmp_path / "the remote.git").rename(tmp_path / "away")
    with pytest.raises(UserError, match="the ledger at origin cannot be written, and nothing was changed"):
        ledgers.promote(before, made, "staging")
    assert book.load() == before
    with pytest.raises(book.UnreachableError, match="cannot be reached"):
        book.fetch()


def test_a_remote_that_refuses_is_not_a_lost_race(clones: tuple[Path, Path], tmp_path: Path) -> None:
    hook = tmp_path / "the remote.git/hooks/pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho the branch is protected\nexit 1\n", encoding="utf-8")
    hook.chmod(0o755)
    with pytest.raises(UserError, match=r"nothing was changed.*the branch is protected"):
        release("content")
    assert book.load().tip is None


def test_an_operation_without_the_network_reaches_the_remote_later(clones: tuple[Path, Path], tmp_path: Path) -> None:
    made = release("content")
    ledgers.promote(book.load(), made, "staging")
    (tmp_path / "the remote.git").rename(tmp_path / "away")
    after = ledgers.rollback(book.load(), "staging", None, offline=True)
    (tmp_path / "away").rename(tmp_path / "the remote.git")
    assert at_remote() != after.tip
    book.fetch()
    assert at_remote() == after.tip == book.load().tip


def test_the_late_one_of_two_clones_is_told_who_was_first(
    clones: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = release("content"), release("other content")
    here = book.load()
    monkeypatch.chdir(clones[1])
    book.fetch()
    first = ledgers.promote(book.load(), ids[0], "staging", "Bob <bob@example.org>")
    monkeypatch.chdir(clones[0])
    with pytest.raises(MovedError, match=r"staging was moved by Bob <bob@example\.org>"):
        ledgers.promote(here, ids[1], "staging")
    assert at_remote() == first.tip == book.load().tip
    # What does not touch the same goes on top of it.
    both = ledgers.promote(here, ids[1], "canary")
    assert {name: each.release for name, each in both.channels().items()} == {"staging": ids[0], "canary": ids[1]}
    assert at_remote() == both.tip


def gone_on_apart(clones: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """The first clone has rolled back without the network, and the second has promoted; returns both tips."""
    ids = release("content"), release("other content")
    ledgers.promote(book.load(), ids[0], "staging")
    monkeypatch.chdir(clones[1])
    book.fetch()
    theirs = ledgers.promote(book.load(), ids[1], "canary")
    monkeypatch.chdir(clones[0])
    (tmp_path / "the remote.git").rename(tmp_path / "away")
    ours = ledgers.rollback(book.load(), "staging", None, offline=True)
    (tmp_path / "away").rename(tmp_path / "the remote.git")
    return str(ours.tip), str(theirs.tip)


def test_clones_that_went_on_apart_say_so_and_nothing_is_lost(
    clones: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = gone_on_apart(clones, tmp_path, monkeypatch)
    with pytest.raises(ApartError, match="`doctor`"):
        book.fetch()
    assert (book.load().tip, at_remote()) == (ours, theirs)
    only_here = book.follow_remote()
    assert [(entry.kind, entry.channel) for entry in only_here] == [("rollback", "staging")]
    assert book.load().tip == theirs
    assert git.resolve(f"refs/lifecycle/apart/{ours[:12]}") == ours


@pytest.mark.parametrize("before", ["nothing", "git fetch"])
def test_a_remote_whose_ledger_was_rewritten_is_noticed(
    clones: tuple[Path, Path], before: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after a plain `git fetch`, which follows a rewritten branch without a word."""
    made = release("content")
    seen = ledgers.promote(book.load(), made, "staging")
    monkeypatch.chdir(clones[1])
    git.git("fetch", "--quiet")
    git.git("push", "--quiet", "--force", "origin", f"refs/remotes/origin/{book.BRANCH}~1:{book.REF}")
    book.fetch()
    ledgers.promote(book.load(), made, "production", "Mallory <mallory@example.org>")
    monkeypatch.chdir(clones[0])
    if before == "git fetch":
        git.git("fetch", "--quiet")
    with pytest.raises(UserError, match="the ledger at origin was rewritten since this clone last saw it") as refusal:
        book.fetch()
    assert not isinstance(refusal.value, ApartError), "which `doctor` would follow"
    assert book.load() == seen
    subprocess.run(shlex.split(str(refusal.value).split("`")[1]), check=True, capture_output=True)
    book.fetch()
    assert at_remote() == seen.tip


def test_an_operation_in_this_clone_at_the_moment_of_a_push_is_not_overwritten(clones: tuple[Path, Path]) -> None:
    made = release("content")
    before = ledgers.promote(book.load(), made, "staging")
    pushed = Entry(kind="approve", release=made, by=ledgers.BY, at=ledgers.AT)
    unpushed = git.commit_tree(git.tree_with(before.tip, {}), [str(before.tip)], "Without the network\n")
    hook = Path(".git/hooks/pre-push")
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ngit update-ref {book.REF} {unpushed}\n", encoding="utf-8")
    hook.chmod(0o755)
    with pytest.raises(ApartError, match="`doctor`"):
        before.append(pushed, lambda _: {f"approvals/{made}/a.json": b"{}\n"})
    assert git.resolve(book.REF) == unpushed
