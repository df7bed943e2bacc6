"""The prediction log as a table, from JSON lines and Parquet files.

    with duckdb.connect() as connection:
        relation(connection).filter("not shadow and error is null").aggregate("release, avg(score)", "release")

`features` is JSON, since each release has its own: `features->>'distance'`, or `json_transform(features, '{...}')`.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import locked
from . import ids

if TYPE_CHECKING:
    import duckdb

FOLDER = Path("logs/predictions")
COLUMNS = {
    "prediction_id": "VARCHAR",  # of the row; sorts by time
    "at": "TIMESTAMP",  # UTC, when the request arrived
    "release": "VARCHAR",
    "channel": "VARCHAR",  # production or canary
    "generation": "BIGINT",  # of the channel
    "key": "VARCHAR",  # the request's key, if it had one; else the row's own
    "shadow": "BOOLEAN",  # the client got another answer
    "score": "DOUBLE",  # null if there is an error
    "latency_ms": "DOUBLE",  # the model's time for all rows of the request
    "error": "VARCHAR",
    "request": "VARCHAR",  # SHA-256 of the body
    "features": "JSON",  # the model's inputs: as sent, plus what was filled in
    "online": "VARCHAR",  # the online table used to fill in features
    "agrees": "BOOLEAN",  # whether the features match that table's for this key; null if it does not have the key
}


def relation(
    connection: "duckdb.DuckDBPyConnection", since: str = "", until: str = "9999", folder: Path = FOLDER
) -> "duckdb.DuckDBPyRelation":
    """Return every logged row of these days (YYYY-MM-DD, both included), unordered, with the columns in `COLUMNS`.

    Skips a line that a killed process has not finished.
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
    # Files written before a column was added have null in it.
    return connection.sql(f"select {names} from ({' union all by name '.join(parts)})")  # noqa: S608


def find(prediction_id: str, folder: Path = FOLDER) -> list[dict[str, Any]]:
    """Return the lines of a prediction, the answered one first; for a request with several rows, those of all rows."""
    import duckdb

    day = ids.day(prediction_id)
    with locked(folder), duckdb.connect() as connection:
        found = relation(connection, day, day, folder)
        # The end of a range instead of a prefix: Parquet statistics can then be used to skip files.
        chosen = found.filter(f"prediction_id >= '{prediction_id}' and prediction_id < '{prediction_id}-a'")
        chosen = chosen.filter(f"prediction_id = '{prediction_id}' or prediction_id like '{prediction_id}-%'")
        rows = chosen.order("prediction_id, shadow, error is not null").fetchall()
    named = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    return [row | {"features": json.loads(row["features"])} for row in named]


def counts(folder: Path = FOLDER) -> dict[str, int]:
    """Return how many predictions each release has answered with."""
    if not folder.exists():
        return {}
    import duckdb

    with locked(folder), duckdb.connect() as connection:
        answered = relation(connection, folder=folder).filter("not shadow and error is null")
        return dict(answered.aggregate("release, count(*)", "release").order("release").fetchall())


def _files(folder: Path, since: str, until: str) -> tuple[list[Path], list[Path]]:
    """Return the Parquet files, and the JSON lines files that are not converted yet."""
    days = [day for day in sorted(folder.glob("????-??-??")) if since <= day.name <= until]
    parquet = [path for day in days for path in sorted(day.glob("*.parquet"))]
    done = {path.with_suffix("") for path in parquet}
    return parquet, [path for day in days for path in sorted(day.glob("*.jsonl")) if path.with_suffix("") not in done]


def _list(paths: list[Path]) -> str:
    quoted = (str(path).replace("'", "''") for path in paths)
    return "[" + ", ".join(f"'{path}'" for path in quoted) + "]"
