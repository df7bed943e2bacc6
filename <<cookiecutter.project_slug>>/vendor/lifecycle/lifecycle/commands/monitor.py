"""`monitor`: monitor the release in service; `incidents`: list incidents and their outcome."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UserError
from .command import Limit, Result, command, on_one_line, table, with_repairs

if TYPE_CHECKING:
    from ..monitoring import operation
    from ..monitoring.history import Series
    from ..monitoring.incidents import Incident
    from ..monitoring.monitor import Monitored


@command("monitor --month 2013-09 --month 2013-10", part="monitoring", scheduled=True)
def monitor(
    release: Annotated[str, typer.Argument(metavar="[RELEASE]", help="Default: the production release.")] = "",
    month: Annotated[
        list[str] | None,
        typer.Option(metavar="YYYY-MM", help="Repeatable. Default: the months after training, and the prediction log."),
    ] = None,
    at: Annotated[
        str, typer.Option(metavar="TIME", help="Use this as the current time, in UTC, like 2026-05-01T06:00.")
    ] = "",
    act: Annotated[bool, typer.Option("--act", help="Take the actions of the triggers in params.yaml.")] = False,
) -> Result:
    """Check for drift, bad data, worse predictions and slow service.

    The thresholds are in params.yaml. Writes .lifecycle/monitoring/monitor.html and metrics.prom. Exit code 1 while a
    breach is open.
    """
    from ..monitoring import operation
    from ..monitoring.monitor import now
    from .run import run_pipeline

    time = _time(at) if at else now()
    done = operation.run(release or "production", month or [], time, build=run_pipeline if act else None)
    found = done.found
    data = {
        "release": found.release,
        "at": found.at.isoformat(),
        "verdict": found.verdict,
        "windows": [_window(each) for each in found.seen],
        "thin": [asdict(each) for each in found.thin],
        "left_out": found.left_out,
        "breaches": [_series(each) for each in found.breaches],
        "figures": [_series(each) for each in found.series],
        "alerts": [vars(alert) for alert in done.alerts],
        "acted": done.acted,
        "page": str(done.page),
        "notes": done.notes,
    }
    return Result(data, with_repairs(done.notes, _text(found, done)), code=bool(found.breaches))


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise UserError(f"--at must be a time like 2026-05-01T06:00, not {text!r}") from None
    return time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time


def _window(seen: Any) -> dict[str, Any]:
    of = seen.measured
    return {
        "source": of.source,
        "window": of.window,
        "start": of.start.isoformat(),
        "end": of.end.isoformat(),
        "rows": of.rows,
        "outcomes": of.outcomes,
    }


def _series(series: "Series") -> dict[str, Any]:
    point = series.now
    return {
        "source": series.source,
        "check": series.check,
        "subject": series.subject,
        "window": point.window,
        "value": point.value,
        "reference": point.reference,
        "fire": point.fire,
        "clear": point.clear,
        "rows": point.rows,
        "open": point.state.open,
        "since": point.state.since,
        "unjudged": [{"window": each.window, "rows": each.rows} for each in series.unjudged],
    }


def _text(found: "Monitored", done: "operation.Done") -> str:
    from ..monitoring import alerts
    from ..params import load_params

    profile = found.profile
    rows: list[tuple[str, ...]] = [
        ("  check", "subject", "value", "fires above", "clears below", "since", "last judged in")
    ]
    rows += [
        (
            f"  {each.check}",
            each.subject,
            *(f"{value:.3g}" for value in (each.now.value, each.now.fire, each.now.clear)),
            _since(each),
            each.now.window if each.unjudged else "",
        )
        for each in found.breaches
    ]
    if not any(row[-1] for row in rows[1:]):
        rows = [row[:-1] for row in rows]
    looked = ", ".join(f"{seen.measured.window} ({seen.measured.rows:,})" for seen in found.seen)
    lines = [f"{found.release}, trained on {profile.train[0]} to {profile.train[-1]}", f"  rows of {looked}"]
    if found.left_out:
        many = ", ".join(f"{count:,} in {window}" for window, count in found.left_out.items())
        lines.append(
            f"  left out {many}: their features are not those of their key (vendor/lifecycle/docs/serving.md#evidence)"
        )
    lines += [f"  {each}" for each in found.thin]
    lines += [f"{found.verdict}:", table(rows)] if found.breaches else [found.verdict]
    lines += [f"done: {each}" for each in done.acted]
    lines += [f"next: {alert.command}" for alert in alerts.of(found, load_params().monitoring.alerts)[:1]]
    return "\n".join([*lines, f"open {done.page}"])


def _since(series: "Series") -> str:
    return series.now.state.since or "" if series.source != "freshness" else ""


@command("incidents --limit 5", part="monitoring")
def incidents(limit: Limit = 20) -> Result:
    """Show incidents, how long they took, and how they ended.

    Derived from the ledger, the monitor's history and the log of alerts.
    """
    from ..monitoring import incidents as log_of
    from ..params import load_params
    from ..releases.reconcile import open_ledger

    opened = open_ledger()
    found = log_of.find(opened.ledger, load_params().monitoring)
    total = log_of.summary(found, opened.ledger)
    lines = []
    for each in found[:limit]:
        lines.append(on_one_line(f"{each.began:%Y-%m-%dT%H:%M:%SZ}  {each.release}  {each.how}"))
        lines.append(on_one_line(f"  {each.title}"))
        spans = zip(STEPS, (each.to_detect, each.to_alert, each.to_restore), strict=True)
        lines += [f"  {', '.join(f'{name} after {_span(value)}' for name, value in spans)}"]
    medians = ", ".join(
        f"{name} after {_span(value)}"
        for name, value in zip(STEPS, (total.to_detect, total.to_alert, total.to_restore), strict=True)
    )
    success = f", {total.success:.0%}" if total.success is not None else ""
    closed = total.count > total.open
    if len(found) > limit:
        lines.append(f"... and {len(found) - limit} earlier (--limit)")
    lines.append(f"{total.count} incidents, {total.open} open")
    lines += [f"  medians: {medians}"] if closed else []
    lines.append(f"{total.lasted} of {total.tried} rollbacks lasted{success}")
    data = {"incidents": [_incident(each) for each in found[:limit]], **asdict(total), "notes": opened.done}
    return Result(data, with_repairs(opened.done, "\n".join(lines)))


STEPS = ("detected", "alerted", "resolved")


def _incident(each: "Incident") -> dict[str, Any]:
    times = {
        name: value.isoformat() if value else None
        for name in ("began", "detected", "alerted", "ended")
        for value in [getattr(each, name)]
    }
    spans = {name: getattr(each, name) for name in ("to_detect", "to_alert", "to_restore")}
    return {"release": each.release, "what": list(each.what), "how": each.how, **times, **spans}


def _span(seconds: float | None) -> str:
    """Format seconds in readable units."""
    if seconds is None:
        return "-"
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
