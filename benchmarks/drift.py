"""Drift of a million rows: the project's own measure in SQL, beside the same PSI in numpy.

Usage, in a baked project:  .venv/bin/python .../benchmarks/drift.py [ROWS]
"""

import importlib
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import pyarrow as pa

NUMBERS, TEXTS, RUNS = 12, 3, 3


def rows(many: int, seed: int, shift: float) -> pa.Table:
    """Numbers of several shapes, some missing, and texts of 8, 50 and 400 values."""
    random = np.random.default_rng(seed)
    columns = {}
    for number in range(NUMBERS):
        shape = (random.normal, random.exponential, random.uniform)[number % 3]
        values = shape(size=many) + shift
        values[random.random(many) < 0.02] = np.nan
        columns[f"x{number}"] = pa.array(np.round(values, 3 + number % 4), from_pandas=True)
    for number, width in enumerate((8, 50, 400)):
        codes = random.integers(0, width, many)
        names = pa.array([f"c{code}" for code in range(width)])
        columns[f"s{number}"] = names.take(pa.array(codes))
    return pa.table(columns)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Median of wall and CPU seconds."""
    walls, cpus = [], []
    for _ in range(RUNS):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return statistics.median(walls), statistics.median(cpus)


def psi_in_numpy(reference: pa.Table, recent: pa.Table) -> list[float]:
    """The bare computation for the numbers alone: ten bins at the reference's quantiles."""
    found = []
    for number in range(NUMBERS):
        shares = []
        for table in (reference, recent):
            values = table[f"x{number}"].to_numpy()
            if not shares:
                edges = np.unique(np.nanquantile(values, np.arange(1, 10) / 10))
            there = values[~np.isnan(values)]
            bins = np.searchsorted(edges, there, side="left")
            counts = np.append(
                np.bincount(bins, minlength=len(edges) + 1), len(values) - len(there)
            )
            shares.append((counts + 0.5) / (counts + 0.5).sum())
        p, q = shares
        found.append(float(np.sum((q - p) * np.log(q / p))))
    return found


def main(many: int) -> None:
    """Print one line a measure."""
    summary, drift, window = (
        importlib.import_module(f"lifecycle.monitoring.{name}")
        for name in ("summary", "drift", "window")
    )
    connection = window.connect()
    reference, recent = rows(many, 1, 0.0), rows(many, 2, 0.1)
    connection.register("reference", reference)
    connection.register("recent", recent)
    kinds = {f.name: summary.kind_of(str(f.type)) for f in reference.schema}
    columns = summary.cut(connection, "reference", kinds)
    before = summary.summarise(connection, "reference", columns)["all"]

    def all_checks() -> dict[str, list[float | None]]:
        now = summary.summarise(connection, "recent", columns)["all"]
        return {
            name: [check(before[column.name], now[column.name]) for column in columns]
            for name, check in drift.CHECKS.items()
        }

    found = all_checks()
    bare = psi_in_numpy(reference, recent)
    # The edges are other quantiles of the same rows: the figures agree, not to the last digit.
    off = max(abs(a - b) for a, b in zip(found["psi"], bare, strict=False))
    print(
        f"{many:,} rows x {len(columns)} columns, {os.cpu_count()} cores; "
        f"largest difference {off:.4f}"
    )
    measures = {
        "bins of the profile, once a release": lambda: summary.cut(connection, "reference", kinds),
        "psi, distance, nulls, outside of recent rows": all_checks,
        "psi of the numbers alone, in numpy": lambda: psi_in_numpy(reference, recent),
    }
    for name, work in measures.items():
        wall, cpu = timed(work)
        print(f"| {name} | {wall:.2f} | {cpu:.2f} |")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
