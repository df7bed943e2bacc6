"""Batch scoring: what a channel's release predicts for whole months of the feature table, a file a month.

    data/scores/<model>/<month>.parquet                      what holds now
    data/scores/<model>/<month>.json                         every version there was: release, input, digest, when
    data/scores/<model>/replaced/<month>.<version>.parquet   what held before

A version is named by what it was made from, and a prediction by its version and its row: to score the same once more
changes nothing, and a corrected month is a new version. None of it is tracked: it can be made again from a release and
the feature table.
"""

import hashlib
import json
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from ..errors import UserError
from ..files import held, replacing, sha256, write_json
from ..params import MonitoredColumns
from . import ledger as book
from . import loading
from .features import built_for
from .ledger import ChannelName
from .reconcile import open_ledger
from .record import Release, canonical, content_digest
from .store import Store

FOLDER = Path("data/scores")
PREDICTION = re.compile(r"b-([0-9a-f]{12})-[0-9a-f]{16}")
_loading = threading.Lock()


@dataclass(frozen=True)
class Job:
    """One month to be scored. Plain values: it may be sent to another process or machine."""

    month: str
    release: str
    channel: str
    table: str
    columns: dict[str, str]


@dataclass(frozen=True)
class Version:
    """What one version of a month was made from. `input`: digest of its keys and features; `table`: MD5 it stood in."""

    version: str
    release: str
    channel: str
    table: str
    input: str
    rows: int
    sha256: str
    at: str


@dataclass(frozen=True)
class Scored:
    """What scoring a month came to. `replaced`: the version that held before."""

    month: str
    outcome: Literal["scored", "unchanged"]
    version: str
    rows: int
    file: str
    replaced: str | None = None


@dataclass(frozen=True)
class Found:
    """A prediction of a batch: its row as it stands in `file`, the version that is, and all that there were."""

    row: dict[str, Any]
    month: str
    file: Path
    version: Version
    versions: tuple[Version, ...]


def plan(channel: ChannelName, months: list[str], columns: MonitoredColumns) -> tuple[list[Job], list[str]]:
    """A job for each of these months, or for all that the feature table has; and what had to be repaired before.

    Raises:
        UserError: the channel serves nothing, its release does not hold, or there is no such month.
    """
    import pyarrow.parquet as pq

    opened = open_ledger()
    release = opened.ledger.release(channel)
    table = built_for(release, opened.store)
    loading.materialise(release, opened.store)
    known = sorted(set(pq.read_table(table.file, columns=[columns.month])[columns.month].to_pylist()))
    if unknown := sorted(set(months) - set(known)):
        raise UserError(f"{table.path} has no month {', '.join(unknown)}: it has {known[0]} to {known[-1]}")
    named = columns.model_dump()
    return [Job(month, release.id, channel, table.md5, named) for month in known if not months or month in months], (
        opened.done
    )


def score(jobs: list[Job], workers: int) -> list[Scored]:
    """Do these jobs, so many at a time."""
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(score_month, jobs))


def score_month(job: Job) -> Scored:
    """Score a month, unless what holds was made from the same.

    The file is replaced in one step, and then the manifest; killed in between, the next time does both again.

    Raises:
        UserError: a key stands there twice.
    """
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    release = _release(job.release, Path.cwd())
    key, time = job.columns["key"], job.columns["time"]
    names = list(release.model["features"])
    source = Store().object_path(job.table)
    rows = pq.read_table(
        source, columns=list(dict.fromkeys([key, time, *names])), filters=pc.field(job.columns["month"]) == job.month
    ).sort_by(key)
    content = content_digest(rows)
    version = hashlib.sha256(canonical([release.id, content])).hexdigest()[:12]
    file = FOLDER / release.model["name"] / f"{job.month}.parquet"
    with held(file.with_name(f".{file.stem}.lock")):  # nobody else scores this month meanwhile
        versions = versions_of(file)
        holds = versions[-1] if versions else None
        digest = sha256(file) if file.exists() else None
        if holds and holds.version == version and holds.sha256 == digest:
            return Scored(job.month, "unchanged", version, rows.num_rows, str(file))
        scores = _with_ids(rows, key, time, version, release.id, _model(release.id).predict(rows))
        if holds and holds.sha256 == digest:
            _keep(file, holds.version)
        with replacing(file) as aside:
            pq.write_table(scores, aside, compression="zstd")
        made = Version(version, release.id, job.channel, job.table, content, rows.num_rows, sha256(file), book.now())
        kept = [each for each in versions if each.version != version or each is not holds]
        write_json(_manifest(file), {"month": job.month, "versions": [asdict(each) for each in (*kept, made)]})
    replaced = holds.version if holds and holds.version != version else None
    return Scored(job.month, "scored", version, rows.num_rows, str(file), replaced)


