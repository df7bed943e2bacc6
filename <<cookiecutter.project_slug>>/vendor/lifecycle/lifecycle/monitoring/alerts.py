"""Alerts: one for each breach that opens, repeated after a cooldown while it stays open.

Every alert is a line in a log. Each delivery adds its own line, so failed deliveries are tried again.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from .. import project
from ..files import append_lines
from ..params import Alerts
from .history import Series
from .monitor import Monitored

FILE = Path(".lifecycle/monitoring/alerts.jsonl")
# The target name for the log itself.
LOG = "log"

# What to check first, by check.
COMMANDS = {
    "freshness": "{command} run && {command} refresh",
    "nulls": "{command} status",
    "outside": "{command} status",
    "skill_drop": "{command} rollback production --reason 'monitor: {title}'",
    "ranking_drop": "{command} rollback production --reason 'monitor: {title}'",
    "errors": "{command} rollback production --reason 'monitor: {title}'",
    "p99_ms": "{command} rollback production --reason 'monitor: {title}'",
}
OTHERWISE = "{command} run  # retrain on newer data, then release"


@dataclass(frozen=True)
class Alert:
    """An alert to send. `breach` identifies the opening of a breach, so that each is sent once."""

    breach: str
    title: str
    text: str
    command: str
    runbook: str


def of(found: Monitored, settings: Alerts) -> list[Alert]:
    """Return an alert for each open breach."""
    return [of_series(found.release, each, settings) for each in found.breaches]


def of_series(release: str, series: Series, settings: Alerts) -> Alert:
    """Return the alert for one open breach."""
    point = series.now
    title = f"{series.check} of {series.subject} ({series.source})"
    since = "" if series.source == "freshness" else f", since {point.state.since}"
    bounds = f"fires above {point.fire:.4g}, clears below {point.clear:.4g}"
    caveat = f"; {series.caveat}" if series.caveat else ""
    text = f"{release}: {title} is {point.value:.4g}{since}; {bounds}{caveat}"
    command = COMMANDS.get(series.check, OTHERWISE).format(title=title, command=project.command())
    return Alert(breach_of(release, series), title, text, command, settings.runbook)


def breach_of(release: str, series: Series) -> str:
    """Return the name of an open breach. Freshness has no windows: `since` is then the time when the breach opened."""
    return name_of(release, series, series.now.state.since)


def name_of(release: str, series: Series, since: str | None) -> str:
    """Return the name of a breach that opened with the window `since`."""
    return "/".join((release, series.source, series.check, series.subject, str(since)))


def body(alert: Alert) -> str:
    """Format an alert as a message."""
    return f"{alert.text}\n\ntype     {alert.command}\nrunbook  {alert.runbook}\n"


def read(file: Path = FILE) -> list[dict[str, Any]]:
    """Read the log. Skips a line that a crash cut short."""
    lines = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else []:
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines


def due(
    alerts: Iterable[Alert], told: Iterable[dict[str, Any]], to: str, at: datetime, cooldown: timedelta
) -> list[Alert]:
    """Return the alerts that `to` has not received, or not since the cooldown."""
    last: dict[str, datetime] = {}
    for line in told:
        if line["to"] == to:
            last[line["breach"]] = max(datetime.fromisoformat(line["at"]), last.get(line["breach"], datetime.min))
    return [alert for alert in alerts if alert.breach not in last or at - last[alert.breach] >= cooldown]


def tell(
    alerts: list[Alert],
    targets: dict[str, Callable[[Alert], object]],
    at: datetime,
    settings: Alerts,
    file: Path = FILE,
) -> tuple[list[Alert], list[str]]:
    """Log the alerts that are due and send them to each target. Return the new ones in the log, and the failures."""
    cooldown, told, problems = timedelta(hours=settings.cooldown_hours), read(file), []
    new = due(alerts, told, LOG, at, cooldown)
    append(file, *(_line(alert, LOG, at) for alert in new))
    for name, deliver in targets.items():
        for alert in due(alerts, told, name, at, cooldown):
            try:
                deliver(alert)
            except Exception as error:  # a failing target does not block the others; it is tried again next time
                problems.append(f"{alert.title} could not be sent to {name}: {type(error).__name__}")
                continue
            append(file, _line(alert, name, at))
    return new, problems


def _line(alert: Alert, to: str, at: datetime) -> dict[str, Any]:
    return {"at": at.isoformat(), "to": to, **asdict(alert)}


def append(file: Path, *lines: dict[str, Any]) -> None:
    """Append lines of JSON to a log and flush them to disk."""
    append_lines(file, "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines))
