"""evaluate: measure the model on the held-out months, against a baseline, and hold it to the gates."""

import numpy as np
import pyarrow.parquet as pq
from lifecycle.contract import load_params, run_stage

from . import model
from .metrics import Array, by_slice, hold_to_gates, measure, truth_of, write_plots
from .report import write_results
from .tables import FEATURES
from .train import MODEL, Parts, split

# A slice with fewer rows than this says more about chance than about the model.
SMALLEST_SLICE = 30
# What metrics.json calls the share of rows whose label is true.
POSITIVE = "positive"


def baselines(parts: Parts) -> dict[str, Array]:
    """The baseline: every row gets the share of positive ones in the training months."""
    return {"base_rate": np.full(parts.holdout.num_rows, truth_of(parts.train).mean())}


def main() -> None:
    """Measure, and write the metrics, the plots and the report. A failed gate is a result, not an error."""
    params = load_params()
    parts = split(pq.read_table(FEATURES), params.split)
    fitted = model.load(MODEL)
    probability, truth = fitted.predict(parts.holdout, params.train["threads"]), truth_of(parts.holdout)
    slices = by_slice(parts.holdout, probability, params.monitoring.slices, smallest=SMALLEST_SLICE, positive=POSITIVE)
    metrics = measure(truth, probability, baselines(parts), slices, positive=POSITIVE)
    write_plots(truth, probability, fitted.importance())
    write_results(metrics, slices, hold_to_gates(metrics, params.evaluate.gates), parts, POSITIVE)


if __name__ == "__main__":
    run_stage(main)