def _with_ids(rows: Any, key: str, time: str, version: str, release: str, scores: Any) -> Any:
    import pyarrow as pa

    keys = [str(value) for value in rows[key].to_pylist()]
    if len(set(keys)) != len(keys):
        twice = next(one for one, other in pairwise(keys) if one == other)
        raise UserError(f"{key} {twice} is in the feature table twice: predictions need a unique key")
    ids = [f"b-{version}-{hashlib.sha256(each.encode()).hexdigest()[:16]}" for each in keys]
    columns = {"prediction_id": ids, "key": keys, "at": rows[time], "release": [release] * len(keys), "score": scores}
    return pa.table(columns)


@lru_cache(maxsize=4)
def _release(release_id: str, folder: Path) -> Release:
    return book.load().release(release_id)


@lru_cache(maxsize=4)
def _loaded(release_id: str, folder: Path) -> Any:
    release = _release(release_id, folder)
    return loading.try_out(release, loading.materialise(release, Store()))


def _model(release_id: str) -> Any:
    """A release's model, tried out, once a process."""
    with _loading:
        return _loaded(release_id, Path.cwd())


def _keep(file: Path, version: str) -> None:
    kept = _replaced(file, version)
    kept.parent.mkdir(exist_ok=True)
    if not kept.exists():
        os.link(file, kept)


def _replaced(file: Path, version: str) -> Path:
    return file.parent / "replaced" / f"{file.stem}.{version}.parquet"


def _manifest(file: Path) -> Path:
    return file.with_suffix(".json")


def versions_of(file: Path) -> list[Version]:
    """Every version of a month that there was, the one that holds last.

    Raises:
        UserError: its manifest is not readable.
    """
    try:
        found = json.loads(_manifest(file).read_text(encoding="utf-8"))
        return [Version(**each) for each in found["versions"]]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{_manifest(file)} is not readable: delete it, and `score` makes it again") from None


def find_scored(prediction_id: str) -> Found | None:
    """A prediction of a batch, by its id, of what holds or was replaced; None where no version has it.

    Raises:
        UserError: a version had it, and its file is gone or altered.
    """
    import pyarrow.parquet as pq

    named = PREDICTION.fullmatch(prediction_id)
    if named is None:
        return None
    for manifest in sorted(FOLDER.glob("*/*.json")):
        file = manifest.with_suffix(".parquet")
        versions = tuple(versions_of(file))
        mine = next((each for each in reversed(versions) if each.version == named[1]), None)
        if mine is None:
            continue
        holds = next((path for path in (file, _replaced(file, mine.version)) if _is(path, mine)), None)
        if holds is None:
            raise UserError(f"{prediction_id} is of {file}, version {mine.version}, and that file is gone or altered")
        rows = pq.read_table(holds, filters=[("prediction_id", "=", prediction_id)]).to_pylist()
        return Found(rows[0], file.stem, holds, mine, versions) if rows else None
    return None


def _is(path: Path, version: Version) -> bool:
    return path.exists() and sha256(path) == version.sha256
