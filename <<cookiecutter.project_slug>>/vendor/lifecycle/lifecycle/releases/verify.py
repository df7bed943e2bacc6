"""`verify`: hash again what a release needs, and replay the ledger."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import UserError
from . import approvals, git, loading, worktree
from . import ledger as book
from .ledger import Channel, Entry, Ledger
from .pipeline import outputs
from .record import Release
from .release import TAG
from .store import Store


@dataclass(frozen=True)
class Verified:
    """What was looked at: `problems` in words, `fetchable` of them where the remote has what the cache lacks."""

    what: str
    bytes: int
    problems: list[str]
    notes: list[str]


def verify_release(release: Release, ledger: Ledger, store: Store, remote: bool = False) -> Verified:
    """Hash every output of a release in DVC's cache, or, with `remote`, in the remote.

    What the cache does not have is looked for in the remote, and hashed there. The record was held against its digest
    when it was read. Also looked at: the source commit, its tag, the release's folder on this machine, approvals.
    """
    problems: list[str] = []
    notes: list[str] = []
    outputs = release.outputs()
    if remote:
        problems += [str(problem) for problem in store.check(outputs, where="remote")]
    for output in outputs:
        # Without its listing, nobody can say which files a folder holds.
        listed = output.md5.endswith(".dir") and not store.object_path(output.md5).exists()
        if listed and not store.fetch_listing(output):
            notes.append(f"the listing of {output.path} was not in the cache; it is again, from the remote")
    for problem in store.check(outputs):
        far = store.check_one(problem.md5) if problem.what == "missing" else problem.what
        if problem.what == "missing" and far is None:
            notes.append(f"{problem.path} is not in the cache; the remote has it, whole")
        else:
            problems.append(f"{problem}" + (f", and {far} in the remote" if problem.what == "missing" else ""))
    problems += _source_problems(release)
    folder = loading.RELEASES / release.id
    if folder.exists() and (wrong := loading.wrong_files(release, folder)):
        problems.append(f"{folder}/{wrong[0]} is altered: `doctor` makes it anew")
    problems += [f"approval of {c.approval.by}: {c.problem}" for c in approvals.count(ledger, release) if c.problem]
    return Verified(release.id, sum(output.size for output in outputs), problems, notes)


def verify_work_tree(store: Store) -> Verified:
    """Hash what dvc.lock names of the work tree. What is not here is no problem: DVC or the pipeline brings it."""
    here = worktree.look(store)
    problems = [str(each) for each in here.differences if each.what != "missing"]
    missing = [str(each) for each in here.differences if each.what == "missing"]
    if not missing:  # else everything is stale that should come of it
        problems += [
            f"stage {each.stage} is stale: {', '.join(each.reasons)}" for each in here.stages if not each.fresh
        ]
    return Verified("work tree", sum(out["size"] for out in outputs()), problems, missing)


def _source_problems(release: Release) -> Iterator[str]:
    if git.resolve(release.commit) is None:
        yield f"its source commit {release.commit[:12]} is gone from this repository: `git fetch --tags` may bring it"
    elif git.project_tree(release.commit) != release.materials["git"]["tree"]:
        yield f"its source commit {release.commit[:12]} has another tree than the record says"
    elif git.resolve(TAG + release.id) != release.commit:
        yield f"the tag release/{release.id} is not at its source commit: `doctor` puts it there"


def verify_ledger(ledger: Ledger) -> Verified:
    """Replay the ledger: every entry is numbered, names the commit before it, and changes what it says it does."""
    problems: list[str] = []
    before: dict[str, str] = {}
    channels: dict[str, Channel] = {}
    start, *steps = _steps(ledger) or [Step(book.first_commit(), [], {}, set())]
    if start.commit != book.first_commit():
        problems.append(f"it does not begin as a ledger does: {start.commit[:12]}")
    last = (start.commit, 0)
    size = 0
    for step in steps:
        content = git.read(*step.files.values())
        size += sum(len(each or b"") for each in content)
        found = dict(zip(step.files, content, strict=True))
        where = f"ledger commit {step.commit[:12]}"
        try:
            entry = Entry.model_validate_json(found.get(book.ENTRY) or b"")
        except ValueError:
            problems.append(f"{where} holds no readable entry")
            continue
        where = f"entry {entry.number} ({entry.kind}, {entry.at}, {entry.by})"
        if (entry.after, entry.number) != (last[0], last[1] + 1):
            problems.append(f"{where} follows on {last[1]} and was not written there: the history was rewritten")
        problems += [f"{where}: {problem}" for problem in _undeclared(entry, step, before)]
        problems += [f"{where}: {problem}" for problem in _wrong_channel(entry, found, channels)]
        problems += [f"{where}: {problem}" for problem in _wrong_release(entry, step, found)]
        before = {path: blob for path, blob in {**before, **step.files}.items() if path not in step.gone}
        last = (step.commit, entry.number)
    if before != ledger.files:
        problems.append("the ledger does not hold what its entries add up to")
    return Verified("ledger", size, problems, [])


@dataclass(frozen=True)
class Step:
    """A ledger commit: what it wrote (path -> blob) and what it took out."""

    commit: str
    parents: list[str]
    files: dict[str, str]
    gone: set[str]


def _steps(ledger: Ledger) -> list[Step]:
    if ledger.tip is None:
        return []
    found = []
    options = ["--first-parent", "--reverse", "-m", "--raw", "--no-abbrev", "--no-renames", "--root"]
    log = git.git("log", *options, "--format=%x00%H %P", ledger.tip)
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


def _undeclared(entry: Entry, step: Step, before: dict[str, str]) -> Iterator[str]:
    """Files that an entry of this kind does not write, and records that were written twice."""
    may_write = {
        "release": (f"releases/{entry.release}.json",),
        "approve": (f"approvals/{entry.release}/",),
        "promote": (f"channels/{entry.channel}.json",),
        "hold": (),
        "retrain": (),
        "rollback": (f"channels/{entry.channel}.json", f"quarantine/{entry.evidence.get('quarantined')}.json"),
    }[entry.kind]
    # A person, with a reason: automation may not.
    lifts = entry.kind == "promote" and not entry.automation and entry.reason.strip()
    may_remove = (f"quarantine/{entry.release}.json",) if lifts else ()
    for path in step.files:
        if path != book.ENTRY and not path.startswith(may_write):
            yield f"it changes {path}, which is not what `{entry.kind}` does"
        elif path.startswith("releases/") and path in before:
            yield f"it changes {path}, and a release does not change"
    for path in step.gone:
        if path not in may_remove:
            yield f"it removes {path}, which this `{entry.kind}` may not"


def _wrong_channel(entry: Entry, found: dict[str, Any], channels: dict[str, Channel]) -> Iterator[str]:
    if entry.kind not in ("promote", "rollback") or entry.channel is None:
        return
    try:
        now = Channel.model_validate_json(found.get(f"channels/{entry.channel}.json") or b"")
    except ValueError:
        yield f"what {entry.channel} serves is not readable"
        return
    old = channels.get(entry.channel)
    expected = (entry.release, (old.generation if old else 0) + 1, old.release if old else None, entry.number)
    if (now.release, now.generation, now.previous, now.entry) != expected or entry.generation != now.generation:
        says = f"{entry.channel} says {now.release}, generation {now.generation}"
        yield f"{says}; the entries say {expected[0]}, generation {expected[1]}"
    told = (entry.kind, entry.by, entry.at, entry.reason, entry.evidence.get("traffic"))
    if (now.operation, now.by, now.at, now.reason, now.traffic) != told:
        yield f"{entry.channel} does not say who moved it, how and why as the entry does"
    channels[entry.channel] = now


def _wrong_release(entry: Entry, step: Step, found: dict[str, Any]) -> Iterator[str]:
    if entry.kind != "release":
        return
    from .record import read_release

    try:
        release = read_release(found.get(f"releases/{entry.release}.json") or b"", str(entry.release))
    except UserError as error:
        yield str(error)
        return
    if release.commit not in step.parents:
        yield f"its source commit {release.commit[:12]} is not one of its parents"
