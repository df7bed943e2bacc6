"""transform: dbt builds the feature table out of data/raw and tests it."""

import contextlib
import os
import shutil
from pathlib import Path

from ..errors import UserError
from ..params import load_params
from . import run_stage

PROJECT = Path("transform")
FEATURES = Path("data/features")


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
        failures = _dbt(["build", "--exclude-resource-type", "unit_test"], through)
        failures = failures or _dbt(["source", "freshness"], through)
    if failures:
        shutil.rmtree(FEATURES)
        raise UserError(
            f"dbt: {', '.join(failures)} did not pass; see above, mend the SQL in transform/models or the data, "
            "then run again"
        )


def generate_docs() -> Path:
    """Write dbt's documentation of the last build; returns the page to open."""
    through = load_params().data.through
    with contextlib.chdir(PROJECT):
        failures = _dbt(["docs", "generate", "--static", "--quiet"], through)
    if failures:
        raise UserError(f"dbt: {', '.join(failures)} failed; run the pipeline first")
    return PROJECT / "target" / "static_index.html"


def _dbt(arguments: list[str], through: str) -> list[str]:
    """Run dbt in this process; returns the names of what failed."""
    os.environ.update(DATA_THROUGH=through, DO_NOT_TRACK="1", DBT_SEND_ANONYMOUS_USAGE_STATS="false")
    from dbt.cli.main import dbtRunner

    result = dbtRunner().invoke([*arguments, "--no-use-colors"])
    if result.success:
        return []
    results = getattr(result.result, "results", [])
    bad = [each.node.name for each in results if each.status not in ("success", "pass", "warn", "skipped")]
    return bad or [f"`{' '.join(arguments)}` ({' '.join(str(result.exception).split())[:300]})"]


if __name__ == "__main__":
    run_stage(main)
