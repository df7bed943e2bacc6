"""The ledger: a git branch that records what is released and what each channel serves.

It is never checked out. An operation is one commit. It takes effect when a single compare-and-swap moves the branch:
a push if there is a git remote, otherwise `git update-ref`. Nothing is ever rewritten; a rollback is an entry like any
other.

    entry.json               the operation of this commit, numbered, naming the commit before it
    releases/<id>.json       a release record; the release's commit is also a parent of the ledger's, so git keeps it
    approvals/<id>/*.json    who approved it
    channels/<name>.json     what a channel serves
    quarantine/<id>.json     why automation must not promote a release
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import TypeVar

from pydantic import ValidationError

from ..errors import UserError
from . import git, policy, replay
from .entries import CHANNELS as CHANNELS
from .entries import ENTRY as ENTRY
from .entries import Channel as Channel
from .entries import ChannelName as ChannelName
from .entries import Entry as Entry
from .entries import Kind as Kind
from .entries import Quarantine as Quarantine
from .entries import Stored as Stored
from .entries import later
from .entries import now as now
from .record import Release, read_release
from .replay import Judged

BRANCH = "lifecycle/ledger"
REF = f"refs/heads/{BRANCH}"
# The last ledger commit seen by this clone. A ledger that does not descend from it was rewritten.
SEEN = "refs/lifecycle/seen"
# The remote's ledger as this clone last saw it. Not under refs/remotes/: there `git pull` follows a rewritten one.
FAR = "refs/lifecycle/{remote}/ledger"
# Give up after this many lost races in a row: something else is wrong.
ATTEMPTS = 20
# git's messages if it cannot reach a remote at all: over ssh or a folder, git:// and http.
NEVER_SENT = ("Could not read from remote repository", "unable to connect", "unable to look up", "unable to access")

T = TypeVar("T", bound=Stored)


class MovedError(UserError):
    """Another operation came first. Nothing has changed."""


class UnreachableError(UserError):
    """The git remote that shares the ledger does not answer, or rejects the push."""


class ApartError(UserError):
    """The clone and the remote each have an operation that the other lacks."""


@dataclass(frozen=True)
class Ledger(Judged):
    """The ledger at one commit: the combined effect of its allowed entries. The others are in `refused`."""

    @property
    def releases(self) -> list[str]:
        """Return the ids of all releases, sorted."""
        return sorted(_stem(path) for path in self.files if path.startswith("releases/"))

    def channel(self, name: ChannelName) -> Channel | None:
        """Return what a channel serves, or None if nothing was ever promoted to it."""
        return self._parse(Channel, f"channels/{name}.json")

    def channels(self) -> dict[ChannelName, Channel]:
        """Return every channel that was ever promoted to."""
        return {name: channel for name in CHANNELS if (channel := self.channel(name))}

    def quarantine(self, release_id: str) -> Quarantine | None:
        """Return why a release is in quarantine, or None if it is not."""
        return self._parse(Quarantine, f"quarantine/{release_id}.json")

    def held(self, name: ChannelName) -> Entry | None:
        """Return the hold that stops automation from promoting to a channel, unless a person has lifted it since."""
        return _parse(Entry, git.read(self.holds[name])[0], ENTRY) if name in self.holds else None

    def now(self) -> str:
        """Return the current time, or the time of the last entry if this machine's clock is behind it."""
        return later(now(), self.at)

    def warnings(self) -> list[str]:
        """Return what a person must know first: refused entries, and a wrong clock."""
        found = [self._not_followed(each) for each in self._unsettled()]
        if self.at and (clock := now()) != self.now():
            found.append(
                f"the clock of this machine says {clock}, and the last entry of the ledger is of {self.at}: "
                "an entry made now gets that time. Set the clock"
            )
        return found

    def warning(self, name: ChannelName) -> str:
        """Return why a channel does not serve what the last commit about it says, or an empty string if it does."""
        return next((self._not_followed(each) for each in self._unsettled() if each.channel == name), "")

    def _unsettled(self) -> list[replay.Refused]:
        """Return the refused entries with no allowed operation since (of the same channel, if they are about one)."""
        found = []
        for each in self.refused:
            last = self.channel(each.channel) if each.channel else self.last_entry()
            since = last.entry if isinstance(last, Channel) else last.number if last else 0
            if since <= each.number:
                found.append(each)
        return found

    def _not_followed(self, refused: replay.Refused) -> str:
        stays = ""
        if name := refused.channel:
            channel = self.channel(name)
            release = channel.release if channel else None
            stays = f" {name} stays with {release or 'nothing'}, until the next `promote` or `rollback`."
        return f"{refused.what} is not allowed and not followed: {refused.why[0]}.{stays} See `verify --all`"

    def approvals(self, release_id: str) -> dict[str, bytes]:
        """Return the files of a release's approvals: path -> content."""
        return self._approvals.get(release_id, {})

    @cached_property
    def _approvals(self) -> dict[str, dict[str, bytes]]:
        """Approvals of all releases, read with one call of git."""
        paths = sorted(path for path in self.files if path.startswith("approvals/"))
        found: dict[str, dict[str, bytes]] = {}
        for path, content in zip(paths, git.read(*(self.files[path] for path in paths)), strict=True):
            if content is not None:
                found.setdefault(path.split("/")[1], {})[path] = content
        return found

    def release(self, what: str) -> Release:
        """Return the release for an id, the start of an id, or the name of a channel.

        Raises:
            UserError: there is none, or more than one; the message names the closest.
        """
        return self.read_releases([self.resolve(what)])[0]

    def resolve(self, what: str) -> str:
        """Return the full id. Takes and raises the same as `release`."""
        if what in ("staging", "canary", "production"):
            channel = self.channel(what)  # type: ignore[arg-type]
            if channel is None or channel.release is None:
                raise UserError(f"{what} serves nothing yet: `promote RELEASE --to {what}`")
            return channel.release
        known = self.releases
        start = what if what.startswith("r-") else f"r-{what}"
        found = [release_id for release_id in known if release_id.startswith(start)] if len(start) > 2 else []
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(f"{what} is ambiguous: it may be {', '.join(found[:5])}")
        nearest = get_close_matches(start, known, 1, 0) or ["none yet: `release` makes one"]
        raise UserError(f"there is no release {what}; the nearest is {nearest[0]} (`history` lists all)")

    def read_releases(self, ids: Iterable[str]) -> list[Release]:
        """Read the records of these ids. Each is checked against its id."""
        ids = list(ids)
        contents = git.read(*(self.files[f"releases/{release_id}.json"] for release_id in ids))
        return [read_release(content or b"", release_id) for release_id, content in zip(ids, contents, strict=True)]

    def entries(self) -> list[tuple[str, Entry]]:
        """Return every allowed operation with its commit, oldest first.

        The order of commits decides, not the clocks: an entry dated before its predecessor gets the predecessor's time.
        """
        if self.tip is None:
            return []
        refused = {each.commit for each in self.refused}
        order = git.git("rev-list", "--first-parent", "--reverse", self.tip).split()[1:]
        commits = [commit for commit in order if commit not in refused]
        contents = git.read(*(f"{commit}:{ENTRY}" for commit in commits))
        found, at = [], ""
        for commit, content in zip(commits, contents, strict=True):
            entry = _parse(Entry, content, ENTRY)
            at = later(entry.at, at)
            found.append((commit, entry if at == entry.at else entry.model_copy(update={"at": at})))
        return found

    def last_entry(self) -> Entry | None:
        """Return the last allowed operation."""
        return self._parse(Entry, ENTRY)

    def _parse(self, kind: type[T], path: str) -> T | None:
        if path not in self.files:
            return None
        return _parse(kind, git.read(self.files[path])[0], path)

    def append(
        self,
        entry: Entry,
        files: Callable[[Entry], dict[str, bytes | None]],
        guards: Iterable[str] = (),
        parent: str | None = None,
        offline: bool = False,
    ) -> "Ledger":
        """Write one operation if it is allowed and nothing it depends on has changed since this ledger was read.

        Args:
            entry: the operation; its number, parent and time are filled in. Its time is never before the last entry's.
            files: returns the changed ledger files for the numbered entry; None removes a file.
            guards: other files that must be unchanged.
            parent: a commit to keep with it, such as a release's.
            offline: continue if there is a git remote that cannot be reached.

        Returns: the new ledger.

        Raises:
            UserError: the operation is not allowed; nothing has changed.
            MovedError: another operation came first; nothing has changed.
        """
        rules = policy.rules_of(entry)
        now = self
        for _ in range(ATTEMPTS):
            tip = now.tip or first_commit()
            place = {"number": now.number + 1, "after": tip, "at": later(entry.at, now.at)}
            numbered = entry.model_copy(update=place)
            changes = files(numbered)
            for path in (*changes, *guards):
                if now.files.get(path) != self.files.get(path):
                    raise MovedError(_who_moved(now, path))
            if problem := policy.why_not(replay.before(now, numbered, rules), numbered, rules):
                raise UserError(problem)
            # If the previous entry is not allowed, restore the files from before it.
            kept, base = (now.files, None) if now.refused else ({}, now.tip)
            tree = git.tree_with(base, {**kept, **changes, ENTRY: numbered.to_bytes()})
            parents = [tip, parent] if parent else [tip]
            commit = git.commit_tree(tree, parents, _message(numbered))
            if _publish(commit, now.tip, offline):
                return load()
            now = load()
        raise MovedError("the ledger is being written to all the time: try again in a minute")


