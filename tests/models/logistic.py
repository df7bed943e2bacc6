"""The model: scikit-learn's logistic regression, saved as numbers in JSON.

vendor/lifecycle/docs/contract.md says which functions others call. Import nothing of `lifecycle` here: each
release runs with the model.py that it was released with.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field

# What is minimised, as training and its plots call it.
LOSS = "log loss"
# What a machine needs to load and run a saved model, beside this package's own code.
REQUIREMENTS = ("numpy", "pyarrow", "pydantic")

Rows = np.ndarray[Any, np.dtype[np.float64]]


class Settings(BaseModel):
    """`train` in params.yaml. `inverse_penalty` is scikit-learn's C."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(ge=0)
    threads: int = Field(ge=1)
    inverse_penalty: float = Field(gt=0)


@dataclass(frozen=True)
class Feature:
    """One input column. `categories`: of a text column, the values seen in training."""

    name: str
    type: str
    categories: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Model:
    """A fitted model. `mean` and `scale` are of the matrix that `encode` makes, `weights` of its columns."""

    features: tuple[Feature, ...]
    mean: Rows
    scale: Rows
    weights: Rows
    bias: Rows

    def scores(self, table: pa.Table) -> Rows:
        """Linear scores, shape (rows, classes), or (rows, 1) for two classes."""
        matrix = (encode(table, self.features) - self.mean) / self.scale
        return np.asarray(np.nan_to_num(matrix) @ self.weights.T + self.bias)

    def predict(self, table: pa.Table, threads: int = 1) -> Rows:
        """Probability of the label for each row, in [0, 1]."""
        return np.asarray(1 / (1 + np.exp(-self.scores(table)[:, 0])))

    def importance(self) -> dict[str, float]:
        """Share of the weights that each feature has, largest first."""
        size = np.abs(self.weights).sum(axis=0)
        found, at = {}, 0
        for feature in self.features:
            width = len(feature.categories or "1")
            found[feature.name] = float(size[at : at + width].sum() / max(size.sum(), 1e-12))
            at += width
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    def save(self, folder: Path) -> None:
        """Write the model as one text file. Equal models give equal bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        numbers = {name: getattr(self, name).tolist() for name in ("mean", "scale", "weights", "bias")}
        features = [vars(feature) for feature in self.features]
        text = json.dumps({"features": features, **numbers}, indent=1, sort_keys=True) + "\n"
        (folder / "model.json").write_text(text, encoding="utf-8")


def load(folder: Path) -> Model:
    """Load a saved model. Only text is read: nothing in the folder can run."""
    saved = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    features = tuple(
        Feature(
            each["name"],
            each["type"],
            None if each["categories"] is None else tuple(each["categories"]),
        )
        for each in saved.pop("features")
    )
    return Model(features, **{name: np.array(values) for name, values in saved.items()})


def losses(label: pa.ChunkedArray, predicted: Rows) -> Rows:
    """How wrong each prediction was, in [0, 1]: the squared error of a probability (Brier, 1950)."""
    happened = label.combine_chunks().cast(pa.int8()).to_numpy(zero_copy_only=False)
    return np.asarray((predicted - happened) ** 2)


def encode(table: pa.Table, features: tuple[Feature, ...]) -> Rows:
    """The matrix: a column for each number, one for each category."""
    columns = []
    for feature in features:
        values = table[feature.name].combine_chunks()
        if feature.categories is None:
            columns.append(values.cast(pa.float64()).to_numpy(zero_copy_only=False))
        else:
            text = values.cast(pa.string())
            columns += [
                pc.fill_null(pc.equal(text, category), False).cast(pa.float64()).to_numpy(zero_copy_only=False)
                for category in feature.categories
            ]
    return np.column_stack(columns)


def fit(
    train: pa.Table,
    validation: pa.Table,
    label: str,
    names: list[str],
    settings: Settings,
    progress: Callable[[int, float, float], None],
) -> Model:
    """Fit on `train`. The same tables and settings give the same model, byte for byte."""
    from sklearn.linear_model import LogisticRegression

    features = tuple(describe(train[name], name) for name in names)
    matrix = encode(train, features)
    mean, scale = np.nanmean(matrix, axis=0), np.maximum(np.nanstd(matrix, axis=0), 1e-9)
    target = train[label].combine_chunks().cast(pa.int8()).to_numpy(zero_copy_only=False)
    fitted = LogisticRegression(C=settings.inverse_penalty, max_iter=1000, random_state=settings.seed)
    fitted.fit(np.nan_to_num((matrix - mean) / scale), target)
    model = Model(features, mean, scale, fitted.coef_.round(9), fitted.intercept_.round(9))
    both = [float(np.mean(losses(table[label], model.predict(table)))) for table in (train, validation)]
    progress(1, *both)
    return model


def describe(column: pa.ChunkedArray, name: str) -> Feature:
    """The feature that a column of the training table makes."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return Feature(name, "string", tuple(sorted(value for value in column.unique().to_pylist() if value)))
    return Feature(name, "integer" if pa.types.is_integer(column.type) else "double")
