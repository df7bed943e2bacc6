"""What evaluate leaves: metrics, slices and gates for the machinery, and a page for people with its own pictures."""

import base64
import io
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, Template
from lifecycle.contract import write_json, write_text
from pyarrow import csv

from . import model
from .metrics import PLOTS, Slices
from .train import LEARNING_CURVE, Parts

METRICS = Path("reports/metrics.json")
SLICES = Path("reports/slices.json")
GATES = Path("reports/gates.json")
PAGE = Path("reports/report.html")

# Titles of plots that need more than the name of their file.
TITLES = {"roc": "ROC curve (area {roc_auc:.3f})", "calibration": "Calibration, ten bins of equal count"}
SHOWN_FEATURES = 12
BLUE, GREY = "#1f6feb", "#999999"


def write_results(
    metrics: dict[str, Any], slices: Slices, gates: list[dict[str, Any]], parts: Parts, positive: str | None = None
) -> None:
    """Write the metrics, the slices, the gates and the page, and print the gates. The plots are there already.

    `positive` names the metric that is the share of positive rows, where there is one.
    """
    for path, found in ((METRICS, metrics), (SLICES, slices), (GATES, gates)):
        write_json(path, found)
    baselines = metrics["baselines"]
    compared = {"model": {name: metrics[name] for name in next(iter(baselines.values()))}, **baselines}
    months = {name: sorted(set(part["month"].to_pylist())) for name, part in vars(parts).items()}
    told = {"metrics": metrics, "slices": slices, "gates": gates, "compared": compared, "months": months}
    source = Path(__file__).with_suffix(".html.j2").read_text(encoding="utf-8")
    page = Template(source, autoescape=True, undefined=StrictUndefined)
    write_text(PAGE, page.render(told, positive=positive, picture=_picture(metrics)) + "\n")
    for gate in gates:
        print(f"gate {gate['name']}: {gate['value']} {'passes' if gate['pass'] else 'FAILS'} {gate['threshold']}")


def _picture(metrics: dict[str, Any]) -> str:
    """Every plot, the learning curve and the importance in one PNG, as base64."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    # The ROC curve before the calibration.
    curves = [path for path in sorted(PLOTS.glob("*.csv"), reverse=True) if path.stem != "importance"]
    rows = (len(curves) + 3) // 2
    figure = pyplot.figure(figsize=(11, 4.25 * rows), dpi=90)
    for number, path in enumerate(curves, 1):
        (across, x), (up, y) = csv.read_csv(path).to_pydict().items()
        axes = figure.add_subplot(rows, 2, number, title=TITLES.get(path.stem, path.stem).format(**metrics))
        axes.set(xlabel=across.replace("_", " "), ylabel=up.replace("_", " "))
        ends = [min(*x, *y, 0), max(*x, *y)]
        axes.plot(ends, ends, color=GREY, linestyle=":")
        # A curve is a line, a few points are joined, a cloud is not.
        style = "-" if y == sorted(y) and len(y) > 20 else "o-" if len(y) <= 20 else "."
        axes.plot(x, y, style, color=BLUE)

    rounds, train, validation = csv.read_csv(LEARNING_CURVE).to_pydict().values()
    axes = figure.add_subplot(rows, 2, len(curves) + 1, title="Learning curve", xlabel="round", ylabel=model.LOSS)
    axes.plot(rounds, train, color=GREY, label="train")
    axes.plot(rounds, validation, color=BLUE, label="validation")
    axes.legend()

    features, shares = csv.read_csv(PLOTS / "importance.csv").to_pydict().values()
    axes = figure.add_subplot(rows, 2, len(curves) + 2, title="Share of the gain", xlabel="share")
    axes.barh(features[:SHOWN_FEATURES][::-1], shares[:SHOWN_FEATURES][::-1], color=BLUE)

    figure.tight_layout()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})
    pyplot.close(figure)
    return base64.b64encode(picture.getvalue()).decode("ascii")
