"""Bring everything derived from the ledger in step with it, after a crash or a manual change."""

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import UserError, one_line
from . import databases, git, loading, pointers, registry, restore, tracking, worktree
from . import ledger as book
from . import release as releases
from .ledger import Ledger
from .pipeline import LOCK_FILE
from .store import Output, Store

SCRATCH = Path(".lifecycle/scratch")
# Anything older than this is not work in progress.
ABANDONED_SECONDS = 24 * 3600


@dataclass(frozen=True)
class Opened:
    """The ledger, ready for use, and the repairs that took. `left`: what a person must do."""

    ledger: Ledger
    store: Store
    done: list[str]
    left: list[str] = field(default_factory=list)


def open_ledger(network: bool = False, offline: bool = False) -> Opened:
    """Open the ledger; every command starts here. Costs a few calls of git if nothing is wrong.

    Args:
        network: fetch the git remote's ledger first, if there is a remote. Needed for decisions based on the ledger.
        offline: continue if the network does not answer.

    Raises:
        UserError: the ledger was rewritten, or the network is needed and does not answer.
    """
    done: list[str] = []
    if network:
        try:
            book.fetch()
        except book.UnreachableError as error:
            if not offline:
                raise UserError(f"{error}. Nothing was changed here") from None
            done.append(f"continuing without the network: {error}")
    store = Store()
    if restore.unfinished() and (release_id := restore.finish(store)):
        done.append(f"the restore of {release_id}, which was interrupted, is complete")
    ledger = book.load()
    done += ledger.warnings()
    if moved := pointers.write(ledger):
        registry.project_later()
    for name in moved:
        channel = ledger.channels()[name]
        done.append(f"{name} follows the ledger here: {channel.release or 'nothing'}, generation {channel.generation}")
    done += _heal_tags(ledger)
    return Opened(ledger, store, done)


def _heal_tags(ledger: Ledger) -> list[str]:
    there = git.git("for-each-ref", "--format=%(refname)", releases.TAG).split()
    missing = [release_id for release_id in ledger.releases if releases.TAG + release_id not in there]
    return [f"the tag release/{each.id} is back" for each in ledger.read_releases(missing) if releases.tag(each)]


def doctor() -> Opened:
    """Check everything derived from the ledger, and repair it.

    Raises:
        UserError: a person must decide something.
    """
    done = _databases()
    again: list[book.Entry] = []
    try:
        book.fetch()
    except book.UnreachableError as error:
        done.append(f"not looked at: {error}")
    except book.ApartError:
        again = book.follow_remote()
        done.append("the ledger follows the remote's again")
    opened = open_ledger()
    ledger, store = opened.ledger, opened.store
    done += opened.done
    for entry in again:
        done.append(_once_more(entry, store))
        ledger = book.load()
    for release in ledger.read_releases(ledger.releases):
        if releases.tag(release):
            done.append(f"the tag release/{release.id} is where it belongs again")
    for name, channel in ledger.channels().items():
        if channel.release:
            folder = loading.RELEASES / channel.release
            serving = ledger.release(channel.release)
            wrong = loading.wrong_files(serving, folder) if folder.exists() else ["the folder"]
            if wrong:
                loading.materialise(serving, store)
                done.append(
                    f"{channel.release}, which {name} serves, is whole again on this machine ({wrong[0]} was not)"
                )
    fetched, left = _whole_bytes(ledger, store)
    done += fetched
    with registry.alone():
        ledger = book.load()  # another command may have moved it
        done += registry.project(ledger, store)
    done += _abandoned()
    return Opened(ledger, store, done, [*left, *_hidden_changes(store)])


def _whole_bytes(ledger: Ledger, store: Store) -> tuple[list[str], list[str]]:
    """Hash the outputs of all releases in the cache. Return what was repaired and what a person must do.

    Altered files are fetched again. A missing file is left to the command that needs it, if the remote has it.
    """
    outputs = {out.md5: out for release in ledger.read_releases(ledger.releases) for out in release.outputs()}
    done, left = [], []
    for _ in range(2):  # an altered listing hides its files
        problems = store.check(outputs.values())
        for problem in {each.md5: each for each in problems if each.what == "altered"}.values():
            one = [Output(problem.path, problem.md5, 0)]
            try:
                far: str | None = store.check_one(problem.md5)
                if far is None and not store.fetch(one):
                    done.append(f"{problem.path} ({problem.md5[:8]}) was altered in the cache: it is fetched anew")
                    continue
            except UserError as error:
                far = one_line(error)
            left.append(f"{problem}, and not whole in the remote ({far})")
        if not done:
            break
    missing = [Output(each.path, each.md5, 0) for each in problems if each.what == "missing"]
    try:
        gone = store.check(missing, where="remote", rehash=False)
        left += [f"{each}, and not in the cache" for each in gone]
    except UserError as error:
        done.append(f"not looked at: {error}")
    again = "`dvc push` on a machine that has it, then `doctor` here; `verify --all` says which releases need it"
    return done, [f"{each}: {again}" for each in dict.fromkeys(left)]


def _hidden_changes(store: Store) -> list[str]:
    """Return altered outputs in the work tree that DVC believes unchanged: same size and modification time."""
    if not LOCK_FILE.exists():
        return []
    here = worktree.look(store)
    seen = {reason.split(" ")[0] for stage in here.stages for reason in stage.reasons}
    return [
        f"{each}, and DVC does not see it: the size and the date are the same. `touch {each.path}`, then `run`"
        for each in here.differences
        if each.what == "altered" and not any(Path(each.path).is_relative_to(path) for path in seen)
    ]


def _databases() -> list[str]:
    """Move damaged databases aside. MLflow's content is rebuilt from the ledger."""
    done = []
    own = tracking.own_database()
    for database, lost in (
        (own, "runs that were not released are only there"),
        (databases.PREFECT, "Prefect makes a new one; past flow runs are only there"),
    ):
        if database and (wrong := databases.damage(database)):
            done.append(f"{database} is damaged ({wrong}), and kept as {databases.set_aside(database).name}: {lost}")
    return done + tracking.follow_project()


def _once_more(entry: book.Entry, store: Store) -> str:
    """Redo a rollback that was made offline, if its channel has not moved since."""
    from .channels import rollback

    what = f"{entry.kind} of {entry.channel or entry.release} by {entry.by} at {entry.at}"
    ledger = book.load()
    channel = ledger.channel(entry.channel) if entry.channel else None
    if entry.kind != "rollback" or channel is None or channel.release != entry.previous:
        return f"not taken over, do it again if it is still wanted: {what}"
    assert entry.channel is not None
    rollback(ledger, entry.channel, store, reason=f"{entry.reason} (decided {entry.at})", to=entry.release or "")
    return f"done again: {what}"


def _abandoned() -> list[str]:
    """Delete leftovers of dead processes."""
    left = [*SCRATCH.glob("*"), *loading.RELEASES.glob(".*"), *Path().glob(".*.tmp"), *Path("data").glob(".*.tmp")]
    old = [path for path in left if time.time() - path.stat().st_mtime > ABANDONED_SECONDS]
    for path in old:
        path.unlink() if path.is_file() else shutil.rmtree(path, ignore_errors=True)
    if old:
        git.git("worktree", "prune")
    return [f"{path.name} of an interrupted command is deleted" for path in old]
