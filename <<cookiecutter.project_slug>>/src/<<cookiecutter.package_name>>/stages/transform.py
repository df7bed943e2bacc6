"""transform: dbt builds the feature table out of data/raw and tests it."""

import contextlib
import json
import os
import shutil
from pathlib import Path

from ..errors import UserError
from ..files import write_json, write_text
from ..params import load_params
from . import run_stage

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
    """Write the SQL that each model compiled to, and what each reads, without what differs from run to run."""
    manifest = json.loads((PROJECT / "target/manifest.json").read_text(encoding="utf-8"))
    models = [node for node in manifest["nodes"].values() if node["resource_type"] == "model"]
    for model in models:
        write_text(SQL / f"{model['name']}.sql", model["compiled_code"].strip() + "\n")
    nodes = {
        model["unique_id"]: {
            "file": str(PROJECT / model["original_file_path"]),
            "compiled": f"{model['name']}.sql",
            "reads": sorted(model["depends_on"]["nodes"]),
        }
        for model in models
    }
    write_json(SQL / "nodes.json", {"dbt": manifest["metadata"]["dbt_version"], "nodes": nodes})


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
