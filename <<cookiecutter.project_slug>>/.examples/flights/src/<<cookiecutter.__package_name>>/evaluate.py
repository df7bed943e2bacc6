"""evaluate: measure the model on the held-out months, against two baselines, and hold it to the gates."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from lifecycle.contract import load_params, run_stage

from . import model
from .metrics import Array, by_slice, hold_to_gates, measure, truth_of, write_plots
from .report import write_results
from .tables import FEATURES
from .train import MODEL, Parts, split

# A slice with fewer flights than this says more about chance than about the model.
SMALLEST_SLICE = 200
# What metrics.json calls the share of flights whose label is true.
POSITIVE = "late"


def baselines(parts: Parts) -> dict[str, Array]:
    """What the holdout's probabilities would be without a model. Only the training months are known."""
    return {"base_rate": base_rate(parts), "carrier_hour": carrier_hour_history(parts)}


def base_rate(parts: Parts) -> Array:
    """Everybody gets the share of late flights in the training months."""
    return np.full(parts.holdout.num_rows, truth_of(parts.train).mean())


def carrier_hour_history(parts: Parts) -> Array:
    """The share of late flights of the same carrier in the same hour, in the training months."""
    rates = {
        (row["carrier"], row["departure_hour_local"]): row["late"] / row["flights"]
        for row in parts.train.select(["carrier", "departure_hour_local"])
        .append_column("late", pa.array(truth_of(parts.train), pa.int64()))
        .group_by(["carrier", "departure_hour_local"], use_threads=False)
        .aggregate([("late", "sum"), ("late", "count")])
        .rename_columns(["carrier", "departure_hour_local", "late", "flights"])
        .to_pylist()
    }
    otherwise = truth_of(parts.train).mean()
    keys = zip(parts.holdout["carrier"].to_pylist(), parts.holdout["departure_hour_local"].to_pylist(), strict=True)
    return np.array([rates.get(key, otherwise) for key in keys])


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
