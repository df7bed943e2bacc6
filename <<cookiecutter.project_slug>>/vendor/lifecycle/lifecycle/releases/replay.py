"""Replay the ledger: the combined effect of its entries. An entry that is not allowed has no effect.

An entry is allowed if it is numbered, names the commit before it, changes only what its kind may change, and policy.py
does not object. The result for a commit is cached in a file named by the commit, for the next command.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from ..errors import UserError
from ..files import write_json
from . import approvals, git, policy
from .entries import CHANNELS, ENTRY, Channel, ChannelName, Entry, Quarantine, Stored, later, moment
from .policy import Before, Rules
from .record import read_release

# A cache: safe to delete. `verify --all` ignores it and reports if it disagrees with the ledger.
CACHE = Path(".lifecycle/ledger.json")

Read = Callable[[str], bytes]
T = TypeVar("T", bound=Stored)


@dataclass(frozen=True)
class Refused:
    """A ledger commit that is not allowed. `number`: of its entry, or of the last entry before it."""

    commit: str
    number: int
    what: str
    channel: ChannelName | None
    why: list[str]


@dataclass(frozen=True)
class Judged:
    """The combined effect of the allowed entries up to a commit.

    Args:
        tip: the commit; None for an empty ledger.
        files: path -> blob.
        number: number of the last entry.
        at: the latest time of any entry.
        whole_rules: whether a promotion carries all the rules that it was judged by.
        served: the releases that each channel has served, in order.
        holds: the entry.json of the hold on each channel.
        refused: the entries that are not allowed.
    """

    tip: str | None
    files: dict[str, str] = field(default_factory=dict)
    number: int = 0
    at: str = ""
    whole_rules: bool = False
    served: dict[str, list[str]] = field(default_factory=dict)
    holds: dict[str, str] = field(default_factory=dict)
    refused: list[Refused] = field(default_factory=list)


def judged(tip: str) -> Judged:
    """Return the state of the ledger at a commit. Replays only what was not replayed before."""
    known = _cached()
    if known and known.tip == tip:
        return known
    found, certain = replay(tip, known)
    if certain:
        with suppress(OSError):  # the disk is full or read-only: the next command replays it again
            write_json(CACHE, {"rules": _rules_digest(), "judged": asdict(found)})
    return found


def _cached() -> Judged | None:
    try:
        kept = json.loads(CACHE.read_text(encoding="utf-8"))
        if kept["rules"] != _rules_digest():
            return None
        refused = [Refused(**each) for each in kept["judged"].pop("refused")]
        return Judged(**kept["judged"], refused=refused)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _rules_digest() -> str:
    """Return a digest of the code that judges: other code may decide differently."""
    return hashlib.sha256(b"".join(Path(file).read_bytes() for file in (__file__, policy.__file__))).hexdigest()


class UnknownError(UserError):
    """Raised if this clone lacks something needed to decide whether an entry is allowed."""


def read_blob(blob: str) -> bytes:
    """Return the content of a blob."""
    content = git.read(blob)[0]
    if content is None:
        raise UnknownError(f"this clone does not have {blob[:12]}, which it names: `git fetch` may bring it")
    return content


def before(judged: Judged, entry: Entry, rules: Rules | None, read: Read = read_blob) -> Before:
    """Return the state that a new entry on top of these depends on."""

    def stored(kind: type[T], path: str) -> T | None:
        return kind.model_validate_json(read(judged.files[path])) if path in judged.files else None

    name, release_id = entry.channel, entry.release
    production = stored(Channel, "channels/production.json")
    record = f"releases/{release_id}.json"
    release, given = None, []
    if entry.kind == "promote" and rules and record in judged.files:
        release = read_release(read(judged.files[record]), str(release_id))
        start = f"approvals/{release_id}/"
        if rules.approvals:
            files = {path: read(blob) for path, blob in sorted(judged.files.items()) if path.startswith(start)}
            given = approvals.held_against(files, release, read(rules.signers) if rules.signers else None)
    return Before(
        serving=production if name == "production" else stored(Channel, f"channels/{name}.json"),
        champion=production.release if production else None,
        served=judged.served,
        hold=Entry.model_validate_json(read(judged.holds[name])) if name in judged.holds else None,
        known=record in judged.files,
        quarantine=stored(Quarantine, f"quarantine/{release_id}.json"),
        release=release,
        approvals=given,
        whole_rules=judged.whole_rules,
    )


@dataclass(frozen=True)
class Step:
    """A ledger commit: the files it wrote (path -> blob) and the files it removed."""

    commit: str
    parents: list[str]
    files: dict[str, str]
    gone: set[str]


def replay(tip: str, known: Judged | None = None) -> tuple[Judged, bool]:
    """Return the state of the ledger at a commit, and whether this clone has everything needed to be certain.

    Args:
        tip: the commit.
        known: a state to start from, if it is for an ancestor of this commit.
    """
    steps = _since(known, tip)
    if known is None or not steps:
        first, *steps = _steps(tip)
        known = Judged(first.commit)
    blobs = sorted({blob for step in steps for blob in step.files.values()})
    contents = dict(zip(blobs, git.read(*blobs), strict=True))
    going = _Replay(known, lambda blob: contents.get(blob) or read_blob(blob))
    for step in steps:
        going.take(step)
    return going.judged, going.certain


def _since(known: Judged | None, tip: str) -> list[Step]:
    """Return the commits after the known one, or none if it is not an ancestor of the tip."""
    if known is None:
        return []
    try:
        steps = _steps(f"{known.tip}..{tip}")
    except git.GitError:  # this clone does not have it
        return []
    return steps if steps and steps[0].parents[:1] == [known.tip] else []


def _steps(commits: str) -> list[Step]:
    found = []
    options = ["--first-parent", "--reverse", "-m", "--raw", "--no-abbrev", "--no-renames", "--root"]
    log = git.git("log", *options, "--format=%x00%H %P", commits)
    for part in log.split("\0")[1:]:
        head, *lines = [line for line in part.splitlines() if line]
        commit, *parents = head.split()
        files, gone = {}, set()
        for line in lines:
            meta, path = line.split("\t", 1)
            blob, status = meta.split()[3], meta.split()[4]
            if status == "D":
                gone.add(path)
            else:
                files[path] = blob
        found.append(Step(commit, parents, files, gone))
    return found


class _Replay:
    """The state of a replay in progress."""

    def __init__(self, known: Judged, read: Read) -> None:
        self.certain = True
        self.judged = Judged(**deepcopy(vars(known)))
        self._read = read
        # The files of the branch, whether or not they count.
        self._there = git.tree_files(str(known.tip)) if known.refused else dict(known.files)

    def take(self, step: Step) -> None:
        """Judge one more commit and apply its effect."""
        self._there.update(step.files)
        for path in step.gone:
            del self._there[path]
        now = self.judged
        try:
            entry = Entry.model_validate_json(self._read(step.files[ENTRY]))
            moment(entry.at)
        except (KeyError, ValueError):
            what, channel = f"ledger commit {step.commit[:12]}", _channel_in(step)
            self._refuse(Refused(step.commit, now.number, what, channel, ["it holds no readable entry"]))
            return
        problems = []
        number = now.number + 1
        if (entry.after, entry.number) != (now.tip, number):
            problems.append(f"it follows on {now.number} and was not written there: the history was rewritten")
            number = now.number
        touched = self._touched(entry, step)
        rules = policy.rules_of(entry)
        try:
            problems += [why] if (why := policy.why_not(before(now, entry, rules, self._read), entry, rules)) else []
        except UnknownError as error:
            self.certain = False
            problems.append(str(error))
        except (UserError, ValueError, LookupError, TypeError, AttributeError) as error:  # not in any known format
            problems.append(f"its evidence cannot be read ({type(error).__name__})")
        problems += [*_undeclared(entry, touched, now.files), *self._contradicts(entry, step)]
        if problems:
            by = "".join(each if each.isprintable() else "?" for each in entry.by)
            what = f"entry {entry.number} ({entry.kind}, {entry.at}, {by})"
            self._refuse(Refused(step.commit, number, what, entry.channel or _channel_in(step), problems))
            return
        self._add(entry, touched | {ENTRY: step.files[ENTRY]})
        self.judged = replace(
            now,
            tip=step.commit,
            number=number,
            at=later(now.at, entry.at),
            whole_rules=now.whole_rules or bool(entry.kind == "promote" and rules and rules.are_whole),
        )

    def _add(self, entry: Entry, touched: dict[str, str | None]) -> None:
        files, served, holds = self.judged.files, self.judged.served, self.judged.holds
        for path, blob in touched.items():
            if blob:
                files[path] = blob
            else:
                del files[path]
        name = entry.channel
        if name and entry.kind in ("promote", "rollback") and entry.release:
            served[name] = [*(each for each in served.get(name, []) if each != entry.release), entry.release]
        if name and (entry.kind == "hold" or not entry.automation):
            holds.pop(name, None)
            if entry.kind == "hold" and not entry.evidence.get("ended"):
                holds[name] = files[ENTRY]

    def _refuse(self, refused: Refused) -> None:
        self.judged.refused.append(refused)
        self.judged = replace(self.judged, tip=refused.commit, number=refused.number)

    def _touched(self, entry: Entry, step: Step) -> dict[str, str | None]:
        """Return the files that differ from the accepted state, by this commit or because its entry is about them."""
        lifted = [f"quarantine/{entry.release}.json"] if entry.kind == "promote" else []
        own = {*step.files, *step.gone, *_writes(entry), *lifted} - {ENTRY}
        after = {path: self._there.get(path) for path in own}
        return {path: blob for path, blob in after.items() if blob != self.judged.files.get(path)}

    def _contradicts(self, entry: Entry, step: Step) -> Iterator[str]:
        """Yield contradictions between an entry and the files that it writes."""
        if entry.kind == "release":
            yield from self._wrong_release(entry, step)
        elif entry.kind in ("promote", "rollback"):
            yield from self._wrong_channel(entry)
            kept = f"quarantine/{entry.release}.json"
            if entry.kind == "promote" and kept in self._there and kept in self.judged.files:
                yield f"it leaves {entry.release} in quarantine"
            for path in _writes(entry):
                if path.startswith("quarantine/") and not self._holds(Quarantine, path):
                    yield f"it does not say why {path.split('/')[1].removesuffix('.json')} is in quarantine"

    def _holds(self, kind: type[T], path: str) -> T | None:
        try:
            return kind.model_validate_json(self._read(self._there[path]))
        except (KeyError, ValueError):
            return None

    def _wrong_channel(self, entry: Entry) -> Iterator[str]:
        now = self._holds(Channel, f"channels/{entry.channel}.json")
        if now is None:
            yield f"what {entry.channel} serves is not readable"
            return
        expected = (entry.release, entry.generation, entry.previous, entry.number)
        if (now.release, now.generation, now.previous, now.entry) != expected:
            says = f"{entry.channel} says {now.release}, generation {now.generation}"
            yield f"{says}; the entry says {entry.release}, generation {entry.generation}"
        told = (entry.kind, entry.by, entry.at, entry.reason, entry.evidence.get("traffic"))
        if (now.operation, now.by, now.at, now.reason, now.traffic) != told:
            yield f"{entry.channel} does not say who moved it, how and why as the entry does"

    def _wrong_release(self, entry: Entry, step: Step) -> Iterator[str]:
        blob = self._there.get(f"releases/{entry.release}.json")
        try:
            release = read_release(self._read(blob) if blob else b"", str(entry.release))
        except UserError as error:
            yield str(error)
            return
        if release.commit not in step.parents:
            yield f"its source commit {release.commit[:12]} is not one of its parents"


def _writes(entry: Entry) -> tuple[str, ...]:
    """Return the files that an entry of this kind writes. A name that ends in a slash is a folder."""
    channel = f"channels/{entry.channel}.json"
    found: dict[str, tuple[str, ...]] = {
        "release": (f"releases/{entry.release}.json",),
        "approve": (f"approvals/{entry.release}/",),
        "promote": (channel,),
        "rollback": (channel, f"quarantine/{entry.evidence.get('quarantined')}.json"),
    }
    return found.get(entry.kind, ())


def _undeclared(entry: Entry, touched: dict[str, str | None], files: dict[str, str]) -> Iterator[str]:
    """Yield files that an entry of this kind must not change, and records that were written twice."""
    # A person may, with a reason; automation may not.
    lifts = entry.kind == "promote" and not entry.automation and entry.reason.strip()
    may_remove = f"quarantine/{entry.release}.json" if lifts else ""
    for path, blob in sorted(touched.items()):
        if blob is None:
            if path != may_remove:
                yield f"it removes {path}, which this `{entry.kind}` may not"
        elif not path.startswith(_writes(entry)):
            yield f"it changes {path}, which is not what `{entry.kind}` does"
        elif path.startswith("releases/") and path in files:
            yield f"it changes {path}, and a release does not change"


def _channel_in(step: Step) -> ChannelName | None:
    """Return the channel whose file a commit changes, for a commit without an entry that names it."""
    return next((name for name in reversed(CHANNELS) if f"channels/{name}.json" in step.files), None)
