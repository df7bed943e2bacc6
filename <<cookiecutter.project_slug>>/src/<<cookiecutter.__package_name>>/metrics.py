"""How good predicted probabilities are: scores, slices, baselines, gates, and the points of the plots."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from lifecycle.contract import Gate, UserError, write_text
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score, roc_curve

from .tables import LABEL

PLOTS = Path("reports/plots")

Array = np.ndarray[Any, np.dtype[Any]]
# metric -> number
Scores = dict[str, float]
# column -> value -> scores
Slices = dict[str, dict[str, Scores]]


def score(truth: Array, probability: Array) -> Scores:
    """Score probabilities, shape (n,), against outcomes of 0 or 1, shape (n,); rounded, as it stands in metrics.json.

    `calibration_error` is the expected calibration error of Naeini et al. (AAAI 2015), over ten bins of equal
    count: the mean distance between what was predicted and what happened.
    """
    predicted, happened, weight = calibration(truth, probability)
    scores = {
        "roc_auc": roc_auc_score(truth, probability) if 0 < truth.mean() < 1 else float("nan"),
        "log_loss": log_loss(truth, np.clip(probability, 1e-6, 1 - 1e-6), labels=[0, 1]),
        "brier": brier_score_loss(truth, probability),
        "calibration_error": np.sum(weight * np.abs(predicted - happened)),
    }
    return {name: round(float(value), 6) for name, value in scores.items()}


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


def by_slice(holdout: pa.Table, probability: Array, columns: Iterable[str], *, smallest: int, positive: str) -> Slices:
    """Scores of every value of some columns, and its share of positive rows under the name `positive`.

    Left out are values of fewer rows than `smallest`, values with one outcome only, and rows without a value.
    """
    truth, slices = truth_of(holdout), Slices()
    for column in columns:
        values = np.array([None if value is None else str(value) for value in holdout[column].to_pylist()])
        slices[column] = {}
        for value in sorted({each for each in values if each is not None}):
            chosen = values == value
            if chosen.sum() >= smallest and 0 < (share := float(truth[chosen].mean())) < 1:
                scores = score(truth[chosen], probability[chosen])
                slices[column][value] = {"rows": int(chosen.sum()), positive: round(share, 6), **scores}
    return slices


def measure(
    truth: Array, probability: Array, baselines: dict[str, Array], slices: Slices, *, positive: str
) -> dict[str, Any]:
    """Everything that goes into metrics.json. `*_skill` is the share of the best baseline's loss taken away.

    Raises:
        UserError: all outcomes are the same.
    """
    if not 0 < truth.mean() < 1:
        raise UserError("every row of the holdout has the same outcome, so there is nothing to measure: see split")
    scores, compared = score(truth, probability), {name: score(truth, each) for name, each in baselines.items()}
    worst = [each["roc_auc"] for values in slices.values() for each in values.values()]
    return {
        "rows": len(truth),
        positive: round(float(truth.mean()), 6),
        **scores,
        **{f"{name}_skill": skill(name, scores, compared) for name in ("brier", "log_loss")},
        "worst_slice_roc_auc": min(worst, default=scores["roc_auc"]),
        "baselines": compared,
    }


def skill(name: str, scores: Scores, baselines: dict[str, Scores]) -> float:
    """The share of the best baseline's loss `name` that the model takes away."""
    return round(1 - scores[name] / max(min(each[name] for each in baselines.values()), 1e-6), 6)


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
    curve = zip(false_positive[kept], true_positive[kept], strict=True)
    write_csv("roc", "false_positive_rate,true_positive_rate", curve)
    predicted, happened, _ = calibration(truth, probability)
    write_csv("calibration", "predicted,happened", zip(predicted, happened, strict=True))
    write_csv("importance", "feature,share_of_gain", importance.items())


def write_csv(name: str, header: str, rows: Iterable[Any]) -> None:
    """The points of one plot."""
    lines = [",".join(v if isinstance(v, str) else f"{v:.6f}" for v in row) for row in rows]
    write_text(PLOTS / f"{name}.csv", "\n".join([header, *lines]) + "\n")
