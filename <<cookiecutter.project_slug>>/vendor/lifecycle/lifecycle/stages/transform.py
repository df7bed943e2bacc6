"""transform: build the feature table from data/raw with dbt, and test it."""

import contextlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from ..contract import run_stage
from ..errors import UserError, one_line
from ..files import sha256, write_json, write_text
from ..params import load_params

PROJECT = Path("transform")
FEATURES = Path("data/features")
SQL = Path("reports/sql")
FAILURES = Path("failures.json")
# dbt's cache of the parsed project; relative to PROJECT.
PARSED = Path("target/partial_parse.msgpack")


def main() -> None:
    """Run the models and their data tests, then check whether the raw data reaches the watermark.

    Raises:
        UserError: a model or a test failed; the message names them.
    """
    through = load_params().data.through
    FEATURES.mkdir(parents=True, exist_ok=True)
    target = PROJECT / "target"
    target.mkdir(exist_ok=True)
    for leftover in target.glob("scratch.duckdb*"):
        leftover.unlink()
    with contextlib.chdir(PROJECT):
        dbt = Dbt(through)
        failures = dbt.failures("build", "--exclude-resource-type", "unit_test") or dbt.failures("source", "freshness")
    if failures:
        shutil.rmtree(FEATURES)
        raise UserError(
            f"dbt: {', '.join(failures)} did not pass; see above, fix the SQL in transform/models or the data, "
            "then run again"
        )
    keep_sql()


def check() -> None:
    """Build and test the staging models, and check how fresh the raw data is. Write each failed test to FAILURES.

    Raises:
        UserError: a model cannot be built.
    """
    through = load_params().data.through
    with contextlib.chdir(PROJECT):
        dbt = Dbt(through)
        staging = ("--select", "+path:models/staging", "--indirect-selection", "cautious")
        failures = dbt.failed_tests("build", *staging, "--exclude-resource-type", "unit_test")
        failures += dbt.failed_tests("source", "freshness")
    write_json(FAILURES, failures)


def keep_sql() -> None:
    """Write each model's compiled SQL and inputs, without anything that differs from run to run."""
    manifest = json.loads((PROJECT / "target/manifest.json").read_text(encoding="utf-8"))
    nodes = manifest["nodes"] | manifest["sources"]
    kept = {}
    for name, node in sorted(nodes.items()):
        if node["resource_type"] not in ("model", "seed", "source"):
            continue
        file = PROJECT / node["original_file_path"]
        kept[name] = {"file": str(file), "sha256": sha256(file), "relation": node["relation_name"]}
        if node["resource_type"] == "model":
            write_text(SQL / f"{node['name']}.sql", node["compiled_code"].strip() + "\n")
            kept[name] |= {"compiled": f"{node['name']}.sql", "reads": sorted(node["depends_on"]["nodes"])}
        else:
            kept[name]["columns"] = _columns(node)
    tests = {
        name: {"column": node.get("column_name"), "reads": sorted(node["depends_on"]["nodes"])}
        for name, node in sorted(nodes.items())
        if node["resource_type"] == "test"
    }
    write_json(SQL / "nodes.json", {"dbt": manifest["metadata"]["dbt_version"], "nodes": kept, "tests": tests})


def _columns(node: dict[str, Any]) -> dict[str, str]:
    """Return name and type of each column of a source or a seed, from its files."""
    import duckdb

    place = node["relation_name"] if node["resource_type"] == "source" else f"'{node['original_file_path']}'"
    with contextlib.chdir(PROJECT):
        found = duckdb.connect().execute(f"describe from {place}").fetchall()
    return {name: kind for name, kind, *_ in found}


def generate_docs() -> Path:
    """Write dbt's documentation of the last build. Return the page to open.

    Raises:
        UserError: there is no build to document.
    """
    through = load_params().data.through
    with contextlib.chdir(PROJECT):
        failures = Dbt(through).failures("docs", "generate", "--static", "--quiet")
    if failures:
        raise UserError(f"dbt: {', '.join(failures)} failed; run the pipeline first")
    return PROJECT / "target" / "static_index.html"


class Dbt:
    """Run dbt in this process and this folder. Reads the project once."""

    def __init__(self, through: str) -> None:
        """Args: through: the watermark, for checking how fresh the raw data is."""
        os.environ.update(DATA_THROUGH=through, DO_NOT_TRACK="1")
        from dbt.cli.main import dbtRunner
        from dbt.contracts.graph.manifest import Manifest

        parsed = dbtRunner().invoke(["parse", "--quiet"])
        if not isinstance(parsed.result, Manifest):
            raise UserError(f"dbt cannot read the project: {one_line(parsed.exception)}")
        self._manifest = parsed.result
        self._runner = dbtRunner(manifest=parsed.result)

    def failures(self, *arguments: str) -> list[str]:
        """Run a dbt command. Return the names of everything that did not pass."""
        return [each.node.name for each in self._failed(*arguments)]

    def failed_tests(self, *arguments: str) -> list[dict[str, Any]]:
        """Run a dbt command. Return each failed test: its name and file, its findings, its raw tables.

        Raises:
            UserError: something other than a test did not pass.
        """
        found = []
        for each in self._failed(*arguments, "--no-write-json"):
            node = each.node
            if node.resource_type == "test" and each.status == "fail":
                detail, declared = f"{each.failures:,} rows fail this test in SQL", node.original_file_path
            elif node.resource_type == "source" and each.status == "error":
                days = each.age / 86_400
                detail, declared = (
                    f"its newest row is {days:.0f} days older than the window's end",
                    "models/sources.yml",
                )
            else:
                raise UserError(f"dbt: {node.name} did not pass: {one_line(each.message)}")
            tables = sorted(self._tables(node.unique_id))
            found.append({"name": node.name, "detail": detail, "declared": str(PROJECT / declared), "tables": tables})
        return found

    def _tables(self, name: str) -> set[str]:
        if name in self._manifest.sources:
            return {self._manifest.sources[name].name}
        node = self._manifest.nodes[name]
        return {table for each in node.depends_on_nodes for table in self._tables(each)}

    def _failed(self, *arguments: str) -> list[Any]:
        done = self._runner.invoke([*arguments, "--no-use-colors"])
        if done.success:
            return []
        results = getattr(done.result, "results", [])
        failed = [each for each in results if each.status not in ("success", "pass", "warn", "skipped")]
        if not failed:
            raise UserError(f"dbt: `{' '.join(arguments)}` failed: {one_line(done.exception)}")
        return failed


if __name__ == "__main__":
    run_stage(check if sys.argv[1:] == ["check"] else main)
