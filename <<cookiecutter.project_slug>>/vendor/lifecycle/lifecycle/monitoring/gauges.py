"""Export the newest figures as Prometheus gauges, for node-exporter's textfile collector or the server's /metrics."""

from datetime import datetime
from pathlib import Path

from ..files import write_text
from .monitor import Monitored

FILE = Path(".lifecycle/monitoring/metrics.prom")
EPOCH = datetime(1970, 1, 1)  # UTC, like all times here


def write(found: Monitored, file: Path = FILE) -> None:
    """Write the gauges file atomically."""
    write_text(file, render(found))


def read(file: Path = FILE) -> str:
    """Return the gauges that the last run wrote, for the server to expose. Empty before the first run."""
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def render(found: Monitored) -> str:
    """Render the text exposition format, version 0.0.4."""
    values, bounds, breaches = [], [], []
    for each in found.series:
        names = {"release": found.release, "source": each.source, "check": each.check, "subject": each.subject}
        labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in names.items())
        if each.now.value is not None:
            values.append(f"monitor_value{{{labels}}} {each.now.value!r}")
        if each.now.judged:
            bounds.append(f"monitor_fires_above{{{labels}}} {each.now.fire!r}")
            breaches.append(f"monitor_breach{{{labels}}} {int(each.open)}")
    parts = [
        ("monitor_value", "The newest value of a check that was judged.", values),
        ("monitor_fires_above", "A breach opens above that.", bounds),
        ("monitor_breach", "1 while a breach is open.", breaches),
        (
            "monitor_left_out_rows",
            "Rows of the log's newest windows that are no evidence: their features are not those of their key.",
            [f'monitor_left_out_rows{{release="{_escaped(found.release)}"}} {sum(found.left_out.values())}'],
        ),
        (
            "monitor_run_timestamp_seconds",
            "When the monitor last ran.",
            [f"monitor_run_timestamp_seconds {(found.at - EPOCH).total_seconds()!r}"],
        ),
    ]
    return "".join(
        f"# HELP {name} {help_}\n# TYPE {name} gauge\n" + "".join(f"{line}\n" for line in lines)
        for name, help_, lines in parts
    )


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
