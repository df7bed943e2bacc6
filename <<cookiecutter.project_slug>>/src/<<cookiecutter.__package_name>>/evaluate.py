"""evaluate: measure the model on the held-out months, against <% if cookiecutter.example == 'blank' %>a baseline<% else %>two baselines<% endif %>, and hold it to the gates."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from lifecycle.contract import Gate, UserError, load_params, replacing, run_stage, write_json
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score, roc_curve

from . import model
from .report import Evaluation, write_report
from .train import FEATURES, LABEL, LEARNING_CURVE, MODEL, Parts, split

METRICS = Path("reports/metrics.json")
SLICED = Path("reports/slices.json")
GATES = Path("reports/gates.json")
PLOTS = Path("reports/plots")
REPORT = Path("reports/report.html")

# A slice with fewer << cookiecutter.__table >> than this says more about chance than about the model.
SMALLEST_SLICE = <% if cookiecutter.example == 'blank' %>30<% else %>200<% endif %>

Array = np.ndarray[Any, np.dtype[Any]]
# column -> value -> metric -> number
Slices = dict[str, dict[str, dict[str, float]]]


@dataclass(frozen=True)
class Scores:
    """What is known of a set of predictions, without the predictions."""

    roc_auc: float
    log_loss: float
    brier: float
    calibration_error: float

    def as_dict(self) -> dict[str, float]:
        """Rounded, as it stands in metrics.json."""
        return {name: round(value, 6) for name, value in vars(self).items()}


def score(truth: Array, probability: Array) -> Scores:
    """Score probabilities, shape (n,), against outcomes of 0 or 1, shape (n,).

    `calibration_error` is the expected calibration error of Naeini et al. (AAAI 2015), over ten bins of equal
    count: the mean distance between what was predicted and what happened.
    """
    predicted, happened, weight = calibration(truth, probability)
    return Scores(
        roc_auc=float(roc_auc_score(truth, probability)) if 0 < truth.mean() < 1 else float("nan"),
        log_loss=float(log_loss(truth, np.clip(probability, 1e-6, 1 - 1e-6), labels=[0, 1])),
        brier=float(brier_score_loss(truth, probability)),
        calibration_error=float(np.sum(weight * np.abs(predicted - happened))),
    )


def calibration(truth: Array, probability: Array, bins: int = 10) -> tuple[Array, Array, Array]:
    """Mean prediction, share that happened and share of rows, for each bin of equal count."""
    order = np.argsort(probability, kind="stable")
    groups = np.array_split(order, min(bins, len(order)))
    predicted = np.array([probability[group].mean() for group in groups])
    happened = np.array([truth[group].mean() for group in groups])
    return predicted, happened, np.array([len(group) / len(order) for group in groups])


def truth_of(table: pa.Table) -> Array:
    """The label as 0 and 1."""
    truth: Array = table[LABEL].combine_chunks().cast(pa.int8()).to_numpy(zero_copy_only=False)
    return truth


def base_rate(parts: Parts) -> Array:
    <% if cookiecutter.example == 'blank' %>"""The baseline: every row gets the share of positive ones in<% else %>"""Baseline one: everybody gets the share of late flights in<% endif %> the training months."""
    return np.full(parts.holdout.num_rows, truth_of(parts.train).mean())
<%- if cookiecutter.example == 'flights' %>


def carrier_hour_history(parts: Parts) -> Array:
    """Baseline two: the share of late flights of the same carrier in the same hour, in the training months."""
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
<%- endif %>


def by_slice(holdout: pa.Table, truth: Array, probability: Array, columns: Iterable[str]) -> Slices:
    """Scores of every value of some columns, with enough rows and both outcomes. Rows without a value have no slice."""
    slices: Slices = {}
    for column in columns:
        values = np.array([None if value is None else str(value) for value in holdout[column].to_pylist()])
        slices[column] = {}
        for value in sorted({each for each in values if each is not None}):
            chosen = values == value
            if chosen.sum() >= SMALLEST_SLICE and 0 < truth[chosen].mean() < 1:
                scores = score(truth[chosen], probability[chosen]).as_dict()
                slices[column][value] = {
                    "rows": int(chosen.sum()),
                    "<< cookiecutter.__positive >>": round(float(truth[chosen].mean()), 6),
                    **scores,
                }
    return slices


