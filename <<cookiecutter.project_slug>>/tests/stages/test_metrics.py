"""Metrics against numbers worked out by hand: scores, calibration, slices, skill, gates."""

import math

import numpy as np
import pyarrow as pa
import pytest
from lifecycle.contract import Gate, UserError

from << cookiecutter.__package_name >> import metrics
from << cookiecutter.__package_name >>.tables import LABEL

TRUTH = np.array([0, 0, 1, 1])
PROBABILITY = np.array([0.1, 0.4, 0.35, 0.8])
SMALLEST = 20


def measure(truth: list[int], probability: list[float], **baselines: float) -> dict[str, object]:
    """Metrics of a model and of baselines that say the same of every row."""
    constant = {name: np.full(len(truth), value) for name, value in baselines.items()}
    return metrics.measure(np.array(truth), np.array(probability), constant, {}, positive="yes")


def slices(kinds: list[str | None], positive: list[int], probability: list[float] | None = None) -> metrics.Slices:
    holdout = pa.table({"kind": kinds, LABEL: pa.array([bool(each) for each in positive])})
    predicted = np.array(probability or [0.9 if each else 0.1 for each in positive])
    return metrics.by_slice(holdout, predicted, ["kind"], smallest=SMALLEST, positive="yes")


def test_scores_by_hand() -> None:
    scores = metrics.score(TRUTH, PROBABILITY)
    # Of the four pairs of one positive and one negative row, three are in the right order.
    assert scores["roc_auc"] == 3 / 4
    log_loss = -(math.log(0.9) + math.log(0.6) + math.log(0.35) + math.log(0.8)) / 4
    assert scores["log_loss"] == pytest.approx(log_loss, abs=1e-6)
    assert scores["brier"] == pytest.approx((0.1**2 + 0.4**2 + 0.65**2 + 0.2**2) / 4, abs=1e-6)
    # Four rows make four bins of one row each.
    assert scores["calibration_error"] == pytest.approx((0.1 + 0.4 + 0.65 + 0.2) / 4, abs=1e-6)


def test_a_certain_mistake_costs_much_but_not_everything() -> None:
    scores = metrics.score(np.array([1, 0]), np.array([0.0, 0.0]))
    assert scores["log_loss"] == pytest.approx(-math.log(1e-6) / 2, rel=1e-3)


def test_with_one_outcome_only_there_is_no_curve() -> None:
    assert math.isnan(metrics.score(np.zeros(5), np.full(5, 0.2))["roc_auc"])


def test_calibration_bins_are_of_equal_count_and_in_order() -> None:
    random = np.random.default_rng(1)
    probability = random.random(1005)
    truth = (random.random(1005) < probability).astype(int)
    predicted, happened, weight = metrics.calibration(truth, probability)
    assert len(weight) == 10
    assert weight.sum() == pytest.approx(1)
    assert weight.max() - weight.min() < 0.002
    assert (np.diff(predicted) > 0).all()
    # These probabilities are right, so little is left but chance; shifted ones are not.
    assert metrics.score(truth, probability)["calibration_error"] < 0.06
    assert metrics.score(truth, probability / 2)["calibration_error"] > 0.2
    assert np.sum(weight * happened) == pytest.approx(truth.mean())


def test_slices_leave_out_the_small_ones() -> None:
    kinds = ["A"] * SMALLEST + ["B"] * (SMALLEST - 1) + ["C"]
    found = slices([*kinds], [0, 1] * SMALLEST)
    assert list(found["kind"]) == ["A"]
    assert found["kind"]["A"]["rows"] == SMALLEST
    assert found["kind"]["A"]["yes"] == 0.5
    assert found["kind"]["A"]["roc_auc"] == 1


def test_a_slice_with_one_outcome_only_is_left_out() -> None:
    # It has no ROC curve, and JSON has no word for that.
    found = slices(["A"] * SMALLEST + ["B"] * 2 * SMALLEST, [0] * SMALLEST + [0, 1] * SMALLEST)
    assert list(found["kind"]) == ["B"]
    assert all(math.isfinite(number) for number in found["kind"]["B"].values())


def test_rows_without_a_value_are_no_slice() -> None:
    found = slices([None, None, "A", "A"] * SMALLEST, [0, 1] * 2 * SMALLEST)
    assert {value: scores["rows"] for value, scores in found["kind"].items()} == {"A": 2 * SMALLEST}


def test_skill_is_measured_against_the_better_baseline() -> None:
    found = measure([1, 0], [0.75, 0.25], even=0.5, worse=0.9)
    assert found["baselines"]["even"]["brier"] == 0.25  # type: ignore[index]
    assert found["brier_skill"] == 1 - 0.25**2 / 0.25
    assert measure([1, 0], [0.5, 0.5], even=0.5, worse=0.9)["log_loss_skill"] == 0
    assert measure([1, 0], [1.0, 0.0], even=0.5)["brier_skill"] == 1
    assert (found["rows"], found["yes"]) == (2, 0.5)


def test_against_a_baseline_without_a_mistake_there_is_no_skill() -> None:
    skill = metrics.skill("brier", {"brier": 0.1}, {"oracle": {"brier": 0.0}})
    assert skill <= 0
    assert math.isfinite(skill)


def test_the_worst_slice_is_the_worst() -> None:
    found: metrics.Slices = {"a": {"x": {"roc_auc": 0.9}, "y": {"roc_auc": 0.4}}, "b": {"z": {"roc_auc": 0.7}}}
    base = {"base": np.full(4, 0.5)}
    assert metrics.measure(TRUTH, PROBABILITY, base, found, positive="yes")["worst_slice_roc_auc"] == 0.4
    assert metrics.measure(TRUTH, PROBABILITY, base, {}, positive="yes")["worst_slice_roc_auc"] == 0.75


def test_a_holdout_with_one_outcome_cannot_be_measured() -> None:
    with pytest.raises(UserError, match="the same outcome"):
        measure([1, 1], [0.5, 0.5], even=0.5)


def test_gates() -> None:
    measured = {"roc_auc": 0.8, "brier": 0.2, "undefined": float("nan")}
    gates = {
        "roc_auc": Gate(min=0.7),
        "brier": Gate(max=0.1),
        "undefined": Gate(min=0.0),
        "no_such_metric": Gate(max=1.0),
    }
    held = {gate["name"]: gate["pass"] for gate in metrics.hold_to_gates(measured, gates)}
    assert held == {"roc_auc": True, "brier": False, "undefined": False, "no_such_metric": False}
