"""`verify`, `doctor`, `restore`, `reproduce`, `diff` and `gc`."""

import platform
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UserError
from .command import Release, Result, command, table, with_repairs, wrapped

if TYPE_CHECKING:
    from ..releases.history import Change
    from ..releases.reproduce import Level


@command("verify --all")
def verify(
    release: Annotated[
        str, typer.Argument(metavar="[RELEASE]", help="Default: the production release, and the work tree.")
    ] = "",
    everything: Annotated[bool, typer.Option("--all", help="Verify every release, and the ledger itself.")] = False,
    remote: Annotated[bool, typer.Option("--remote", help="Hash the files in the DVC remote too.")] = False,
) -> Result:
    """Hash the files of a release, and report altered ones.

    Exit code 1 if a file is missing or altered.
    """
    from ..releases.pipeline import LOCK_FILE
    from ..releases.reconcile import open_ledger
    from ..releases.verify import Verified, verify_ledger, verify_release, verify_work_tree

    start = time.monotonic()
    opened = open_ledger()
    ledger = opened.ledger
    ids = ledger.releases if everything else [ledger.resolve(release or "production")]
    found = [verify_ledger(ledger)] if everything else []
    if not release and not everything and LOCK_FILE.exists():
        found.append(verify_work_tree(opened.store))
    for release_id in ids:
        try:
            found.append(verify_release(ledger.release(release_id), ledger, opened.store, remote))
        except UserError as error:
            found.append(Verified(release_id, 0, [str(error)], []))
    lines = []
    for each in found:
        lines.append(f"{each.what:<14} {'whole' if not each.problems else 'NOT WHOLE'}, {each.bytes / 1e6:.1f} MB")
        lines += [f"  {line}" for line in (*each.problems, *each.notes)]
    lines.append(f"{time.monotonic() - start:.1f} s")
    data = {"verified": [asdict(each) for each in found], "notes": opened.done}
    return Result(data, with_repairs(opened.done, "\n".join(lines)), code=any(each.problems for each in found))


@command("doctor")
def doctor(
    team: Annotated[bool, typer.Option("--team", help="Check the team's servers, and what you may do there.")] = False,
) -> Result:
    """Repair pointers, tags, MLflow and DVC's cache.

    Takes everything from the ledger and the DVC remote. Exit code 1 if something is left for a person to do, or, with
    --team, if a server does not work.
    """
    if team:
        from ..team.check import check_team

        rows = check_team()
        width = max(len(row.part) for row in rows)
        below = " " * (width + len("  missing  "))
        lines = [wrapped(row.said, f"{row.part:<{width}}  {row.state:<7}  ", below) for row in rows]
        hints = [f"{below}-> {row.do}" if row.do else "" for row in rows]
        text = "\n".join(line for pair in zip(lines, hints, strict=True) for line in pair if line)
        return Result({"checks": [asdict(row) for row in rows]}, text, any(row.state == "fails" for row in rows))
    from ..lineage import mlflow_pages
    from ..releases import reconcile

    opened = reconcile.doctor()
    done = [*opened.done, *mlflow_pages.put_right(opened.store)]
    text = "\n".join([*done, *(f"not put right: {line}" for line in opened.left)]) or (
        "nothing to do: pointers, tags and MLflow are in step with the ledger, and the bytes of all releases are whole"
    )
    return Result({"done": done, "left": opened.left}, text, code=bool(opened.left))


@command("restore r-3f2a --data")
def restore(
    release: Release,
    data: Annotated[
        bool, typer.Option("--data", help="Restore the data only; code and other parameters stay.")
    ] = False,
) -> Result:
    """Restore a release to the work tree, as a new commit.

    Restores its code, parameters, data, features and model.
    """
    from ..releases.reconcile import open_ledger
    from ..releases.restore import restore as put_back

    opened = open_ledger()
    found = opened.ledger.release(release)
    start = time.monotonic()
    done = put_back(found, opened.store, data)
    commit = (
        f"commit {done.commit[:12]}, {done.files} files under git" if done.commit else "nothing under git to change"
    )
    text = (
        f"the work tree is that of {found.id}{' (its data)' if data else ''}: {commit}, "
        f"{len(done.outputs)} outputs, hashed, {time.monotonic() - start:.1f} s"
    )
    if data:
        text += "\n  next: `run`, which builds what the data changes, and takes from the cache what it has seen"
    if done.setup:
        text += "\n  next: `make setup`, because the packages or the machinery of this release differ"
    return Result(asdict(done) | {"notes": opened.done}, with_repairs(opened.done, text))


