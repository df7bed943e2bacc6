"""Alerts: one for each breach that opens, told again after a cooldown while it stays open.

Every alert is a line of a log. Whoever delivers one adds a line of its own, so what did not get through is tried again.
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
# The target that stands for the log itself.
LOG = "log"

# What to look at first, by check.
COMMANDS = {
    "freshness": "{command} run && {command} refresh",
    "nulls": "{command} status",
    "outside": "{command} status",
    "skill_drop": "{command} rollback production --reason 'monitor: {title}'",
    "ranking_drop": "{command} rollback production --reason 'monitor: {title}'",
    "errors": "{command} rollback production --reason 'monitor: {title}'",
    "p99_ms": "{command} rollback production --reason 'monitor: {title}'",
}
OTHERWISE = "{command} run  # retrain on what is new, then release"


@dataclass(frozen=True)
class Alert:
    """What is told. `breach` names the opening: the same one is told once."""

    breach: str
    title: str
    text: str
    command: str
    runbook: str


def of(found: Monitored, settings: Alerts) -> list[Alert]:
    """An alert for each open breach."""
    return [of_series(found.release, each, settings) for each in found.breaches]


def of_series(release: str, series: Series, settings: Alerts) -> Alert:
    """The alert for one open breach."""
    point = series.now
    title = f"{series.check} of {series.subject} ({series.source})"
    since = "" if series.source == "freshness" else f", since {point.state.since}"
    bounds = f"fires above {point.fire:.4g}, clears below {point.clear:.4g}"
    caveat = f"; {series.caveat}" if series.caveat else ""
    text = f"{release}: {title} is {point.value:.4g}{since}; {bounds}{caveat}"
    command = COMMANDS.get(series.check, OTHERWISE).format(title=title, command=project.command())
    return Alert(breach_of(release, series), title, text, command, settings.runbook)


def breach_of(release: str, series: Series) -> str:
    """The name of an open breach. Freshness has no windows: its breach opens at a moment, which is in `since` too."""
    return name_of(release, series, series.now.state.since)


def name_of(release: str, series: Series, since: str | None) -> str:
    """The name of a breach that opened with the window `since`."""
    return "/".join((release, series.source, series.check, series.subject, str(since)))


def body(alert: Alert) -> str:
    """An alert as a message."""
    return f"{alert.text}\n\ntype     {alert.command}\nrunbook  {alert.runbook}\n"


def read(file: Path = FILE) -> list[dict[str, Any]]:
    """The log. A line that a crash has torn is passed over."""
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
    """Those that `to` was not told of, or not since the cooldown."""
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
    """Write what is due to the log, and hand it to each target; returns what was new in the log, and what failed."""
    cooldown, told, problems = timedelta(hours=settings.cooldown_hours), read(file), []
    new = due(alerts, told, LOG, at, cooldown)
    append(file, *(_line(alert, LOG, at) for alert in new))
    for name, deliver in targets.items():
        for alert in due(alerts, told, name, at, cooldown):
            try:
                deliver(alert)
            except Exception as error:  # one that is down keeps no other from hearing; it is tried again next time
                problems.append(f"{alert.title} could not be sent to {name}: {type(error).__name__}")
                continue
            append(file, _line(alert, name, at))
    return new, problems


def _line(alert: Alert, to: str, at: datetime) -> dict[str, Any]:
    return {"at": at.isoformat(), "to": to, **asdict(alert)}


def append(file: Path, *lines: dict[str, Any]) -> None:
    """Add lines of JSON to a log, and see them on the disk."""
    append_lines(file, "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines))
