"""What a breach triggers, by the table in params.yaml: alert, retrain, hold or rollback.

A decision depends on the measurements, the ledger, and the retrainings already started. Each completed action is a
ledger entry with the figures that it was based on, and no breach triggers the same action twice. A failed retraining is
tried again by the next run, `retrain_attempts` times in total; then a person decides.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from .. import project
from ..errors import UserError, one_line
from ..params import Action, Triggers
from ..releases import channels, operations
from ..releases.ledger import Entry, Ledger
from ..releases.reconcile import open_ledger
from . import alerts
from .alerts import Alert, breach_of
from .history import Series
from .monitor import Monitored

# The strongest first: after a rollback, neither a hold nor an immediate new model is needed.
STRENGTH: tuple[Action, ...] = ("rollback", "hold", "retrain")
# Retrainings that were started, with their breaches. The ledger holds the completed ones.
BEGUN = Path(".lifecycle/monitoring/retrainings.jsonl")


@dataclass(frozen=True)
class Decision:
    """An action, the breaches that led to it, and why it differs from the table, if it does."""

    release: str
    action: Action
    breaches: tuple[Series, ...]
    why: str = ""

    @property
    def reason(self) -> str:
        """The reason, for the ledger."""
        first = self.breaches[0]
        value = f"{first.check} of {first.subject} is {first.now.value:.3g}, bound {first.now.fire:.3g}"
        more = f" and {len(self.breaches) - 1} more" if len(self.breaches) > 1 else ""
        return "; ".join(filter(None, (f"monitor: {value} ({first.source}){more}", first.caveat, self.why)))

    @property
    def evidence(self) -> dict[str, Any]:
        """The evidence, for the ledger: the measurements, and the names that identify the breaches."""
        names = [breach_of(self.release, each) for each in self.breaches]
        figures = [
            {
                "check": each.check,
                "subject": each.subject,
                "window": each.now.window,
                "value": each.now.value,
                "bound": each.now.fire,
            }
            for each in self.breaches
        ]
        return {"trigger": {"breaches": names, "figures": figures, "why": self.why}}


def decide(found: Monitored, rules: Triggers, ledger: Ledger) -> Decision | None:
    """Return the strongest action due now, if any. Sending an alert is not an action."""
    production = ledger.channel("production")
    if production is None or production.release != found.release:
        return None  # a release that is not served can wait
    entries = [entry for _, entry in ledger.entries()]
    for action in STRENGTH:
        breaches = tuple(each for each in found.breaches if _action(each, rules) == action)
        new = _not_acted_on(breaches, action, found.release, entries)
        if not new or _cools_down(action, entries, rules, found.at):
            continue
        if action == "rollback" and len(_automatic(entries, action, found.at, 24)) >= rules.rollbacks_a_day:
            limit = f"production was rolled back {rules.rollbacks_a_day} times in a day: a person decides"
            return None if ledger.held("production") else Decision(found.release, "hold", new, limit)
        if action == "retrain" and _attempts(found.release, new) >= rules.retrain_attempts:
            new = _not_acted_on(new, "hold", found.release, entries)
            limit = f"retraining failed {rules.retrain_attempts} times: a person decides"
            return Decision(found.release, "hold", new, limit) if new and not ledger.held("production") else None
        return Decision(found.release, action, new)
    return None


def _action(series: Series, rules: Triggers) -> Action:
    fitting = (rule.do for rule in rules.rules if rule.check == series.check and rule.source in (None, series.source))
    return next(fitting, "alert")


def _not_acted_on(
    breaches: Iterable[Series], action: Action, release: str, entries: Iterable[Entry]
) -> tuple[Series, ...]:
    done = {name for entry in entries for name in _trigger(entry).get("breaches", ()) if entry.kind == action}
    return tuple(each for each in breaches if breach_of(release, each) not in done)


def _attempts(release: str, breaches: Iterable[Series]) -> int:
    """Return how often a retraining was started for these breaches: the lowest count among them."""
    begun = Counter(name for line in alerts.read(BEGUN) for name in line["breaches"])
    return min(begun[breach_of(release, each)] for each in breaches)


def _trigger(entry: Entry) -> dict[str, Any]:
    found: dict[str, Any] = entry.evidence.get("trigger", {})
    return found


def _automatic(entries: Iterable[Entry], action: Action, now: datetime, hours: float) -> list[Entry]:
    """Return the automatic actions of a kind in the last `hours` hours."""
    since = now - timedelta(hours=hours)
    own = [entry for entry in entries if entry.kind == action and entry.automation and entry.channel == "production"]
    return [entry for entry in own if datetime.fromisoformat(entry.at).replace(tzinfo=None) > since]


def _cools_down(action: Action, entries: Iterable[Entry], rules: Triggers, now: datetime) -> bool:
    return bool(_automatic(entries, action, now, rules.cooldown_hours.get(action, 0)))


def act(
    found: Monitored, rules: Triggers, build: Callable[[], object], runbook: str = ""
) -> tuple[list[str], list[Alert]]:
    """Do what is due. Return what was done, in words, and alerts about failures.

    Args:
        found: the monitor's results.
        rules: from params.yaml.
        build: runs the pipeline on the newest data; the result is then released.
        runbook: the link for a person who gets an alert.
    """
    opened = open_ledger(network=True, offline=True)
    decision = decide(found, rules, opened.ledger)
    if decision is None:
        return [], []
    if decision.action == "rollback":
        return _roll_back(opened.ledger, decision), []
    if decision.action == "hold":
        return [_hold(opened.ledger, decision)], []
    attempt = _attempts(decision.release, decision.breaches) + 1
    # Recorded before it starts, so that an attempt that kills this process counts too.
    alerts.append(BEGUN, {"at": found.at.isoformat(), "breaches": decision.evidence["trigger"]["breaches"]})
    try:
        return [_retrain(decision, build)], []
    except Exception as error:  # whatever the error, alert a person, and try again in the next run
        said = f"retraining failed ({attempt} of {rules.retrain_attempts}): {one_line(error)}"
    again = decide(found, rules, (ledger := open_ledger(network=True, offline=True).ledger))
    follows = _hold(ledger, again) if again and again.action == "hold" else "the next run of the monitor tries again"
    text = f"{decision.release}: {said}; {follows}"
    name = f"{breach_of(decision.release, decision.breaches[0])}/retrain/{attempt}"
    return [said, follows], [
        Alert(name, "retraining failed", text, f"{project.command()} run && {project.command()} release", runbook)
    ]


def _retrain(decision: Decision, build: Callable[[], object]) -> str:
    build()
    made = operations.release("retrained by the monitor", automation=True).result
    evidence = decision.evidence | {"made": made.release.id, "new": made.new}
    ledger = open_ledger(network=True, offline=True).ledger
    channels.note(ledger, "retrain", "production", decision.reason, True, evidence)
    again = "" if made.new else " again: there is nothing new to learn from"
    return f"retrained: {made.release.id}{again}"


def _roll_back(ledger: Ledger, decision: Decision) -> list[str]:
    generation, evidence = ledger.channels()["production"].generation, decision.evidence
    try:
        done = operations.rollback(
            "production", decision.reason, generation=generation, automation=True, evidence=evidence
        )
    except UserError as error:
        return [_hold(ledger, decision, f"no rollback: {error}")]
    return [*done.notes, f"production serves {done.result.release} again: {decision.reason}"]


def _hold(ledger: Ledger, decision: Decision, why: str = "") -> str:
    reason = "; ".join(filter(None, (decision.reason, why)))
    channels.hold(ledger, "production", reason=reason, automation=True, evidence=decision.evidence)
    return f"production is on hold for a person: {why or reason}"
