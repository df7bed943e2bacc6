"""`impact`: find the features, releases and channels that anything affected.

For the day when a supplier says "the June file was wrong".
"""

import fnmatch
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from ..errors import UserError
from ..releases import git
from ..releases.ledger import Ledger
from ..releases.pipeline import flat
from ..releases.record import Release
from ..releases.release import TAG
from ..releases.store import Store
from . import structure
from .fact_tree import Fact
from .structure import FOLDER, Column, Structure
from .trace import Served, served

MONTH = re.compile(r"[12]\d{3}-(0[1-9]|1[0-2])")
SHOWN = 12


class Reach:
    """Find out what something affected, over every release in the ledger."""

    def __init__(self, ledger: Ledger, store: Store, predictions: Mapping[str, int] | None = None) -> None:
        """Args: predictions: how many predictions each release has answered with."""
        self._predictions = predictions or {}
        self._ledger = ledger
        self._store = store
        self._structures: dict[str, Structure] = {}
        self._served: dict[str, list[Served]] = defaultdict(list)
        for each in served(ledger):
            self._served[each.release].append(each)
        order = [entry.release for _, entry in ledger.entries() if entry.kind == "release"]
        self._releases = ledger.read_releases(each for each in order if each)

    def impact(self, what: str) -> Fact:
        """Return the tree below a raw file, a month, a source column, a model, a commit or a parameter.

        Raises:
            UserError: the name is unknown; the message suggests the closest known one.
        """
        for look in (self._files, self._columns, self._models, self._parameter, self._commit):
            if found := look(what):
                return found
        nearest = get_close_matches(what, list(self._known()), 1, 0.3)
        hint = f"the nearest is {nearest[0]}" if nearest else "a raw file, month, column, model, commit or parameter is"
        raise UserError(f"{what} has reached no release that is known here: {hint}")

    def _known(self) -> Iterable[str]:
        for release in self._releases:
            yield from (file["path"] for file in release.materials["raw"])
            yield from (name for name, _ in flat(release.materials["params"]))
            yield from self._structure(release).names()

    def _structure(self, release: Release) -> Structure:
        """Return the SQL of a release. Releases with the same SQL share it."""
        (output,) = release.outputs(str(FOLDER))
        if output.md5 not in self._structures:
            self._structures[output.md5] = structure.of_release(release, self._store)
        return self._structures[output.md5]

    def _files(self, what: str) -> Fact | None:
        month = bool(MONTH.fullmatch(what))

        def is_meant(path: str) -> bool:
            return f"/{what}." in path if month else fnmatch.fnmatch(path, what) or path.endswith(f"/{what}")

        def of(release: Release) -> tuple[str, tuple[Fact, ...]] | None:
            files = [file for file in release.materials["raw"] if is_meant(file["path"])]
            if not files:
                return None
            versions = ", ".join(f"{file['path']} sha256 {file['sha256'][:12]}" for file in files)
            sql = self._structure(release)
            sources = [
                node
                for node in sql.nodes.values()
                if node.kind == "source" and any(fnmatch.fnmatch(file["path"], node.files) for file in files)
            ]
            columns = [Column(node.id, name) for node in sources for name in sql.columns(node.id)]
            return versions, self._reached(release, sql, columns)

        return self._over_releases("month" if month else "file", what, of)

    def _columns(self, what: str) -> Fact | None:
        def of(release: Release) -> tuple[str, tuple[Fact, ...]] | None:
            sql = self._structure(release)
            column = sql.find_column(what)
            return (f"{sql.nodes[column.node].file}", self._reached(release, sql, [column])) if column else None

        return self._over_releases("column", what, of) if "." in what else None

    def _models(self, what: str) -> Fact | None:
        def of(release: Release) -> tuple[str, tuple[Fact, ...]] | None:
            sql = self._structure(release)
            node = sql.find(what) or next((node for node in sql.nodes.values() if node.file == what), None)
            if node is None:
                return None
            columns = [Column(node.id, name) for name in sql.columns(node.id)]
            version = f"{node.file}" + (f"  sql {node.digest[:12]}" if node.digest else "")
            return version, self._reached(release, sql, columns)

        return self._over_releases("model", what, of)

    def _parameter(self, what: str) -> Fact | None:
        def of(release: Release) -> tuple[str, tuple[Fact, ...]] | None:
            params = dict(flat(release.materials["params"]))
            return (f"{what} = {params[what]}", ()) if what in params else None

        return self._over_releases("parameter", what, of)

    def _commit(self, what: str) -> Fact | None:
        sha = git.resolve(what) if re.fullmatch(r"[0-9a-f]{4,40}|HEAD", what) else None
        if sha is None:
            return None
        after = git.git("for-each-ref", f"--contains={sha}", "--format=%(refname)", TAG).split()

        def of(release: Release) -> tuple[str, tuple[Fact, ...]] | None:
            return (f"commit {release.commit[:12]}", ()) if TAG + release.id in after else None

        return self._over_releases("commit", sha[:12], of) or Fact("commit", sha[:12], "is behind no release")

    def _over_releases(
        self, kind: str, what: str, of: Callable[[Release], tuple[str, tuple[Fact, ...]] | None]
    ) -> Fact | None:
        """Return a branch for each release that `of` finds affected, newest last."""
        branches = []
        for release in self._releases:
            if found := of(release):
                how, below = found
                branches.append(
                    Fact(
                        "release",
                        release.id,
                        f"{release.observed['at']}, by {how}",
                        below=(*below, *self._channels(release)),
                    )
                )
        if not branches:
            return None
        channels = sum(len(self._served[branch.name]) for branch in branches)
        reached = f"{len(branches)} of {len(self._releases)} releases, served {channels} times"
        if many := sum(self._predictions.get(branch.name, 0) for branch in branches):
            reached += f", {many:,} predictions"
        return Fact(kind, what, f"reached {reached}", below=tuple(branches))

    def _reached(self, release: Release, sql: Structure, columns: list[Column]) -> tuple[Fact, ...]:
        """Return features of a release's model that come from these columns, and models whose rows they filter."""
        below = sql.downstream(*columns) | set(columns)
        table = sql.find(release.model["feature_table"].rsplit("/", 1)[-1].split(".")[0])
        features = [name for name in release.model["features"] if table and Column(table.id, name) in below]
        chosen = [sql.nodes[node].name for node in sql.decided_by(*columns)]
        total = len(release.model["features"])
        facts = [Fact("features", f"{len(features)} of {total}", _some(features), {"features": features})]
        if chosen:
            facts.append(
                Fact("rows", "of", f"{', '.join(chosen)}: their joins, filters or groups use it", {"models": chosen})
            )
        facts += [Fact("unknown", *each) for each in sql.untold(*{column.node for column in columns}).items()]
        return tuple(facts)

    def _channels(self, release: Release) -> Iterable[Fact]:
        if many := self._predictions.get(release.id):
            yield Fact("predictions", f"{many:,}", "answered with it, by the log here", {"predictions": many})
        for each in self._served[release.id]:
            until = each.until or "now"
            data: dict[str, Any] = {"generation": each.generation, "since": each.since, "until": each.until}
            yield Fact("served", each.channel, f"{each.since} until {until}, generation {each.generation}", data)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
