"""What each channel served and when, and how two releases differ."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from . import git
from .ledger import ChannelName, Entry, Ledger
from .pipeline import flat
from .record import Release


def history(ledger: Ledger, channel: ChannelName | None = None) -> list[Entry]:
    """Return the operations, newest first. For one channel, only those that moved it."""
    entries = [entry for _, entry in reversed(ledger.entries())]
    return [entry for entry in entries if channel is None or entry.channel == channel]


@dataclass(frozen=True)
class Change:
    """One difference between two releases. `old` or `new` is None if that release does not have the item."""

    name: str
    old: Any
    new: Any


@dataclass(frozen=True)
class Difference:
    """All differences between two releases."""

    a: str
    b: str
    data: list[Change]
    features: list[Change]
    sql: list[Change]
    code: list[str]
    params: list[Change]
    metrics: list[Change]
    packages: bool


def diff(a: Release, b: Release) -> Difference:
    """Compare two records part by part. git compares the code if both commits are here."""
    return Difference(
        a=a.id,
        b=b.id,
        data=list(changes(_raw(a), _raw(b))),
        features=list(changes(_columns(a), _columns(b))),
        sql=list(changes(_sql(a), _sql(b))),
        code=_code(a, b),
        params=list(changes(dict(flat(a.materials["params"])), dict(flat(b.materials["params"])))),
        metrics=list(changes(dict(flat(a.evidence["metrics"])), dict(flat(b.evidence["metrics"])))),
        packages=a.materials["environment"] != b.materials["environment"],
    )


def _raw(release: Release) -> dict[str, Any]:
    return {file["path"]: (file.get("rows"), file["sha256"][:12]) for file in release.materials["raw"]}


def _columns(release: Release) -> dict[str, Any]:
    tables = release.materials["features"]
    columns = {f"{table['path']}:{name}": kind for table in tables for name, kind in table["columns"].items()}
    return columns | {f"{table['path']} rows": table["rows"] for table in tables}


def _sql(release: Release) -> dict[str, Any]:
    sql = release.materials["sql"] or {"nodes": []}
    return {node["file"]: node["sha256"][:12] for node in sql["nodes"]}


def _code(a: Release, b: Release) -> list[str]:
    trees = [release.materials["git"]["tree"] for release in (a, b)]
    try:
        return git.git("diff-tree", "-r", "--name-status", "--no-renames", *trees).splitlines()
    except git.GitError:
        return ["? a source commit is not here: `git fetch --tags`"]


def changes(old: dict[str, Any], new: dict[str, Any]) -> Iterator[Change]:
    """Yield the differences between two tables of values, by name."""
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            yield Change(name, old.get(name), new.get(name))