@command("reproduce production")
def reproduce(
    release: Release,
    at_least: Annotated[
        str, typer.Option(metavar="LEVEL", help="L0, L1 or L2. Default: L0 on the platform of the release, else L2.")
    ] = "",
) -> Result:
    """Build a release again from its source, and compare.

    L0: same bytes. L1: same content. L2: same metrics. Exit code 0 if every output reaches the level.
    """
    from ..releases.reconcile import open_ledger
    from ..releases.reproduce import LEVELS
    from ..releases.reproduce import reproduce as rebuild

    if at_least and at_least not in LEVELS[:3]:
        raise UserError(f"--at-least must be L0, L1 or L2, not {at_least!r}")
    opened = open_ledger()
    found = opened.ledger.release(release)
    same_platform = found.observed["platform"] == f"{sys.platform}-{platform.machine()}"
    promise: Level = at_least or ("L0" if same_platform else "L2")  # type: ignore[assignment]
    made = rebuild(found, opened.store)
    reached = LEVELS.index(made.level) <= LEVELS.index(promise)
    rows = [(f"  {each.path}", each.level, each.detail) for each in made.artifacts]
    text = (
        f"{found.id}, rebuilt with {made.environment}\n{table(rows)}\n"
        f"{made.level} reached, {promise} {'promised' if reached else 'was promised'}, {made.seconds:.1f} s"
    )
    data = asdict(made) | {"level": made.level, "promise": promise, "reached": reached, "notes": opened.done}
    return Result(data, with_repairs(opened.done, text), code=not reached)


@command("diff production r-3f2a")
def diff(a: Release, b: Release) -> Result:
    """Show how two releases differ.

    Compares data, features, SQL, parameters, metrics and code.
    """
    from ..releases.history import diff as compare_records
    from ..releases.reconcile import open_ledger

    opened = open_ledger()
    old, new = opened.ledger.release(a), opened.ledger.release(b)
    found = compare_records(old, new)
    lines = [f"{found.a} -> {found.b}"]
    for title in ("data", "features", "sql", "params", "metrics"):
        lines += _section(title, [_change(each) for each in getattr(found, title)])
    lines += _section("code", found.code)
    if found.packages:
        lines.append("packages: requirements.lock differs")
    if len(lines) == 1:
        lines.append("no difference")
    return Result(asdict(found) | {"notes": opened.done}, with_repairs(opened.done, "\n".join(lines)))


def _section(title: str, lines: list[str]) -> list[str]:
    return [f"{title}:", *(f"  {line}" for line in lines)] if lines else []


def _change(change: "Change") -> str:
    old, new = (_plain(value) for value in (change.old, change.new))
    if change.old is None:
        return f"+ {change.name}  {new}"
    if change.new is None:
        return f"- {change.name}  {old}"
    return f"  {change.name}  {old} -> {new}"


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        rows, digest = value
        return f"{rows:,} rows {digest}" if rows is not None else digest
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


@command("gc --dry-run")
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the files to delete.")] = False,
) -> Result:
    """Free space in the local cache. Keeps everything that a release, a branch or the work tree needs."""
    from ..releases.gc import collect
    from ..releases.reconcile import open_ledger

    opened = open_ledger()
    freed = collect(opened.ledger, opened.store, dry_run)
    verb = "would be deleted" if dry_run else "deleted"
    text = (
        f"{freed.objects} cached objects, {freed.bytes / 1e6:.1f} MB, and {len(freed.folders)} folders of releases "
        f"that no channel serves {verb}; {freed.kept} objects are needed by a release, a branch or the work tree"
    )
    return Result(asdict(freed) | {"notes": opened.done}, with_repairs(opened.done, text))
