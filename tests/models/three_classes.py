"""evaluate: measure the model on the held-out months, against a baseline, and hold it to the gates."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from lifecycle.contract import load_params, run_stage, write_json, write_text

from . import model
from .metrics import hold_to_gates
from .tables import FEATURES, LABEL
from .train import MODEL, split

SMALLEST_SLICE = 30

Array = np.ndarray[Any, np.dtype[Any]]


def truth_of(table: pa.Table) -> Array:
    """The class of each row."""
    return np.asarray(table[LABEL].combine_chunks().to_numpy(zero_copy_only=False))


def main() -> None:
    """Measure, and write the metrics and the slices. A failed gate is a result, not an error."""
    params = load_params()
    parts = split(pq.read_table(FEATURES), params.split)
    predicted, truth = model.load(MODEL).predict(parts.holdout), truth_of(parts.holdout)
    most_frequent = int(np.bincount(truth_of(parts.train)).argmax())
    accuracy, baseline = float(np.mean(predicted == truth)), float(np.mean(truth == most_frequent))
    metrics = {
        "rows": len(truth),
        "accuracy": round(accuracy, 6),
        "better_than_baseline": round(accuracy - baseline, 6),
    }
    slices: dict[str, dict[str, dict[str, float]]] = {}
    for column in params.monitoring.slices:
        values = np.array(parts.holdout[column].to_pylist())
        chosen = {value: values == value for value in sorted(set(values))}
        slices[column] = {
            value: {
                "rows": int(rows.sum()),
                "accuracy": round(float(np.mean(predicted[rows] == truth[rows])), 6),
            }
            for value, rows in chosen.items()
            if rows.sum() >= SMALLEST_SLICE
        }
    gates = hold_to_gates(metrics, params.evaluate.gates)
    write_json(Path("reports/metrics.json"), metrics)
    write_json(Path("reports/slices.json"), slices)
    write_json(Path("reports/gates.json"), gates)
    write_text(Path("reports/report.html"), f"<!doctype html><title>Accuracy</title><p>{accuracy:.3f}</p>\n")


if __name__ == "__main__":
    run_stage(main)
