"""Recent inputs as relations of the same form, regardless of where the rows come from.

Each has the model's features, and `_key`, `_at` (UTC), `_score`, `_label` (null: not known yet), `_request` (its id),
`_latency_ms` and `_error`. Rows come from the feature table, one window per month, scored here by the release's model;
or from the prediction log, one window per day or hour, scored when they were requested.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import UserError, one_line
from ..files import locked
from ..params import MonitoredColumns
from ..predictions.log import FOLDER, relation
from ..releases.online import SAME
from .summary import quoted, text

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

# Rows of a request with several have their position after its id (UUID).
REQUEST = "regexp_replace(prediction_id, '^(.{36})-[0-9]+$', '\\1')"
Grain = Literal["month", "day", "hour"]


@dataclass(frozen=True)
class Window:
    """A set of rows, by the name of their relation. `start` and `end`: the earliest and the latest time."""

    source: Literal["features", "log"]
    grain: Grain
    name: str
    start: datetime
    end: datetime
    rows: int
    relation: str


def connect() -> "DuckDBPyConnection":
    """Open a database in memory in which all times are UTC."""
    import duckdb

    connection = duckdb.connect()
    connection.execute("set TimeZone = 'UTC'")
    return connection


def score_rows(
    connection: "DuckDBPyConnection", name: str, selected: str, columns: MonitoredColumns, model: Any
) -> None:
    """Create the relation `name`: rows of the feature table with the model's predictions.

    Raises:
        UserError: the table lacks a column.
    """
    import duckdb
    import pyarrow as pa

    meta = {"_key": columns.key, "_at": columns.time, "_label": columns.label, "_part": columns.month}
    named = ", ".join(f"{quoted(column)} as {alias}" for alias, column in meta.items())
    try:
        rows: Any = connection.sql(f"select *, {named} from {selected}").to_arrow_table()
        scores = model.predict(rows)
    except (duckdb.BinderException, KeyError) as error:
        raise UserError(
            f"the feature table lacks what the release or params.yaml asks for: {one_line(error)}"
        ) from None
    kinds = {"_request": pa.string(), "_latency_ms": pa.float64(), "_error": pa.string()}
    empty = {column: pa.nulls(rows.num_rows, kind) for column, kind in kinds.items()}
    for column, values in {"_score": pa.array(scores, pa.float64()), **empty}.items():
        rows = rows.append_column(column, values)
    connection.register(name, rows)


def of_features(
    connection: "DuckDBPyConnection", table: Path, months: list[str], columns: MonitoredColumns, model: Any
) -> Iterator[Window]:
    """Yield a window for each of these months of the feature table."""
    for number, month in enumerate(months):
        name = f"features_{number}"
        where = f"where {quoted(columns.month)}::varchar = {text(month)}"
        score_rows(connection, name, f"read_parquet({text(str(table))}) {where}", columns, model)
        yield _window(connection, "features", "month", month, name)
        connection.unregister(name)


def months_of(connection: "DuckDBPyConnection", table: Path, columns: MonitoredColumns) -> list[str]:
    """Return the months of a feature table, oldest first.

    Raises:
        UserError: there is no such table, or it has no such column.
    """
    import duckdb

    sql = f"select distinct {quoted(columns.month)}::varchar from read_parquet({text(str(table))}) order by 1"
    try:
        return [month for (month,) in connection.execute(sql).fetchall() if month is not None]
    except (duckdb.IOException, duckdb.BinderException) as error:
        raise UserError(f"{table} cannot be read ({one_line(error, 120)}): `run` makes it") from None


def of_log(
    connection: "DuckDBPyConnection",
    release: str,
    features: dict[str, str],
    grain: Grain,
    newest: int,
    labels: tuple[Path, MonitoredColumns],
    folder: Path = FOLDER,
) -> tuple[list[Window], dict[str, int]]:
    """Return the newest windows with predictions of a release, oldest first, and how many rows of each do not count.

    A client can send any features with any key. So a row with a known key counts only if its features match the online
    table (as the server has checked), or else the feature table. The outcome of a key counts once in a window, however
    often it was requested.

    Args:
        connection: where to create the relations.
        release: its id.
        features: name -> type, as in the record.
        grain: the length of a window.
        newest: how many windows.
        labels: the feature table that gets the outcomes, by key, and the names of its columns.
        folder: the log's folder.
    """
    with locked(folder):
        _make_log(connection, release, features, grain, labels, folder)
    windows, left_out = [], {}
    sql = (
        f"select date_trunc('{grain}', _at), count(*) filter (_counts), count(*) filter (not _counts) "
        f"from log where _at is not null group by 1 order by 1 desc limit {newest}"
    )
    for number, (start, counting, others) in enumerate(sorted(connection.execute(sql).fetchall())):
        name = f"log_{number}"
        connection.execute(
            f"create or replace temp view {name} as select * from log "
            f"where _counts and _at >= timestamp '{start}' and _at < timestamp '{start}' + interval 1 {grain}"
        )
        shown = start.strftime("%Y-%m-%d" if grain == "day" else "%Y-%m-%dT%H")
        if counting:
            windows.append(_window(connection, "log", grain, shown, name))
        if others:
            left_out[shown] = others
    return windows, left_out


def _make_log(
    connection: "DuckDBPyConnection",
    release: str,
    features: dict[str, str],
    grain: Grain,
    labels: tuple[Path, MonitoredColumns],
    folder: Path,
) -> None:
    kinds = {name: _sql_type(kind) for name, kind in features.items()}
    relation(connection, folder=folder).create_view("everything", replace=True)
    connection.execute(
        f"create or replace temp table logged as select * replace (from_json(features, {text(json.dumps(kinds))}) as "
        f"features) from everything where release = {text(release)} "
        'qualify row_number() over (partition by prediction_id order by "at") = 1'
    )
    known, same = _known(connection, kinds, *labels)
    once = f'partition by "key", _counts, date_trunc(\'{grain}\', "at") order by score is null, "at", prediction_id'
    connection.execute(
        f"create or replace temp table log as with known as ({known}), judged as ("
        f'select *, coalesce(agrees, _k is null or {same}) as _counts from logged left join known on _k = "key") '
        f'select "key" as _key, "at" as _at, score as _score, {REQUEST} as _request, latency_ms as _latency_ms, '
        "error as _error, _counts, "
        f"case when row_number() over ({once}) = 1 then _outcome end as _label, "
        "strftime(\"at\", '%Y-%m') as _part, unnest(features) from judged"
    )


def _known(
    connection: "DuckDBPyConnection", kinds: dict[str, str], table: Path, columns: MonitoredColumns
) -> tuple[str, str]:
    """Return SQL for the feature table's rows of the keys in `logged`, and the condition that they agree.

    Columns: _k (the key), _outcome, and the features as _f0, _f1, ...
    """
    if not table.exists():
        return "select null::varchar as _k, null::boolean as _outcome where false", "true"
    there = {name for name, *_ in connection.execute(f"describe from read_parquet({text(str(table))})").fetchall()}
    shared = [name for name in kinds if name in there]
    named = [f"{quoted(columns.key)}::varchar as _k", f"{quoted(columns.label)} as _outcome"]
    named += [f"try_cast({quoted(name)} as {kinds[name]}) as _f{number}" for number, name in enumerate(shared)]
    known = (
        f"select {', '.join(named)} from read_parquet({text(str(table))}) "
        'where _k in (select "key" from logged) qualify row_number() over (partition by _k) = 1'
    )
    conditions = [_same(f"features.{quoted(name)}", f"_f{at}", kinds[name]) for at, name in enumerate(shared)]
    return known, f"({' and '.join(conditions) or 'true'})"


def _same(sent: str, known: str, kind: str) -> str:
    if kind != "DOUBLE":
        return f"{sent} is not distinct from {known}"
    sent, known = (f"nullif({each}, 'nan'::double)" for each in (sent, known))  # JSON can only represent NaN as null
    close = f"abs({sent} - {known}) <= {SAME} * greatest(abs({sent}), abs({known}))"
    return f"coalesce({sent} is not distinct from {known} or {close}, false)"


def _sql_type(arrow: str) -> str:
    """Return DuckDB's name for an Arrow type in the record."""
    if arrow.startswith(("int", "uint")):
        return "BIGINT"
    if arrow.startswith(("double", "float", "half", "decimal")):
        return "DOUBLE"
    if arrow.startswith(("timestamp", "date")):
        return "TIMESTAMP"
    return "BOOLEAN" if arrow == "bool" else "VARCHAR"


def _window(
    connection: "DuckDBPyConnection", source: Literal["features", "log"], grain: Grain, name: str, relation: str
) -> Window:
    sql = f"select min(_at)::timestamp, max(_at)::timestamp, count(*) from {relation}"
    [(start, end, rows)] = connection.execute(sql).fetchall()
    return Window(source, grain, name, start, end, rows, relation)
