"""Metrics against numbers worked out by hand, the baseline, slices, gates, and a report that needs nothing else."""

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lifecycle.contract import Gate, load_params
from lifecycle.testing import ROOT, digests

from << cookiecutter.__package_name >> import evaluate, model
from << cookiecutter.__package_name >>.train import FEATURES, LABEL, MODEL, Parts

TRUTH = np.array([0, 0, 1, 1])
PROBABILITY = np.array([0.1, 0.4, 0.35, 0.8])
SLICES = ["kind"]


def rows(kinds: str, positive: list[int]) -> pa.Table:
    return pa.table({"kind": list(kinds), LABEL: pa.array([bool(each) for each in positive])})


def test_scores_by_hand() -> None:
    scores = evaluate.score(TRUTH, PROBABILITY)
    # Of the four pairs of one positive and one negative row, three are in the right order.
    assert scores.roc_auc == pytest.approx(3 / 4)
    assert scores.log_loss == pytest.approx(-(math.log(0.9) + math.log(0.6) + math.log(0.35) + math.log(0.8)) / 4)
    assert scores.brier == pytest.approx((0.1**2 + 0.4**2 + 0.65**2 + 0.2**2) / 4)
    # Four rows make four bins of one row each.
    assert scores.calibration_error == pytest.approx((0.1 + 0.4 + 0.65 + 0.2) / 4)


def test_a_certain_mistake_costs_much_but_not_everything() -> None:
    assert evaluate.score(np.array([1, 0]), np.array([0.0, 0.0])).log_loss == pytest.approx(
        -math.log(1e-6) / 2, rel=1e-3
    )


def test_with_one_outcome_only_there_is_no_curve() -> None:
    assert math.isnan(evaluate.score(np.zeros(5), np.full(5, 0.2)).roc_auc)


def test_calibration_bins_are_of_equal_count_and_in_order() -> None:
    random = np.random.default_rng(1)
    probability = random.random(1005)
    truth = (random.random(1005) < probability).astype(int)
    predicted, happened, weight = evaluate.calibration(truth, probability)
    assert len(weight) == 10
    assert weight.sum() == pytest.approx(1)
    assert weight.max() - weight.min() < 0.002
    assert (np.diff(predicted) > 0).all()
    # These probabilities are right, so little is left but chance; shifted ones are not.
    assert evaluate.score(truth, probability).calibration_error < 0.06
    assert evaluate.score(truth, probability / 2).calibration_error > 0.2
    assert np.sum(weight * happened) == pytest.approx(truth.mean())


def test_the_baseline_knows_the_training_months_only() -> None:
    parts = Parts(train=rows("AAAAB", [1, 0, 0, 1, 0]), validation=rows("A", [1]), holdout=rows("AABC", [1, 1, 1, 1]))
    assert evaluate.base_rate(parts).tolist() == pytest.approx([2 / 5] * 4)


def test_skill_is_measured_against_the_baseline() -> None:
    parts = Parts(*(rows("AABB", [1, 1, 0, 0]) for _ in range(3)))
    metrics = evaluate.measure(parts, np.full(4, 0.5), {})
    assert metrics["baselines"]["base_rate"]["brier"] == 0.25
    # The model says what the baseline says.
    assert metrics["brier_skill"] == 0
    assert metrics["log_loss_skill"] == 0
    assert (metrics["rows"], metrics["positive"]) == (4, 0.5)
    assert evaluate.measure(parts, np.array([1.0, 1.0, 0.0, 0.0]), {})["brier_skill"] == 1


def test_slices_leave_out_the_small_ones() -> None:
    many, few = evaluate.SMALLEST_SLICE, evaluate.SMALLEST_SLICE - 1
    positive = [0, 1] * many
    holdout = rows("A" * many + "B" * few + "C", positive)
    probability = np.where(np.array(positive) == 1, 0.9, 0.1)
    slices = evaluate.by_slice(holdout, np.array(positive), probability, SLICES)
    assert list(slices["kind"]) == ["A"]
    assert slices["kind"]["A"]["rows"] == many
    assert slices["kind"]["A"]["roc_auc"] == 1


