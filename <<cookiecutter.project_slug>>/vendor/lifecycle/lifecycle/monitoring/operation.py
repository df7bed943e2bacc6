"""Run the monitor from start to finish, for both the command line and the flow."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ..params import load_params
from ..predictions import sharing
from ..releases.reconcile import open_ledger
from . import alerts, gauges, page, retention, triggers
from .alerts import Alert
from .monitor import Monitored, monitor, now
from .triggers import Decision


@dataclass(frozen=True)
class Done:
    """The outcome of a run: measurements, new alerts, actions taken, and notes.

    `due`: what the triggers ask for, done or not; `generation`: production's generation when that was decided.
    """

    found: Monitored
    due: Decision | None
    generation: int
    alerts: list[Alert]
    acted: list[str]
    page: Path
    notes: list[str]


def run(
    what: str,
    months: Iterable[str],
    at: datetime,
    targets: dict[str, Callable[[Alert], object]] | None = None,
    build: Callable[[], object] | None = None,
) -> Done:
    """Measure a release (an id, or the channel that serves it), write page and gauges, and send alerts for breaches.

    With `build`, which runs the pipeline, also act on the triggers in params.yaml.

    Raises:
        UserError: there is nothing to measure.
    """
    params = load_params()
    sharing.collect_recent(params.serving.log.store)
    opened = open_ledger()
    found = monitor(opened.ledger.release(what), opened.store, params, at, months)
    gauges.write(found)
    page.write(found, opened.ledger)
    settings = params.monitoring.alerts
    new, problems = alerts.tell(alerts.of(found, settings), targets or {}, at, settings)
    due = triggers.decide(found, params.monitoring.triggers, opened.ledger)
    production = opened.ledger.channel("production")
    acted: list[str] = []
    if build:
        acted, failed = triggers.act(found, params.monitoring.triggers, build, settings.runbook)
        more, unheard = alerts.tell(failed, targets or {}, at, settings)
        new, problems = [*new, *more], [*problems, *unheard]
        page.write(found, open_ledger().ledger)
    gone = retention.expire(opened.ledger, params, now())  # `at` may differ from the current time
    notes = [*opened.done, *found.notes, *problems]
    if gone:
        notes.append(f"the prediction log of {gone[0]} to {gone[-1]} is deleted (serving.log.keep_days)")
    return Done(found, due, production.generation if production else 0, new, acted, page.FILE, notes)
