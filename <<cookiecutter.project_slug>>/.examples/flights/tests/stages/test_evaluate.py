"""The baselines, against numbers worked out by hand, and what the model is asked for."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from << cookiecutter.__package_name >> import evaluate, model
from << cookiecutter.__package_name >>.tables import FEATURES, LABEL
from << cookiecutter.__package_name >>.train import MODEL, Parts


def rows(carriers: str, hours: list[int], late: list[int]) -> pa.Table:
    hour = pa.array(hours, pa.int32())
    return pa.table({"carrier": [*carriers], "departure_hour_local": hour, LABEL: pa.array([bool(n) for n in late])})


def test_baselines_know_the_training_months_only() -> None:
    parts = Parts(
        train=rows("AAAAB", [9, 9, 9, 17, 9], [1, 0, 0, 1, 0]),
        validation=rows("A", [9], [1]),
        holdout=rows("AABC", [9, 17, 17, 9], [1, 1, 1, 1]),
    )
    found = {name: each.tolist() for name, each in evaluate.baselines(parts).items()}
    assert found["base_rate"] == pytest.approx([2 / 5] * 4)
    # Carrier A at nine: one of three. A at five in the afternoon: always. What was never seen: the base rate.
    assert found["carrier_hour"] == pytest.approx([1 / 3, 1, 2 / 5, 2 / 5])


def test_the_model_predicts_probabilities(finished: Path) -> None:
    predicted = model.load(finished / MODEL).predict(pq.read_table(finished / FEATURES))
    assert 0 <= predicted.min() < predicted.max() <= 1


def test_no_feature_says_how_the_flight_ended(finished: Path) -> None:
    features = {feature.name for feature in model.load(finished / MODEL).features}
    assert not features & {"arr_delay", "dep_delay", "air_time", "dep_time", "arr_time"}
