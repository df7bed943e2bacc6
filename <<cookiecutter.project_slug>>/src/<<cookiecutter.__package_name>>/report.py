"""The evaluation as a page for people: one HTML file that holds its own pictures."""

import base64
import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from lifecycle.contract import write_text

from . import model

SHOWN_FEATURES = 12


@dataclass(frozen=True)
class Evaluation:
    """What the report tells."""

    metrics: dict[str, Any]
    slices: dict[str, dict[str, dict[str, float]]]
    gates: list[dict[str, Any]]
    importance: dict[str, float]
    months: dict[str, list[str]]
    plots: Path
    learning_curve: Path


def write_report(path: Path, evaluation: Evaluation) -> None:
    """Render the report. Equal evaluations give equal bytes."""
    loader = FileSystemLoader(Path(__file__).parent)
    template = Environment(loader=loader, autoescape=True, undefined=StrictUndefined).get_template("report.html.j2")
    write_text(path, template.render(vars(evaluation) | {"picture": _picture(evaluation)}) + "\n")


def _columns(path: Path) -> list[list[float]]:
    with path.open(encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    return [[float(value) for value in column] for column in zip(*rows, strict=True)]


def _picture(evaluation: Evaluation) -> str:
    """ROC curve, calibration, learning curve and importance in one PNG, as base64."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, ((roc, reliability), (learning, importance)) = pyplot.subplots(2, 2, figsize=(11, 8.5), dpi=90)
    auc = evaluation.metrics["roc_auc"]
    roc.plot(*_columns(evaluation.plots / "roc.csv"), color="#1f6feb")
    roc.plot([0, 1], [0, 1], color="#999999", linestyle=":")
    roc.set(title=f"ROC curve (area {auc:.3f})", xlabel="false positive rate", ylabel="true positive rate")

    predicted, happened = _columns(evaluation.plots / "calibration.csv")
    most = max(*predicted, *happened) * 1.05
    reliability.plot([0, most], [0, most], color="#999999", linestyle=":")
    reliability.plot(predicted, happened, color="#1f6feb", marker="o")
    reliability.set(title="Calibration, ten bins of equal count", xlabel="predicted", ylabel="happened")

    rounds, train, validation = _columns(evaluation.learning_curve)
    learning.plot(rounds, train, color="#999999", label="train")
    learning.plot(rounds, validation, color="#1f6feb", label="validation")
    learning.set(title="Learning curve", xlabel="round", ylabel=model.LOSS)
    learning.legend()

    shares = list(evaluation.importance.items())[:SHOWN_FEATURES][::-1]
    importance.barh([name for name, _ in shares], [share for _, share in shares], color="#1f6feb")
    importance.set(title="Share of the gain", xlabel="share")

    figure.tight_layout()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})
    pyplot.close(figure)
    return base64.b64encode(picture.getvalue()).decode("ascii")
