"""The evaluation as a page for people: one HTML file that holds its own pictures."""

import base64
import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from lifecycle.contract import write_text

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
    baselines = evaluation.metrics["baselines"]
    measured = next(iter(baselines.values()))
    compared = {"model": {name: evaluation.metrics[name] for name in measured}, **baselines}
    told = vars(evaluation) | {"compared": compared, "picture": _picture(evaluation)}
    write_text(path, template.render(told) + "\n")


def _columns(path: Path) -> dict[str, list[float]]:
    with path.open(encoding="utf-8") as file:
        names, *rows = csv.reader(file)
    columns = zip(*rows, strict=True)
    return {name: [float(value) for value in column] for name, column in zip(names, columns, strict=True)}


def _picture(evaluation: Evaluation) -> str:
    """Every plot of two columns, the learning curve and the importance in one PNG, as base64."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    curves = [path for path in sorted(evaluation.plots.glob("*.csv")) if path.stem != "importance"]
    curves.append(evaluation.learning_curve)
    figure, axes = pyplot.subplots(1, len(curves) + 1, figsize=(5 * len(curves) + 5, 4.5), dpi=70)
    for path, plot in zip(curves, axes, strict=False):
        (across, along), *lines = _columns(path).items()
        for name, values in lines:
            plot.plot(along, values, label=name.replace("_", " "))
        plot.set(title=path.stem.replace("_", " "), xlabel=across.replace("_", " "))
        plot.legend()

    shares = list(evaluation.importance.items())[:SHOWN_FEATURES][::-1]
    axes[-1].barh([name for name, _ in shares], [share for _, share in shares])
    axes[-1].set(title="share of the gain", xlabel="share")

    figure.tight_layout()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})
    pyplot.close(figure)
    return base64.b64encode(picture.getvalue()).decode("ascii")
