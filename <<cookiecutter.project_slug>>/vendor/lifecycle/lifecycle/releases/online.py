"""The online table: the feature table's rows by key, for requests that send a key instead of features.

    .lifecycle/online/<features>-<sql>.sqlite   never changed after it is created
    .lifecycle/online/current.json              the tables in use, newest first, one for each digest of the SQL

A table depends only on the feature table that dvc.lock names. Its name contains the first twelve characters of that
file's SHA-256, which release records hold too, and of the compiled SQL's digest. A release is served only with features
from its own SQL, so the previous SQL's table is kept for the current release until the next one is served.
"""

import json
import sqlite3
import time
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import file_lock, replacing, sha256, write_json
from ..params import MonitoredColumns
from . import ledger as book
from .features import Built, built_below, newest
from .pipeline import artifacts
from .record import SQL_FILE, sql_digest, sql_of
from .store import Store

FOLDER = Path(".lifecycle/online")
POINTER = FOLDER / "current.json"
TABLE = "features"
# Relative tolerance for equal numbers: covers 32-bit numbers and text with six digits.
SAME = 1e-6
# How many tables of different SQL to keep: the one being served and the next.
KEPT = 2
BATCH = 20_000


@dataclass(frozen=True)
class OnlineTable:
    """One table in the pointer. `newest`: time of its newest row, UTC; `release`: one made of the same features."""

    name: str
    sha256: str
    table: str
    features_md5: str
    features_sha256: str
    sql: str
    key: str
    key_type: str
    columns: dict[str, str]
    rows: int
    newest: str
    built: str
    release: str | None

    @property
    def path(self) -> Path:
        """The path of the table's file."""
        return FOLDER / f"{self.name}.sqlite"


@dataclass(frozen=True)
class Refreshed:
    """The outcome of a refresh."""

    table: OnlineTable
    new: bool
    seconds: float


