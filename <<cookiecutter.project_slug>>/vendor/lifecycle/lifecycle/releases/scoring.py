"""Batch scoring: predict whole months of the feature table with a channel's release, one file per month.

A worker gets the rows of a month and the release, and returns the scores; it needs neither git nor DVC. All files are
written here.

    data/scores/<model>/<month>.parquet                      the current version
    data/scores/<model>/<month>.json                         every version so far: release, input, digest, time
    data/scores/<model>/replaced/<month>.<version>.parquet   earlier versions

A version's name comes from its inputs, and a prediction's id from its version and row. Scoring the same again changes
nothing; a corrected month is a new version. None of it is tracked: it can be made again from a release and the feature
table.
"""

import hashlib
import json
import os
import re
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from ..errors import UserError
from ..fan_out import Call, here
from ..files import file_lock, replacing, sha256, write_json
from ..params import MonitoredColumns
from . import ledger as book
from . import loading
from .features import built_for
from .ledger import ChannelName
from .reconcile import open_ledger
from .record import Release, canonical, content_digest, read_release
from .store import Store

FOLDER = Path("data/scores")
PREDICTION = re.compile(r"b-([0-9a-f]{12})-[0-9a-f]{16}")
_loading = threading.Lock()


@dataclass(frozen=True)
class Job:
    """One month to score."""

    month: str
    release: str
    channel: str
    table: str
    columns: dict[str, str]


@dataclass(frozen=True)
class Version:
    """The inputs of one version of a month. `input`: digest of its keys and features; `table`: MD5 of its table."""

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
    """The outcome of scoring a month. `replaced`: the previous version."""

    month: str
    outcome: Literal["scored", "unchanged"]
    version: str
    rows: int
    file: str
    replaced: str | None = None


@dataclass(frozen=True)
class Found:
    """A batch prediction: its row as stored in `file`, the current version, and all versions."""

    row: dict[str, Any]
    month: str
    file: Path
    version: Version
    versions: tuple[Version, ...]


def plan(channel: ChannelName, months: list[str], columns: MonitoredColumns) -> tuple[list[Job], list[str]]:
    """Return a job for each of these months, or for all in the feature table; and what had to be repaired first.

    Raises:
        UserError: the channel serves nothing, its release fails verification, or there is no such month.
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


def score(jobs: list[Job], workers: int, call: Call = here) -> list[Scored]:
    """Run these jobs, `workers` at a time."""
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda job: score_month(job, call), jobs))


def score_month(job: Job, call: Call = here) -> Scored:
    """Score a month, unless the current version has the same inputs. `call` runs the model, here or on a worker.

    Replaces the file atomically, then the manifest. If killed in between, the next run does both again.

    Raises:
        UserError: a key occurs twice.
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
    with file_lock(file.with_name(f".{file.stem}.lock")):  # one process scores this month at a time
        versions = versions_of(file)
        holds = versions[-1] if versions else None
        digest = sha256(file) if file.exists() else None
        if holds and holds.version == version and holds.sha256 == digest:
            return Scored(job.month, "unchanged", version, rows.num_rows, str(file))
        predicted = call(predict, release.id, _packed(release.id, Path.cwd()), rows.select(names))
        scores = _with_ids(rows, key, time, version, release.id, predicted)
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
def _packed(release_id: str, folder: Path) -> bytes:
    return loading.pack(loading.materialise(_release(release_id, folder), Store()))


def predict(release_id: str, packed: bytes, rows: Any) -> Any:
    """Return a release's predictions, on any machine. It brings the release's folder along, packed."""
    with _loading:
        model, _ = _loaded(release_id, packed)
    return model.predict(rows)


@lru_cache(maxsize=4)
def _loaded(release_id: str, packed: bytes) -> tuple[Any, Any]:
    """Unpack, load and test a release's model, once per process. Its code may import more later: keep the folder."""
    folder = tempfile.TemporaryDirectory(prefix=f"{release_id}-")
    path = Path(folder.name)
    loading.unpack(packed, path)
    return loading.try_out(read_release((path / loading.RECORD).read_bytes(), release_id), path), folder


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
    """Return every version of a month, the current one last.

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
    """Find a batch prediction by its id, in current or replaced versions. None if no version has it.

    Raises:
        UserError: a version has it, but its file is gone or altered.
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
