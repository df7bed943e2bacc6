"""train: fit the model on the first months, stopping early on the next ones."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from lifecycle.contract import Split, UserError, load_params, run_stage, settings_of, write_text

from . import model
from .tables import FEATURES, LABEL, NOT_FEATURES

MODEL = Path("model")
LEARNING_CURVE = Path("reports/learning_curve.csv")


@dataclass(frozen=True)
class Parts:
    """The labelled rows of the feature table, split by time."""

    train: pa.Table
    validation: pa.Table
    holdout: pa.Table


def split(table: pa.Table, by: Split) -> Parts:
    """Split by month: the last ones are held out, those before them stop training early.

    Raises:
        UserError: the window has too few months for all three parts.
    """
    labelled = table.filter(pc.is_valid(table[LABEL]))
    months = sorted(labelled["month"].unique().to_pylist())
    needed = by.validation_months + by.holdout_months + 1
    if len(months) < needed:
        raise UserError(
            f"the data window has {len(months)} months ({', '.join(months)}) and the split needs {needed}: "
            "raise data.through in params.yaml"
        )
    holdout_from = len(months) - by.holdout_months
    validation_from = holdout_from - by.validation_months

    def of(chosen: list[str]) -> pa.Table:
        return labelled.filter(pc.is_in(labelled["month"], pa.array(chosen)))

    return Parts(of(months[:validation_from]), of(months[validation_from:holdout_from]), of(months[holdout_from:]))


def main() -> None:
    """Fit, and save the model with its learning curve."""
    params = load_params()
    table = pq.read_table(FEATURES)
    parts = split(table, params.split)
    names = [name for name in table.column_names if name not in NOT_FEATURES]
    print(f"{parts.train.num_rows:,} rows to train on, {parts.validation.num_rows:,} to stop early on", flush=True)
    curve: list[tuple[int, float, float]] = []

    def progress(round_number: int, train_loss: float, validation_loss: float) -> None:
        curve.append((round_number, train_loss, validation_loss))
        if round_number % 50 == 0:
            print(f"round {round_number}: {model.LOSS} {train_loss:.4f}, validation {validation_loss:.4f}", flush=True)

    settings = settings_of(model.Settings, params.train, "train")
    model.fit(parts.train, parts.validation, LABEL, names, settings, progress).save(MODEL)
    lines = [f"{number},{train:.6f},{validation:.6f}" for number, train, validation in curve]
    write_text(LEARNING_CURVE, "\n".join(["round,train_loss,validation_loss", *lines]) + "\n")


if __name__ == "__main__":
    run_stage(main)
