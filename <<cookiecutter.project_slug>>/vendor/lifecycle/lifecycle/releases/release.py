"""`release`: turn the current pipeline result into an immutable, named release."""

import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..params import PARAMS_FILE, only_window_moved
from . import compare, git, record, tracking
from . import ledger as book
from .ledger import Entry, Ledger
from .pipeline import LOCK_FILE, PIPELINE_FILE, Pipeline, outputs, result_digest
from .record import Release
from .store import Output, Store

TAG = "refs/tags/release/"


@dataclass(frozen=True)
class Released:
    """A release and how it was created. `new` is False if the same content was released before."""

    release: Release
    new: bool
    committed: list[str]
    warning: str = ""


def release(ledger: Ledger, store: Store, reason: str = "", automation: bool = False) -> Released:
    """Release the current pipeline result: commit its outputs' names, push their bytes, write the record.

    Raises:
        UserError: the work tree has other changes, a stage is stale, a gate failed, or the bytes cannot be pushed to
            the DVC remote; the ledger has not changed.
    """
    commit = _clean_commit()
    stale = [status.stage for status in Pipeline().status() if not status.fresh]
    if stale:
        raise UserError(
            f"{', '.join(stale)} {'are' if len(stale) > 1 else 'is'} stale, so there is no result to release: "
            "`run` first, `status` says why"
        )
    if failed := tracking.failed_gates():
        raise UserError(f"the model does not pass its gates and is not released: {'; '.join(failed)}")
    commit, committed = _commit_what_runs_write(commit)
    statement = build(commit, store)
    candidate = Release(_with(statement, {}))
    if candidate.id in ledger.releases:
        known = ledger.release(candidate.id)
        _push(known, store)
        return Released(known, False, committed)
    warning = ""
    try:
        tracked: dict[str, Any] | None = vars(tracking.track())
    except UserError as error:  # MLflow follows the ledger and can be updated later
        tracked, warning = None, str(error)
    _push(candidate, store)
    candidate = Release(_with(statement, _observed(commit, tracked, automation)))
    production = ledger.channel("production")
    if production and production.release:
        comparison = compare.compare(candidate, ledger.release(production.release), store)
        candidate.observed["comparison"] = comparison
    observed = candidate.observed
    entry = Entry(
        kind="release", release=candidate.id, by=observed["by"], at=observed["at"], automation=automation, reason=reason
    )
    ledger.append(entry, lambda _: {f"releases/{candidate.id}.json": candidate.to_bytes()}, parent=commit)
    tag(candidate)
    return Released(candidate, True, committed, warning)


def _clean_commit() -> str:
    commit = git.head()
    if commit is None:
        raise UserError("there is no commit to release from: `git add . && git commit` first")
    changed = [name for name in commit.changed if name not in tracking.WRITTEN_BY_RUNS]
    if changed == [str(PARAMS_FILE)] and only_window_moved((git.read(f"HEAD:./{PARAMS_FILE}")[0] or b"").decode()):
        return commit.sha
    if changed:
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        raise UserError(
            f"the work tree has changes that would not be in the release: {', '.join(changed[:5])}{more}. "
            "Commit or remove them"
        )
    return commit.sha


def _commit_what_runs_write(commit: str) -> tuple[str, list[str]]:
    """Commit dvc.lock and the other files that `run` writes, if they changed. No other file can have changed."""
    changed = list(git.changed())
    if not changed:
        return commit, []
    git.git("add", "--", *changed)
    # Not the whole index: another folder of the repository may have staged files.
    prefix = git.git("rev-parse", "--show-prefix").strip()
    tree = git.tree_with(commit, {prefix + name: Path(name).read_bytes() for name in changed})
    new = git.commit_tree(tree, [commit], f"Pipeline result {result_digest()[:12]}\n")
    if not git.swap_ref("HEAD", new, commit, "release: pipeline result"):
        raise UserError("the branch was moved in the meantime: try again")
    return new, changed


def build(commit: str, store: Store) -> dict[str, Any]:
    """Return the hashed part of the record for the current result at this commit."""
    names = (str(PARAMS_FILE), str(PIPELINE_FILE), str(LOCK_FILE), record.LOCK)
    files = {
        name: content or b"" for name, content in zip(names, git.read(*(f"{commit}:./{n}" for n in names)), strict=True)
    }
    outs = [Output.of(out) for out in outputs()]
    return record.build(git.project_tree(commit), files, sorted(outs, key=lambda out: out.path), result_digest(), store)


def _with(statement: dict[str, Any], observed: dict[str, Any]) -> dict[str, Any]:
    return statement | {"predicate": statement["predicate"] | {"observed": observed}}


def _observed(commit: str, tracked: dict[str, Any] | None, automation: bool) -> dict[str, Any]:
    return {
        "commit": commit,
        "by": git.identity(),
        "at": book.now(),
        "automation": automation,
        "python": platform.python_version(),
        "platform": f"{sys.platform}-{platform.machine()}",
        "mlflow": tracked,
    }


def _push(release: Release, store: Store) -> None:
    if missing := store.push(release.outputs()):
        raise UserError(f"after the push, {missing[0]}: `dvc push` shows details. Nothing was released")


def tag(release: Release) -> bool:
    """Make sure that the tag `release/<id>` names the release's commit. Return whether it had to be set.

    Git keeps the commit anyway, as a parent of the ledger's; the tag is for people.
    """
    ref = TAG + release.id
    at = git.resolve(ref)
    if at == release.commit:
        return False
    git.swap_ref(ref, release.commit, at)
    return True
