"""The dbt project: its own unit tests, what its SQL may say, its contract, its freshness, its pages."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from lifecycle.contract import load_params
from lifecycle.testing import ROOT, cli, digests, edit_params, environment

from << cookiecutter.__package_name >>.tables import FEATURES, TABLES

from synthetic import MONTHS

# Whatever gives another answer on another day, or on another try.
NOT_PURE = re.compile(
    r"\b(now|today|current_\w+|get_current_\w+|local(time|timestamp)|transaction_timestamp|age"
    r"|random|rand|setseed|(gen_random_)?uuid\w*|nextval|currval|tablesample|using\s+sample|txid_current)\b",
    re.IGNORECASE,
)


def dbt(*arguments: str, through: str = MONTHS[-1]) -> subprocess.CompletedProcess[str]:
    """Run dbt by hand in the project that the test stands in."""
    return subprocess.run(
        [sys.executable, "-m", "dbt.cli.main", *arguments, "--no-use-colors"],
        cwd="transform",
        env=environment(Path.cwd(), DATA_THROUGH=through, DBT_SEND_ANONYMOUS_USAGE_STATS="false"),
        capture_output=True,
        text=True,
        timeout=120,
    )


def stage() -> subprocess.CompletedProcess[str]:
    """Run the stage as DVC does."""
    return subprocess.run(
        [sys.executable, "-m", "lifecycle.stages.transform"],
        env=environment(Path.cwd()),
        capture_output=True,
        text=True,
        timeout=120,
    )


def target(project: Path, name: str) -> Any:
    return json.loads((project / "transform/target" / name).read_text(encoding="utf-8"))


def other_keys(rows: pd.DataFrame, key: tuple[str, ...], copy: int) -> pd.DataFrame:
    """The same rows under keys of their own, another set for each copy."""
    numbers = rows[[*key]].select_dtypes("integer").columns
    name = numbers[0] if len(numbers) else rows[[*key]].select_dtypes(["object", "string"]).columns[0]
    cells = rows[name]
    return rows.assign(**{name: cells + copy * (cells.max() - cells.min() + 1) if len(numbers) else cells + f"-{copy}"})


def test_the_unit_tests_of_the_sql_pass(built: Path) -> None:
    done = dbt("test", "--select", "test_type:unit")
    assert done.returncode == 0, done.stdout
    passed = [
        each["unique_id"]
        for each in target(built, "run_results.json")["results"]
        if each["unique_id"].startswith("unit_test.") and each["status"] == "pass"
    ]
    declared = [
        each["name"]
        for path in (ROOT / "transform/models").rglob("unit_tests.yml")
        for each in yaml.safe_load(path.read_text(encoding="utf-8"))["unit_tests"]
    ]
    assert declared
    assert len(passed) == len(declared)


def test_unit_tests_are_no_part_of_the_build_and_data_tests_are(finished: Path) -> None:
    kinds = [each["unique_id"].split(".")[0] for each in target(finished, "run_results.json")["results"]]
    assert "unit_test" not in kinds
    assert kinds.count("test") > 10


def test_no_model_depends_on_the_day_or_on_chance(finished: Path) -> None:
    models = [node for node in target(finished, "manifest.json")["nodes"].values() if node["resource_type"] == "model"]
    assert len(models) == len([*(finished / "transform/models").rglob("*.sql")]) > 0
    for node in models:
        compiled = finished / "transform" / node["compiled_path"]
        said = re.sub(r"--.*|'[^']*'", "", compiled.read_text(encoding="utf-8"))
        assert not NOT_PURE.search(said), f"{node['name']}: {NOT_PURE.search(said)}"


@pytest.mark.parametrize("sql", ["select now()", "CURRENT_DATE", "order by random ()", "uuid()", "get_current_time()"])
def test_what_depends_on_the_day_or_on_chance_would_be_seen(sql: str) -> None:
    assert NOT_PURE.search(sql)


def test_every_table_and_column_is_described_on_dbts_pages(built: Path) -> None:
    done = cli("docs")
    assert done.returncode == 0, done.stdout + done.stderr
    page = Path(done.stdout.strip().removeprefix("open "))
    assert page.stat().st_size > 1_000_000
    manifest, catalog = target(built, "manifest.json"), target(built, "catalog.json")
    assert not catalog["errors"]
    described = {**manifest["nodes"], **manifest["sources"]}
    tables = {**catalog["nodes"], **catalog["sources"]}
    assert {f"raw.{name}" for name in TABLES} <= {name.partition(".")[2].partition(".")[2] for name in tables}
    for name, table in tables.items():
        assert described[name]["description"], name
        texts = {column: each["description"] for column, each in described[name]["columns"].items()}
        assert {column: bool(texts.get(column)) for column in table["columns"]} == dict.fromkeys(texts, True), name


def test_a_column_of_another_type_breaks_the_contract(built: Path) -> None:
    name, declared = load_params().monitoring.columns.time, Path("transform/models/features/features.yml")
    text = re.sub(rf"(- name: {name}\s+data_type:) timestamp", r"\1 date", declared.read_text(encoding="utf-8"))
    declared.write_text(text, encoding="utf-8")
    done = stage()
    assert done.returncode == 2
    assert f"{FEATURES.stem} did not pass" in done.stderr
    assert re.search(rf"{name}\s*\|\s*TIMESTAMP\s*\|\s*DATE", done.stdout)
    assert not FEATURES.exists()


def test_raw_data_that_ends_long_before_the_watermark_is_an_error(built: Path) -> None:
    edit_params(built, {"data": {"through": "2013-05"}})
    done = stage()
    assert done.returncode == 2
    for name, table in TABLES.items():
        assert (f"ERROR STALE freshness of raw.{name}" in done.stdout) == table.monthly
    assert done.stderr.startswith("error: dbt: ")
    assert not FEATURES.exists()


def test_threads_do_not_change_a_byte(built: Path) -> None:
    # DuckDB gives each thread some 120,000 rows of a table, or a file: a small table is the work of one.
    # The feature table has the name of the raw table whose rows it is about.
    table = TABLES[FEATURES.stem]
    for file in Path("data/raw", table.name).glob("*.parquet"):
        rows = pd.read_parquet(file)
        many = [other_keys(rows, table.key, copy) for copy in range(40_000 // len(rows))]
        pd.concat(many).to_parquet(file, index=False)
    found = set()
    for threads in (1, 4):
        profile = (ROOT / "transform/profiles.yml").read_text(encoding="utf-8")
        Path("transform/profiles.yml").write_text(f"{profile}        threads: {threads}\n", encoding="utf-8")
        done = dbt("run")
        assert done.returncode == 0, done.stdout
        found.add(digests(FEATURES)[str(FEATURES)])
    assert len(found) == 1
