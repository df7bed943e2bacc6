"""`verify`: hash a release's files again, and replay the ledger."""

from collections.abc import Iterator
from dataclasses import dataclass, fields

from . import approving, git, loading, replay, worktree
from . import ledger as book
from .ledger import Ledger
from .pipeline import outputs
from .record import Release
from .release import TAG
from .store import Store


@dataclass(frozen=True)
class Verified:
    """The outcome of a verification. `problems` and `notes` are in words."""

    what: str
    bytes: int
    problems: list[str]
    notes: list[str]


def verify_release(release: Release, ledger: Ledger, store: Store, remote: bool = False) -> Verified:
    """Hash every output of a release in DVC's cache or, with `remote`, in the remote.

    Files missing from the cache are looked up and hashed in the remote. The record was checked against its digest when
    it was read. Also checks the source commit, its tag, the release's folder on this machine, and approvals.
    """
    problems: list[str] = []
    notes: list[str] = []
    outputs = release.outputs()
    if remote:
        problems += [str(problem) for problem in store.check(outputs, where="remote")]
    for output in outputs:
        # Without its listing, a folder's files are unknown.
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
        problems.append(f"{folder}/{wrong[0]} is altered: `doctor` makes it again")
    problems += [f"approval of {c.approval.by}: {c.problem}" for c in approving.count(ledger, release) if c.problem]
    return Verified(release.id, sum(output.size for output in outputs), problems, notes)


def verify_work_tree(store: Store) -> Verified:
    """Hash work tree files that dvc.lock names. A missing file is not a problem: DVC or the pipeline restores it."""
    here = worktree.look(store)
    problems = [str(each) for each in here.differences if each.what != "missing"]
    missing = [str(each) for each in here.differences if each.what == "missing"]
    if not missing:  # otherwise everything that depends on them is stale
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
    """Replay the ledger: every entry is numbered, names the commit before it, changes what it says, and was allowed."""
    if ledger.tip is None:
        return Verified("ledger", 0, [], [])
    problems: list[str] = []
    found, _ = replay.replay(ledger.tip)
    problems += [f"{each.what}: {why}" for each in found.refused for why in each.why]
    start = git.git("rev-list", "--first-parent", ledger.tip).split()[-1]
    if start != book.first_commit():
        problems.insert(0, f"it does not begin as a ledger does: {start[:12]}")
    there = git.tree_files(ledger.tip)
    last_is_refused = bool(found.refused) and found.refused[-1].commit == found.tip
    if not last_is_refused and found.files != there:
        problems.append("the state in the ledger does not match its entries")
    if vars(found) != {each.name: getattr(ledger, each.name) for each in fields(found)}:
        problems.append(f"{replay.CACHE} does not match the ledger: delete it")
    size = sum(len(each or b"") for each in git.read(*there.values()))
    return Verified("ledger", size, problems, [])