def test_a_slice_with_one_outcome_only_is_left_out() -> None:
    # It has no ROC curve, and JSON has no word for that.
    many = evaluate.SMALLEST_SLICE
    positive = np.array([0] * many + [0, 1] * many)
    holdout = rows("A" * many + "B" * 2 * many, positive.tolist())
    slices = evaluate.by_slice(holdout, positive, np.full(3 * many, 0.3), SLICES)
    assert list(slices["kind"]) == ["B"]
    assert all(math.isfinite(number) for number in slices["kind"]["B"].values())


def test_rows_without_a_value_are_no_slice() -> None:
    many = evaluate.SMALLEST_SLICE
    outcome = np.array([0, 1] * many)
    holdout = pa.table({"kind": [None, None, "A", "A"] * (many // 2), LABEL: pa.array(outcome == 1)})
    slices = evaluate.by_slice(holdout, outcome, np.linspace(0.1, 0.9, 2 * many), ["kind"])
    assert {value: scores["rows"] for value, scores in slices["kind"].items()} == {"A": many}


def test_the_worst_slice_is_the_worst() -> None:
    parts = Parts(*(rows("ABAB", [1, 0, 0, 1]) for _ in range(3)))
    probability = np.array([0.9, 0.1, 0.1, 0.9])
    slices = {"kind": {"A": {"roc_auc": 0.9}, "B": {"roc_auc": 0.4}}}
    assert evaluate.measure(parts, probability, slices)["worst_slice_roc_auc"] == 0.4
    assert evaluate.measure(parts, probability, {})["worst_slice_roc_auc"] == 1


def test_against_a_baseline_without_a_mistake_there_is_no_skill() -> None:
    parts = Parts(*(rows("AB", [1, 1]) for _ in range(3)))
    metrics = evaluate.measure(parts, np.array([0.9, 0.8]), {})
    assert metrics["brier_skill"] <= 0
    assert math.isfinite(metrics["brier_skill"])


def test_gates() -> None:
    metrics = {"roc_auc": 0.8, "brier": 0.2, "undefined": float("nan")}
    gates = {
        "roc_auc": Gate(min=0.7),
        "brier": Gate(max=0.1),
        "undefined": Gate(min=0.0),
        "no_such_metric": Gate(max=1.0),
    }
    held = {gate["name"]: gate["pass"] for gate in evaluate.hold_to_gates(metrics, gates)}
    assert held == {"roc_auc": True, "brier": False, "undefined": False, "no_such_metric": False}


class _Page(HTMLParser):
    """Collects what a page would load or point to, and which tags it leaves open."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_needs_nothing_else(finished: Path) -> None:
    text = (finished / evaluate.REPORT).read_text(encoding="utf-8")
    page = _Page()
    page.feed(text)
    assert page.open == []
    assert len(page.loads) == 1
    assert page.loads[0].startswith("data:image/png;base64,iVBORw0KGgo")
    assert not re.search(r"https?://|@import|url\(|<script|<link", text)


def test_the_report_shows_what_was_measured(finished: Path) -> None:
    text = (finished / evaluate.REPORT).read_text(encoding="utf-8")
    metrics = json.loads((finished / evaluate.METRICS).read_text(encoding="utf-8"))
    assert f"{metrics['rows']:,} rows held out" in text
    for scores in (metrics, *metrics["baselines"].values()):
        assert f"{scores['log_loss']:.4f}" in text
    for gate in json.loads((finished / evaluate.GATES).read_text(encoding="utf-8")):
        assert f"<td>{gate['name']}</td>" in text
    assert "nan" not in text.split("base64,")[0]


def test_the_stage_gives_the_same_bytes_again(built: Path) -> None:
    before = digests(Path("reports"))
    evaluate.main()
    assert digests(Path("reports")) == before


def test_the_slices_are_those_of_params(finished: Path) -> None:
    slices = json.loads((finished / evaluate.SLICED).read_text(encoding="utf-8"))
    assert list(slices) == sorted(load_params(ROOT / "params.yaml").monitoring.slices)


def test_the_model_predicts_probabilities(finished: Path) -> None:
    predicted = model.load(finished / MODEL).predict(pq.read_table(finished / FEATURES))
    assert 0 <= predicted.min() < predicted.max() <= 1


def test_every_gate_is_on_a_metric_that_is_measured(finished: Path) -> None:
    metrics = json.loads((finished / evaluate.METRICS).read_text(encoding="utf-8"))
    assert load_params(ROOT / "params.yaml").evaluate.gates.keys() <= metrics.keys()