def current() -> list[OnlineTable]:
    """Return the tables in use, newest first. Empty if none was ever made.

    Raises:
        UserError: the pointer is damaged.
    """
    try:
        return [OnlineTable(**each) for each in json.loads(POINTER.read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError):
        raise UserError(f"{POINTER} is damaged: `refresh` writes it again") from None


def refresh(columns: MonitoredColumns) -> Refreshed:
    """Update the online table to the feature table that dvc.lock names.

    If the process is killed, the previous tables stay in use and the next refresh starts over.

    Raises:
        UserError: there is no feature table, or it contains values that an online table or a request cannot hold.
    """
    start = time.monotonic()
    store = Store()
    built = _feature_table(columns, store)
    sql = _sql(store)
    with file_lock(FOLDER / ".lock"):  # one refresh at a time
        before = _known()
        digest = sha256(built.file)
        name = f"{digest[:12]}-{sql[:12]}"
        same = next((each for each in before if each.name == name and _is_whole(each)), None)
        table = same or build(name, built, digest, sql, columns)
        table = OnlineTable(**asdict(table) | {"release": _release_of(built.path, digest)})
        kept = [table, *(each for each in before if each.sql != sql)][:KEPT]
        if kept != before:
            write_json(POINTER, [asdict(each) for each in kept])
        _clean_up({each.path for each in kept})
    return Refreshed(table, same is None, time.monotonic() - start)


def _feature_table(columns: MonitoredColumns, store: Store) -> Built:
    """Return the first of dvc.yaml's feature tables that has the key."""
    import pyarrow.parquet as pq

    tables = [newest(each["path"], store) for each in artifacts().values() if each["type"] == "dataset"]
    for table in tables:
        if columns.key in pq.read_schema(table.file).names:
            return table
    raise UserError(f"no feature table of dvc.yaml has the column {columns.key} (params.yaml, monitoring.columns.key)")


def _sql(store: Store) -> str:
    files = {file.path: store.object_path(file.md5) for file in built_below(SQL_FILE, store)}
    if SQL_FILE not in files:
        return sql_digest(None)
    nodes = json.loads(files[SQL_FILE].read_bytes())
    return sql_digest(sql_of(nodes, {path: sha256(file) for path, file in files.items()}))


def _known() -> list[OnlineTable]:
    with suppress(UserError):  # a damaged pointer is rewritten
        return [each for each in current() if each.path.exists()]
    return []


def _is_whole(table: OnlineTable) -> bool:
    return table.path.exists() and sha256(table.path) == table.sha256


def _release_of(path: str, digest: str) -> str | None:
    """Return the newest release made of exactly this feature table."""
    ledger = book.load()
    made = [
        (str(release.observed["at"]), release.id)
        for release in ledger.read_releases(ledger.releases)
        if any((each["path"], each["sha256"]) == (path, digest) for each in release.materials["features"])
    ]
    return max(made)[1] if made else None


def build(name: str, built: Built, digest: str, sql: str, columns: MonitoredColumns) -> OnlineTable:
    """Create a table's file from a feature table. `digest` is the table's SHA-256, `sql` its SQL's digest.

    Raises:
        UserError: it contains values that an online table or a request cannot hold.
    """
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    rows = pq.read_table(built.file)
    types = _types(rows, columns)
    _check(rows, [columns.key, *types], columns.key)
    last = pc.max(rows[columns.time]).as_py()
    about: dict[str, Any] = {
        "table": built.path,
        "features_md5": built.md5,
        "features_sha256": digest,
        "sql": sql,
        "key": columns.key,
        "key_type": str(rows.schema.field(columns.key).type),
        "columns": types,
        "rows": rows.num_rows,
        "newest": _as_utc(last) if isinstance(last, datetime) else str(last),
    }
    file = FOLDER / f"{name}.sqlite"
    with replacing(file) as aside:
        _write(aside, rows.select([columns.key, *types]).sort_by(columns.key), about)
    return OnlineTable(name=name, sha256=sha256(file), built=book.now(), release=None, **about)


def _as_utc(time: datetime) -> str:
    return (time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time).isoformat()


def _types(rows: Any, columns: MonitoredColumns) -> dict[str, str]:
    """Return the columns that can be features of a request, with their types."""
    no_features = set(columns.model_dump().values())
    kinds = {field.name: str(field.type) for field in rows.schema if field.name not in no_features}
    return {name: kind for name, kind in kinds.items() if _stored_as(kind)}


def _stored_as(kind: str) -> str | None:
    """Return the SQLite type for an Arrow type, or None for one that a request cannot carry either."""
    if kind == "bool" or kind.startswith(("int", "uint")):
        return "INTEGER"
    if kind in ("halffloat", "float", "double"):
        # REAL would turn -0.0 into 0.0. ANY keeps every bit.
        return "ANY"
    return "TEXT" if kind in ("string", "large_string") else None


def _check(rows: Any, names: list[str], key: str) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    for name in names:
        column = rows[name]
        if pa.types.is_floating(column.type) and not pc.all(pc.is_finite(column.cast("float64"))).as_py():
            raise UserError(
                f"{name} of the feature table has NaN or Infinity, which a request cannot hold: make it null"
            )
        if column.type == pa.uint64() and (pc.max(column).as_py() or 0) >= 2**63:
            raise UserError(f"{name} of the feature table has numbers of 2^63 and more, which SQLite cannot hold")
    if _stored_as(str(rows[key].type)) not in ("INTEGER", "TEXT") or rows[key].type == pa.bool_():
        raise UserError(f"the key {key} is of type {rows[key].type}: a request names a row by a text or a whole number")
    if rows[key].null_count:
        raise UserError(f"the feature table has {rows[key].null_count} rows without {key}, its key")
    if len(rows[key].unique()) < rows.num_rows:
        twice = next(each["values"] for each in pc.value_counts(rows[key]).to_pylist() if each["counts"] > 1)
        raise UserError(f"{key} {twice} is in the feature table twice: it is not a key")


def _write(file: Path, rows: Any, about: dict[str, Any]) -> None:
    """Write a table from scratch. The caller must expose only a complete file."""
    file.unlink(missing_ok=True)
    key, *names = rows.column_names
    declared = [f"{quoted(key)} {_stored_as(about['key_type'])} PRIMARY KEY NOT NULL"]
    declared += [f"{quoted(name)} {_stored_as(kind)}{_check_of(name, kind)}" for name, kind in about["columns"].items()]
    marks = ", ".join("?" * (len(names) + 1))
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("pragma journal_mode = off")
        connection.execute("pragma synchronous = off")  # the whole file is flushed afterwards
        connection.execute("create table meta (name TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL) strict")
        connection.executemany("insert into meta values (?, ?)", [(each, json.dumps(about[each])) for each in about])
        connection.execute(f"create table {TABLE} ({', '.join(declared)}) strict, without rowid")
        for batch in rows.to_batches(max_chunksize=BATCH):
            values = zip(*(column.to_pylist() for column in batch.columns), strict=True)
            connection.executemany(f"insert into {TABLE} values ({marks})", values)  # noqa: S608  our own name


def _check_of(name: str, kind: str) -> str:
    return f" CHECK (typeof({quoted(name)}) in ('real', 'null'))" if _stored_as(kind) == "ANY" else ""


def quoted(name: str) -> str:
    """Quote a name for SQL."""
    return '"' + name.replace('"', '""') + '"'


def _clean_up(keep: set[Path]) -> None:
    """Delete other tables and leftovers of killed processes. A server with one open can still read it."""
    for path in (*FOLDER.glob("*.sqlite"), *FOLDER.glob(".*.tmp")):
        if path not in keep:
            path.unlink(missing_ok=True)