def first_commit() -> str:
    """Return the commit that every ledger starts with. It is empty and identical everywhere."""
    nobody = {f"GIT_{role}_{what}": "ledger" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    dates = dict.fromkeys(("GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"), "2000-01-01T00:00:00Z")
    return git.commit_tree(git.tree_with(None, {}), [], "The ledger\n", nobody | dates)


def _stem(path: str) -> str:
    return path.rsplit("/", 1)[-1].removesuffix(".json")


def _parse(kind: type[T], content: bytes | None, path: str) -> T:
    try:
        return kind.model_validate_json(content or b"")
    except ValidationError:
        raise UserError(f"{path} in the ledger is not readable: `verify --all` says since when") from None


def _who_moved(now: Ledger, path: str) -> str:
    """Describe who changed a ledger file, and when."""
    if path.startswith("channels/"):
        name = _stem(path)
        channel = now.channel(name)  # type: ignore[arg-type]
        assert channel is not None
        return (
            f"{name} was moved by {channel.by} at {channel.at}: it serves {channel.release or 'nothing'} now "
            f"(generation {channel.generation}, {channel.operation}). Nothing was changed; look at `history {name}`"
        )
    # The last entry may be a later one that changed something else.
    commit = git.git("rev-list", "--first-parent", "--max-count=1", now.tip or "", "--", f":/{path}").strip()
    entry = _parse(Entry, git.read(f"{commit}:{ENTRY}")[0], ENTRY)
    what = path.split("/")[1].removesuffix(".json")
    return f"{entry.by} has changed {what} at {entry.at} ({entry.kind}). Nothing was changed; try again"


def _message(entry: Entry) -> str:
    where = f" on {entry.channel}, generation {entry.generation}" if entry.channel else ""
    return f"{entry.number}: {entry.kind} {entry.release or 'nothing'}{where}\n\n{entry.reason}".strip() + "\n"


def _publish(commit: str, tip: str | None, offline: bool) -> bool:
    """The commit point. Return True if the ledger is at or past `commit`, False if another operation came first."""
    remote = git.remote()
    if remote:
        try:
            if _send(commit, remote, attempts=1 if offline else 2):
                git.git("update-ref", FAR.format(remote=remote), commit)
                _follow(commit, remote)
                return True
            fetch()
            # An earlier attempt may have succeeded, and another operation may have followed it.
            return git.is_ancestor(commit, REF)
        except UnreachableError:
            if not offline:
                raise
    return git.swap_ref(REF, commit, tip)


def _send(commit: str, remote: str, attempts: int = 2) -> bool:
    """Push the ledger. Return True if the remote is at `commit`, False if it has moved on.

    A push may have arrived although its reply was lost. Pushing again then changes nothing and confirms it.

    Raises:
        UnreachableError: the remote rejected the push, or did not confirm it.
    """
    lost = ""
    for _ in range(attempts):
        try:
            git.git("push", "--quiet", remote, f"{commit}:{REF}")
            return True
        except git.GitError as error:
            said = str(error)
        if _is_lost_race(said):
            return False
        if "[remote rejected]" in said or (not lost and any(sign in said for sign in NEVER_SENT)):
            raise UnreachableError(f"the ledger at {remote} cannot be written, and nothing was changed: {said}")
        lost = lost or said
    raise UnreachableError(
        f"the connection to {remote} was lost, and whether the entry is in the ledger there is not known. Type the "
        f"same command again when {remote} answers: what it has taken is not done twice ({lost})"
    )


def _is_lost_race(said: str) -> bool:
    signs = ("non-fast-forward", "fetch first", "cannot lock ref", "failed to update ref", "stale info", "[rejected]")
    return any(sign in said for sign in signs)


def _follow(commit: str, remote: str) -> None:
    """Fast-forward the local branch to a commit that the remote has."""
    for _ in range(ATTEMPTS):
        here = git.resolve(REF)
        if here and git.is_ancestor(commit, here):
            return
        if here and not git.is_ancestor(here, commit):
            raise ApartError(_apart(remote))  # an offline operation happened at this very moment
        if git.swap_ref(REF, commit, here):
            return
    raise UserError(f"the branch {BRANCH} could not be moved to {commit[:12]}: `doctor` will")


def load() -> Ledger:
    """Load the ledger from this clone, without the network.

    Raises:
        UserError: it does not descend from what this clone has seen before: it was rewritten or deleted.
    """
    # Read in this order: another process may move both refs in between.
    seen = git.resolve(SEEN)
    tip = git.resolve(REF) or (_cloned() if seen is None else None)
    if tip != seen:
        if seen and (tip is None or not git.is_ancestor(seen, tip)):
            state = "is gone" if tip is None else f"was rewritten: it is at {tip[:12]}, which does not go on from there"
            raise UserError(
                f"this clone has seen the ledger at {seen[:12]}, and the branch {BRANCH} {state}. "
                f"Find out who did that; `git update-ref {REF} {seen[:12]}` puts back what was seen"
            )
        if tip:
            git.swap_ref(SEEN, tip, seen)  # another process may already have updated it
    return Ledger(**vars(replay.judged(tip))) if tip else Ledger(None)


def _cloned() -> str | None:
    """In a new clone, create the local ledger from the remote's branch."""
    far = git.resolve(f"refs/remotes/{git.remote()}/{BRANCH}")
    return far if far and git.swap_ref(REF, far, None) else git.resolve(REF)


def fetch() -> bool:
    """Fetch the remote's ledger and push operations that only this clone has. Return False if there is no remote.

    Raises:
        UserError: the remote cannot be reached, its ledger was rewritten, or the two have diverged.
    """
    remote = git.remote()
    if remote is None:
        return False
    far_ref = FAR.format(remote=remote)
    try:
        # A pattern, so that a remote without a ledger is no error; no `+`, so that a rewritten one is.
        refspec = f"{REF.removesuffix('ledger')}*:{far_ref.removesuffix('ledger')}*"
        git.git("fetch", "--no-tags", remote, refspec)  # not --quiet: git would not report rejected refs
    except git.GitError as error:
        if "[rejected]" in str(error) or "non-fast-forward" in str(error):
            raise UserError(
                f"the ledger at {remote} was rewritten since this clone last saw it. Find out who did that; "
                f"`git push --force {remote} {BRANCH}` puts back what this clone has: {error}"
            ) from None
        raise UnreachableError(f"the ledger at {remote} cannot be reached: {error}") from None
    far, here = git.resolve(far_ref), git.resolve(REF)
    if far and here != far and (here is None or git.is_ancestor(here, far)):
        _follow(far, remote)
    elif here and here != far and (far is None or git.is_ancestor(far, here)):
        if not _send(here, remote):
            raise UnreachableError(f"the ledger at {remote} has moved this very moment: try again")
        git.git("update-ref", far_ref, here)
    elif far and here and here != far:
        raise ApartError(_apart(remote))
    return True


def _apart(remote: str) -> str:
    return (
        f"the ledger here and the one at {remote} have diverged, most likely by a rollback without a network: "
        f"`doctor` makes this one follow {remote}, and does the rollback again if it still applies"
    )


def follow_remote() -> list[Entry]:
    """Make a diverged ledger follow the remote's. Return the operations that only this clone had.

    They stay available under refs/lifecycle/apart/.
    """
    far = git.resolve(FAR.format(remote=git.remote()))
    here = load()
    assert far is not None and here.tip is not None
    common = git.git("merge-base", far, here.tip).strip()
    ours = git.git("rev-list", "--first-parent", f"{common}..{here.tip}").split()
    git.git("update-ref", f"refs/lifecycle/apart/{here.tip[:12]}", here.tip)
    git.git("update-ref", SEEN, far)
    git.swap_ref(REF, far, here.tip)
    return [entry for commit, entry in here.entries() if commit in ours]