def measure(parts: Parts, probability: Array, slices: Slices) -> dict[str, Any]:
    """Everything that goes into metrics.json. `*_skill` is the share of the <% if cookiecutter.example == 'blank' %><% else %>better <% endif %>baseline's loss taken away."""
    truth = truth_of(parts.holdout)
    scores = score(truth, probability).as_dict()
    baselines = {
        "base_rate": score(truth, base_rate(parts)).as_dict(),
<%- if cookiecutter.example == 'flights' %>
        "carrier_hour": score(truth, carrier_hour_history(parts)).as_dict(),
<%- endif %>
    }
    worst = [each["roc_auc"] for values in slices.values() for each in values.values()]
    return {
        "rows": parts.holdout.num_rows,
        "<< cookiecutter.__positive >>": round(float(truth.mean()), 6),
        **scores,
        **{f"{name}_skill": _skill(scores[name], baselines.values(), name) for name in ("brier", "log_loss")},
        "worst_slice_roc_auc": min(worst, default=scores["roc_auc"]),
        "baselines": baselines,
    }


def _skill(loss: float, baselines: Iterable[dict[str, float]], name: str) -> float:
    return round(1 - loss / max(min(each[name] for each in baselines), 1e-6), 6)


def hold_to_gates(metrics: dict[str, Any], gates: dict[str, Gate]) -> list[dict[str, Any]]:
    """Each gate with what was measured. A gate on a metric that does not exist fails."""
    return [
        {
            "name": name,
            "threshold": gate.model_dump(exclude_none=True),
            "value": metrics.get(name),
            "pass": gate.passes(float(metrics.get(name, "nan"))),
        }
        for name, gate in sorted(gates.items())
    ]


def write_plots(truth: Array, probability: Array, importance: dict[str, float]) -> None:
    """The points behind `dvc plots show`, one CSV a plot."""
    false_positive, true_positive, _ = roc_curve(truth, probability)
    # A few hundred points draw the same curve as tens of thousands.
    kept = np.unique(np.linspace(0, len(false_positive) - 1, 300).astype(int))
    _write_csv(
        "roc", "false_positive_rate,true_positive_rate", zip(false_positive[kept], true_positive[kept], strict=True)
    )
    predicted, happened, _ = calibration(truth, probability)
    _write_csv("calibration", "predicted,happened", zip(predicted, happened, strict=True))
    _write_csv("importance", "feature,share_of_gain", importance.items())


def _write_csv(name: str, header: str, rows: Any) -> None:
    with replacing(PLOTS / f"{name}.csv") as aside:
        lines = [",".join(v if isinstance(v, str) else f"{v:.6f}" for v in row) for row in rows]
        aside.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")


def main() -> None:
    """Measure, write metrics, gates, plots and the report. A failed gate is a result, not an error."""
    params = load_params()
    parts = split(pq.read_table(FEATURES), params.split)
    fitted = model.load(MODEL)
    probability = fitted.predict(parts.holdout, params.train["threads"])
    truth = truth_of(parts.holdout)
    if not 0 < truth.mean() < 1:
        raise UserError("every row of the holdout has the same outcome, so there is nothing to measure: see split")
    slices = by_slice(parts.holdout, truth, probability, params.monitoring.slices)
    metrics = measure(parts, probability, slices)
    gates = hold_to_gates(metrics, params.evaluate.gates)
    importance = fitted.importance()
    write_json(METRICS, metrics)
    write_json(SLICED, slices)
    write_json(GATES, gates)
    write_plots(truth, probability, importance)
    months = {
        name: sorted(set(getattr(parts, name)["month"].to_pylist())) for name in ("train", "validation", "holdout")
    }
    write_report(REPORT, Evaluation(metrics, slices, gates, importance, months, PLOTS, LEARNING_CURVE))
    for gate in gates:
        print(f"gate {gate['name']}: {gate['value']} {'passes' if gate['pass'] else 'FAILS'} {gate['threshold']}")


if __name__ == "__main__":
    run_stage(main)
