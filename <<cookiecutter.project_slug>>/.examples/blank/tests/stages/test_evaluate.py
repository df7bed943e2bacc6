"""The baseline, against a number worked out by hand, and what the model is asked for."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from << cookiecutter.__package_name >> import evaluate, model
from << cookiecutter.__package_name >>.tables import FEATURES, LABEL
from << cookiecutter.__package_name >>.train import MODEL, Parts


def rows(positive: list[int]) -> pa.Table:
    return pa.table({LABEL: pa.array([bool(each) for each in positive])})


def test_the_baseline_knows_the_training_months_only() -> None:
    parts = Parts(train=rows([1, 0, 0, 1, 0]), validation=rows([1]), holdout=rows([1, 1, 1, 1]))
    assert evaluate.baselines(parts)["base_rate"].tolist() == pytest.approx([2 / 5] * 4)


def test_the_model_predicts_probabilities(finished: Path) -> None:
    predicted = model.load(finished / MODEL).predict(pq.read_table(finished / FEATURES))
    assert 0 <= predicted.min() < predicted.max() <= 1
