"""`gc`: delete cached objects and folders that neither a release nor a branch needs."""

import contextlib
from dataclasses import dataclass
from typing import Any

import yaml

from ..errors import UserError
from . import git, loading
from .ledger import BRANCH, Ledger
from .pipeline import LOCK_FILE
from .store import Output, Store


@dataclass(frozen=True)
class Freed:
    """What was deleted, or would be. `kept` is the number of objects still needed."""

    objects: int
    bytes: int
    kept: int
    folders: list[str]


def collect(ledger: Ledger, store: Store, dry_run: bool = False) -> Freed:
    """Delete from the local cache every object that no release, work tree, branch or tag needs.

    Does not touch the remote. Stops if a listing that a release needs is missing here, since it is then unknown which
    files belong to it.

    Raises:
        UserError: it is not possible to determine what to keep.
    """
    if not store.is_own():
        raise UserError(
            f"the DVC cache {store.cache} lies outside this project, and others may use it: "
            "`dvc gc --projects` is for that"
        )
    with store.locked():
        return _collect(ledger, store, dry_run)


def _collect(ledger: Ledger, store: Store, dry_run: bool) -> Freed:
    needed: set[str] = set()
    for release in ledger.read_releases(ledger.releases):
        for output in release.outputs():
            needed |= _needed_by(output, store, release.id)
    for outputs in _named_elsewhere():
        for output in outputs:
            with contextlib.suppress(UserError):  # a branch whose data is only partly here keeps that part
                needed |= {output.md5}
                needed |= _needed_by(output, store, "a branch")
    doomed = [(md5, size) for md5, size in store.objects() if md5 not in needed]
    total = sum(1 for _ in store.objects())
    serving = {channel.release for channel in ledger.channels().values() if channel.release}
    folders = [path.name for path in loading.RELEASES.glob("*") if path.name not in serving]
    if not dry_run:
        # Folders first: DVC treats a listing without its files as a damaged cache.
        for md5, _ in sorted(doomed, key=lambda each: not each[0].endswith(".dir")):
            store.object_path(md5).unlink(missing_ok=True)
        loading.clean_up(keep=serving)
    return Freed(len(doomed), sum(size for _, size in doomed), total - len(doomed), folders)


def _needed_by(output: Output, store: Store, who: str) -> set[str]:
    if not output.md5.endswith(".dir"):
        return {output.md5}
    if not store.object_path(output.md5).exists() and (wrong := store.fetch_listing(output)):
        raise UserError(f"{who} needs the listing of {output.path}, and {wrong}: nothing was deleted")
    return {output.md5} | {file.md5 for file in store.files([output])}


def _named_elsewhere() -> list[list[Output]]:
    """Return the outputs in every dvc.lock: of the work tree and of each branch and tag."""
    refs = git.git("for-each-ref", "--format=%(refname)").split()
    names = [f"{ref}:./{LOCK_FILE}" for ref in refs if not ref.endswith(BRANCH)]
    contents = [content for content in git.read("HEAD:./" + str(LOCK_FILE), *names) if content]
    if LOCK_FILE.exists():
        contents.append(LOCK_FILE.read_bytes())
    return [_outputs(yaml.safe_load(content)) for content in set(contents)]


def _outputs(lock: dict[str, Any]) -> list[Output]:
    outs = [out for stage in lock.get("stages", {}).values() for out in stage.get("outs", [])]
    return [Output(out["path"], out["md5"], out.get("size", 0)) for out in outs]
