"""The model: how it is fitted, saved, loaded and asked. To use another kind of model, rewrite this file.

vendor/lifecycle/docs/contract.md says which functions others call. Import nothing of `lifecycle` here: each
release runs with the model.py that it was released with.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

# What is minimised, as training and its plots call it.
LOSS = "log loss"
# What a machine needs to load and run a saved model, beside this package's own code.
REQUIREMENTS = ("lightgbm", "numpy", "pyarrow", "pydantic")

Rows = np.ndarray[Any, np.dtype[np.float64]]


class Settings(BaseModel):
    """`train` in params.yaml. `threads` changes how long training takes, never the result."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(ge=0)
    threads: int = Field(ge=1)
    rounds: int = Field(ge=1)
    early_stopping_rounds: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    num_leaves: int = Field(ge=2)
    min_data_in_leaf: int = Field(ge=1)
    feature_fraction: float = Field(gt=0, le=1)
    lambda_l2: float = Field(ge=0)


@dataclass(frozen=True)
class Feature:
    """One input column. A text column carries the values seen in training, in the order of their codes."""

    name: str
    type: str
    categories: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Model:
    """Gradient-boosted trees over numbers and categories; predicts the probability of the label."""

    features: tuple[Feature, ...]
    booster: Any  # LightGBM's

    def predict(self, table: pa.Table, threads: int = 1) -> Rows:
        """Probability of the label for each row, in [0, 1].

        `table` holds at least the model's features; a category never seen in training counts as missing.
        Raises KeyError when a feature is missing.
        """
        return np.asarray(self.booster.predict(encode(table, self.features), num_threads=threads))

    def predict_rows(self, rows: list[list[Any]]) -> Rows:
        """The same for a few rows of plain values in the order of the features: no table, a fifth of the time.

        An online server uses it where there is one; a model without it is asked by table.
        """

        def numbers(row: list[Any]) -> list[Any]:
            return [value if codes is None else codes.get(value) for value, codes in zip(row, self._codes, strict=True)]

        matrix = np.array([numbers(row) for row in rows], dtype=np.float64)  # None becomes NaN
        return np.asarray(self.booster.predict(matrix, num_threads=1))

    @cached_property
    def _codes(self) -> list[dict[str, int] | None]:
        return [
            None if feature.categories is None else {name: code for code, name in enumerate(feature.categories)}
            for feature in self.features
        ]

    def importance(self) -> dict[str, float]:
        """Share of the total gain that each feature brought, largest first."""
        gain = self.booster.feature_importance("gain")
        names = [feature.name for feature in self.features]
        shares = {name: float(each / max(gain.sum(), 1e-12)) for name, each in zip(names, gain, strict=True)}
        return dict(sorted(shares.items(), key=lambda item: (-item[1], item[0])))

    def save(self, folder: Path) -> None:
        """Write the model as two text files. Equal models give equal bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        text = self.booster.model_to_string()
        # The one line that holds how the model was made and not what it is.
        lines = [line for line in text.splitlines(keepends=True) if not line.startswith("[num_threads:")]
        (folder / "model.txt").write_text("".join(lines), encoding="utf-8")
        features = [{name: value for name, value in vars(each).items() if value} for each in self.features]
        text = json.dumps(features, indent=2, sort_keys=True) + "\n"
        (folder / "features.json").write_text(text, encoding="utf-8")


def load(folder: Path) -> Model:
    """Load a saved model. Only text is read: nothing in the folder can run."""
    features = tuple(
        Feature(each["name"], each["type"], tuple(each["categories"]) if "categories" in each else None)
        for each in json.loads((folder / "features.json").read_text(encoding="utf-8"))
    )
    return Model(features, _lightgbm().Booster(model_str=(folder / "model.txt").read_text(encoding="utf-8")))


def _lightgbm() -> Any:
    """LightGBM, imported as if pandas and scikit-learn were not there: 0.4 s of CPU then, and 2 s with them.

    It uses them only for interfaces that this project does not.
    """
    hidden = {"pandas", "sklearn"} - sys.modules.keys()
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: import fails
    try:
        import lightgbm
    finally:
        for name in hidden:
            del sys.modules[name]
    return lightgbm


def losses(label: pa.ChunkedArray, predicted: Rows) -> Rows:
    """How wrong each prediction was, in [0, 1]: the squared error of a probability (Brier, 1950).

    What a rollout compares two models by, row by row. Another kind of model has another loss, in the same bounds.
    """
    happened = label.combine_chunks().cast(pa.int8()).to_numpy(zero_copy_only=False)
    return np.asarray((predicted - happened) ** 2)


def describe(table: pa.Table, names: list[str]) -> tuple[Feature, ...]:
    """The features that these columns of a training table make."""

    def feature(name: str) -> Feature:
        kind = table[name].type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            return Feature(name, "string", tuple(sorted(table[name].drop_null().unique().to_pylist())))
        return Feature(name, "integer" if pa.types.is_integer(kind) else "double")

    return tuple(map(feature, names))


def encode(table: pa.Table, features: tuple[Feature, ...]) -> Rows:
    """The matrix, rows x features, that the booster works on: NaN for what is missing or never seen."""
    matrix = np.empty((table.num_rows, len(features)), dtype=np.float64)
    for position, feature in enumerate(features):
        column = table[feature.name].combine_chunks()
        if feature.categories is not None:
            import pyarrow.compute as pc

            column = pc.index_in(column.cast(pa.string()), value_set=pa.array(feature.categories, pa.string()))
        matrix[:, position] = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return matrix


def fit(
    train: pa.Table,
    validation: pa.Table,
    label: str,
    names: list[str],
    settings: Settings,
    progress: Callable[[int, float, float], None],
) -> Model:
    """Fit on `train`, stop when `validation`, the same columns of later months, no longer gets better.

    The same tables and settings give the same model, byte for byte, whatever `settings.threads` is. `label` names a
    column without nulls, `names` the features in order; `progress` gets each round and both losses.
    """
    lgb, features = _lightgbm(), describe(train, names)
    options: dict[str, Any] = {
        "objective": "binary",
        "metric": "binary_logloss",
        "learning_rate": settings.learning_rate,
        "num_leaves": settings.num_leaves,
        "min_data_in_leaf": settings.min_data_in_leaf,
        "feature_fraction": settings.feature_fraction,
        "lambda_l2": settings.lambda_l2,
        "seed": settings.seed,
        "num_threads": settings.threads,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }
    categorical = [position for position, feature in enumerate(features) if feature.categories is not None]

    def dataset(table: pa.Table, reference: Any = None) -> Any:
        target = table[label].combine_chunks().cast(pa.int8()).to_numpy(zero_copy_only=False)
        named = {"feature_name": names, "categorical_feature": categorical, "params": options}
        return lgb.Dataset(encode(table, features), target, reference=reference, **named)

    def report(env: Any) -> None:
        losses = {name: value for name, _, value, _ in env.evaluation_result_list}
        progress(env.iteration + 1, losses["train"], losses["validation"])

    fitted = dataset(train)
    booster = lgb.train(
        options,
        fitted,
        num_boost_round=settings.rounds,
        valid_sets=[fitted, dataset(validation, fitted)],
        valid_names=["train", "validation"],
        callbacks=[lgb.early_stopping(settings.early_stopping_rounds, verbose=False), report],
    )
    return Model(features, lgb.Booster(model_str=booster.model_to_string(num_iteration=booster.best_iteration)))
