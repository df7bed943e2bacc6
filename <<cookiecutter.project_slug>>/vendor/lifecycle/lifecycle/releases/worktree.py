"""Compare the work tree with dvc.lock: find files that differ from what the pipeline last read or made here."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import UserError
from ..files import sha256
from .pipeline import Pipeline, StageStatus, locked
from .record import SQL_FILE
from .store import Output, Store, file_md5


@dataclass(frozen=True, order=True)
class Difference:
    """A file or folder that differs from dvc.lock."""

    path: str
    what: Literal["altered", "missing", "new"]

    def __str__(self) -> str:
        return f"{self.path} {WORDS[self.what]}"


WORDS = {"altered": "is not what the pipeline last saw here", "missing": "is gone", "new": "is not the pipeline's work"}


@dataclass(frozen=True)
class WorkTree:
    """Differences by content, and stages that DVC considers stale."""

    differences: list[Difference]
    stages: list[StageStatus]
    outs: dict[str, str]

    def wrong(self, path: str) -> str:
        """Return what is wrong with a file or folder: its content, or that its stage is stale."""
        above = {path, *map(str, Path(path).parents)}
        for each in self.differences:
            if each.path == path or (each.path in above and each.what == "missing"):
                return f"it {WORDS[each.what]}"
            if each.path.startswith(f"{path}/"):
                return str(each)
        makers = {self.outs[each] for each in above if each in self.outs}
        reasons = [reason for each in self.stages if each.stage in makers for reason in self._reasons(each)]
        return f"it is stale: {', '.join(reasons)}" if reasons else ""

    def _reasons(self, status: StageStatus) -> list[str]:
        """Return why a stage would now make something else. Altered outputs do not count."""
        own = {path for path, stage in self.outs.items() if stage == status.stage}
        return [reason for reason in status.reasons if reason.split(" ")[0] not in own]


def look(store: Store) -> WorkTree:
    """Hash everything that dvc.lock names.

    Raises:
        UserError: nothing has been built yet, or DVC cannot tell.
    """
    outs = {out["path"]: name for name, stage in locked().items() for out in stage.get("outs", [])}
    return WorkTree(differences(store), Pipeline().status(), outs)


def differences(store: Store) -> list[Difference]:
    """Return files that stages read or made and that have changed since.

    Raises:
        UserError: nothing has been built yet.
    """
    stages = locked().values()
    # If one stage made a file and another read it, use the version that was made.
    md5s = {each["path"]: each["md5"] for key in ("deps", "outs") for stage in stages for each in stage.get(key, [])}
    return sorted(found for path, md5 in md5s.items() for found in _compared(Path(path), md5, store))


def _compared(path: Path, md5: str, store: Store) -> Iterable[Difference]:
    if not path.exists():
        return [Difference(str(path), "missing")]
    if not md5.endswith(".dir"):
        return [] if path.is_file() and file_md5(path) == md5 else [Difference(str(path), "altered")]
    here = {file.relative_to(path).as_posix(): file_md5(file) for file in sorted(path.rglob("*")) if file.is_file()}
    if _folder_md5(here) == md5:
        return []
    try:
        listed = {Path(file.path): file.md5 for file in store.files([Output(str(path), md5, 0)])}
    except UserError:  # the cache has listings only for stage outputs; for the SQL that a stage reads, ask dbt
        return list(_sql(path)) or [Difference(str(path), "altered")]
    now = {path / name: digest for name, digest in here.items()}
    return [
        Difference(str(file), "missing" if file not in now else "altered" if file in listed else "new")
        for file in now.keys() | listed.keys()
        if now.get(file) != listed.get(file)
    ]


def _folder_md5(files: dict[str, str]) -> str:
    """Return the digest of a folder as DVC computes it (its `.dir` objects hold this list)."""
    entries = [{"md5": files[name], "relpath": name} for name in sorted(files)]
    return f"{hashlib.md5(json.dumps(entries, sort_keys=True).encode(), usedforsecurity=False).hexdigest()}.dir"


def _sql(folder: Path) -> Iterator[Difference]:
    """Yield SQL files and seeds below a folder that differ from the last build."""
    try:
        nodes = json.loads(Path(SQL_FILE).read_text(encoding="utf-8"))["nodes"].values()
    except (OSError, ValueError, KeyError):
        return
    for file, digest in sorted({(Path(node["file"]), node["sha256"]) for node in nodes}):
        if file.is_relative_to(folder) and not file.exists():
            yield Difference(str(file), "missing")
        elif file.is_relative_to(folder) and sha256(file) != digest:
            yield Difference(str(file), "altered")
