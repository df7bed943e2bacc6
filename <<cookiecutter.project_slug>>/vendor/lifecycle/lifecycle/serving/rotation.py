"""Convert the prediction log of past days from JSON lines to Parquet, in a separate process."""

import fcntl
import os
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from ..files import locked, replacing
from ..predictions.log import COLUMNS, FOLDER

# A past day's file that was not written to for this long is complete.
SETTLED_SECONDS = 600
ROWS_A_GROUP = 20_000


def complete(folder: Path = FOLDER, now: float | None = None) -> list[Path]:
    """Return the files of past days that no process will write to any more."""
    now = time.time() if now is None else now
    today = datetime.fromtimestamp(now, UTC).date().isoformat()
    files = [
        path for day in sorted(folder.glob("????-??-??")) if day.name < today for path in sorted(day.glob("*.jsonl"))
    ]
    return [path for path in files if now - path.stat().st_mtime > SETTLED_SECONDS]


def rotate(folder: Path = FOLDER, now: float | None = None) -> int:
    """Convert complete files to Parquet, each atomically. Return how many lines could not be read."""
    return sum(_rotate(path) for path in complete(folder, now))


def _rotate(path: Path) -> int:
    with suppress(FileNotFoundError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # another process is converting it, or its own process has not finished with it
            return 0
        target = path.with_suffix(".parquet")
        unread = 0 if target.exists() else _write(file, target)
        with locked(path.parent.parent, alone=True):
            path.unlink()
        return unread
    return 0


def _write(lines: Iterable[bytes], target: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"VARCHAR": pa.string(), "JSON": pa.string(), "DOUBLE": pa.float64(), "BOOLEAN": pa.bool_()}
    kinds |= {"BIGINT": pa.int64(), "TIMESTAMP": pa.timestamp("ms")}
    schema = pa.schema([(name, kinds[kind]) for name, kind in COLUMNS.items()])
    lines, unread = iter(lines), 0
    with replacing(target) as aside, pq.ParquetWriter(aside, schema, compression="zstd") as writer:
        while some := list(islice(lines, ROWS_A_GROUP)):
            rows = [row for row in map(_read, some) if row]
            unread += len(some) - len(rows)
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    return unread


def _read(line: bytes) -> dict[str, Any] | None:
    """Parse a line of the log. Return None for an incomplete one."""
    try:
        row: dict[str, Any] = orjson.loads(line)
        at = datetime.fromisoformat(row["at"]).replace(tzinfo=None)
        return row | {"at": at, "features": orjson.dumps(row["features"]).decode()}
    except (ValueError, KeyError, TypeError):
        return None


if __name__ == "__main__":
    os.nice(10)
    if unread := rotate(Path(sys.argv[1])):
        print(f"{unread} lines of the log of predictions were not finished, and are left out", file=sys.stderr)
