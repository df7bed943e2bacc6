"""The log of predictions as a table, be it in JSON lines or in Parquet files.

    with duckdb.connect() as connection:
        relation(connection).filter("not shadow and error is null").aggregate("release, avg(score)", "release")

`features` is JSON, since each release has its own: `features->>'distance'`, or `json_transform(features, '{...}')`.
"""

import fcntl
import os
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import locked, replacing
from . import ids
from .log import COLUMNS, FOLDER

if TYPE_CHECKING:
    import duckdb

# A file of a day that is over, to which nobody has written for so long, is complete.
SETTLED_SECONDS = 600
ROWS_A_GROUP = 20_000


def relation(
    connection: "duckdb.DuckDBPyConnection", since: str = "", until: str = "9999", folder: Path = FOLDER
) -> "duckdb.DuckDBPyRelation":
    """Every logged row of these days (YYYY-MM-DD, both included), in no order; the columns are those of `COLUMNS`.

    A line that a killed process has not finished is left out.
    """
    parquet, lines = _files(folder, since, until)
    names = ", ".join(f'"{name}"' for name in COLUMNS)
    nothing = ", ".join(f'null::{kind} as "{name}"' for name, kind in COLUMNS.items())
    parts = [f"select {nothing} where false"]
    if parquet:
        parts.append(f"select * from read_parquet({_list(parquet)}, union_by_name = true)")  # noqa: S608  our own names
    if lines:
        kinds = ", ".join(f"'{name}': '{kind}'" for name, kind in COLUMNS.items())
        options = f"format = 'newline_delimited', columns = {{{kinds}}}, ignore_errors = true"
        read = f"select {names} from read_json({_list(lines)}, {options}) where features is not null"  # noqa: S608
        parts.append(read)
    # A file of before a column was there has null in it.
    return connection.sql(f"select {names} from ({' union all by name '.join(parts)})")  # noqa: S608


def find(prediction_id: str, folder: Path = FOLDER) -> list[dict[str, Any]]:
    """The lines of a prediction, the answered one first; of a request with several rows, those of all."""
    import duckdb
    import orjson

    day = ids.day(prediction_id)
    with locked(folder), duckdb.connect() as connection:
        found = relation(connection, day, day, folder)
        # The end of a range, and not a prefix: by that a Parquet file's statistics say where to look.
        chosen = found.filter(f"prediction_id >= '{prediction_id}' and prediction_id < '{prediction_id}-a'")
        chosen = chosen.filter(f"prediction_id = '{prediction_id}' or prediction_id like '{prediction_id}-%'")
        rows = chosen.order("prediction_id, shadow, error is not null").fetchall()
    named = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    return [row | {"features": orjson.loads(row["features"])} for row in named]


def counts(folder: Path = FOLDER) -> dict[str, int]:
    """How many predictions each release has answered with."""
    if not folder.exists():
        return {}
    import duckdb

    with locked(folder), duckdb.connect() as connection:
        answered = relation(connection, folder=folder).filter("not shadow and error is null")
        return dict(answered.aggregate("release, count(*)", "release").order("release").fetchall())


def _files(folder: Path, since: str, until: str) -> tuple[list[Path], list[Path]]:
    """The Parquet files and the files of JSON lines that are not one yet."""
    days = [day for day in sorted(folder.glob("????-??-??")) if since <= day.name <= until]
    parquet = [path for day in days for path in sorted(day.glob("*.parquet"))]
    done = {path.with_suffix("") for path in parquet}
    return parquet, [path for day in days for path in sorted(day.glob("*.jsonl")) if path.with_suffix("") not in done]


def _list(paths: list[Path]) -> str:
    quoted = (str(path).replace("'", "''") for path in paths)
    return "[" + ", ".join(f"'{path}'" for path in quoted) + "]"


def complete(folder: Path = FOLDER, now: float | None = None) -> list[Path]:
    """The files of days that are over, to which nothing more will come."""
    now = time.time() if now is None else now
    today = datetime.fromtimestamp(now, UTC).date().isoformat()
    files = [
        path for day in sorted(folder.glob("????-??-??")) if day.name < today for path in sorted(day.glob("*.jsonl"))
    ]
    return [path for path in files if now - path.stat().st_mtime > SETTLED_SECONDS]


def rotate(folder: Path = FOLDER, now: float | None = None) -> int:
    """Turn complete files into Parquet files, each in one step; returns how many lines could not be read."""
    return sum(_rotate(path) for path in complete(folder, now))


def _rotate(path: Path) -> int:
    with suppress(FileNotFoundError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # another process is at it, or its own is not done with it
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
    """A line of the log; None for one that was not finished."""
    import orjson

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
