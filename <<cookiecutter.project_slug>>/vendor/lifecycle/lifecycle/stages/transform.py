"""transform: dbt builds the feature table out of data/raw and tests it."""

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from ..contract import run_stage
from ..errors import UserError
from ..files import sha256, write_json, write_text
from ..params import load_params

PROJECT = Path("transform")
FEATURES = Path("data/features")
SQL = Path("reports/sql")


def main() -> None:
    """Run the models and their data tests, then ask whether the raw data reaches the watermark.

    Raises:
        UserError: a model or a test failed; names them.
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
            f"dbt: {', '.join(failures)} did not pass; see above, mend the SQL in transform/models or the data, "
            "then run again"
        )
    keep_sql()


def keep_sql() -> None:
    """Write the SQL that each model compiled to, and what it was read from, without what differs from run to run."""
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
    """Name and type of each column of a source or a seed, by a look at its files."""
    import duckdb

    place = node["relation_name"] if node["resource_type"] == "source" else f"'{node['original_file_path']}'"
    with contextlib.chdir(PROJECT):
        found = duckdb.connect().execute(f"describe from {place}").fetchall()
    return {name: kind for name, kind, *_ in found}


def generate_docs() -> Path:
    """Write dbt's documentation of the last build; returns the page to open.

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
    """dbt in this process and this folder; reads the project once."""

    def __init__(self, through: str) -> None:
        """Args: through: the watermark, for the question how fresh the raw data is."""
        os.environ.update(DATA_THROUGH=through, DO_NOT_TRACK="1")
        from dbt.cli.main import dbtRunner
        from dbt.contracts.graph.manifest import Manifest

        parsed = dbtRunner().invoke(["parse", "--quiet"])
        if not isinstance(parsed.result, Manifest):
            raise UserError(f"dbt cannot read the project: {' '.join(str(parsed.exception).split())[:300]}")
        self._runner = dbtRunner(manifest=parsed.result)

    def failures(self, *arguments: str) -> list[str]:
        """Run a dbt command; returns the names of what did not pass."""
        done = self._runner.invoke([*arguments, "--no-use-colors"])
        if done.success:
            return []
        results = getattr(done.result, "results", [])
        bad = [each.node.name for each in results if each.status not in ("success", "pass", "warn", "skipped")]
        return bad or [f"`{' '.join(arguments)}` ({' '.join(str(done.exception).split())[:300]})"]


if __name__ == "__main__":
    run_stage(main)
