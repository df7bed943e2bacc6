"""What a breach leads to, by the table in params.yaml: alert, retrain, hold or rollback.

Deciding is a function of what was measured and of the ledger. Each action is an entry of the ledger with the figures
that it was decided on, and no breach leads to the same action twice.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from ..errors import UserError
from ..releases import channels, operations
from ..releases.ledger import Entry, Ledger
from ..releases.reconcile import open_ledger
from ..params import Action, Triggers
from .alerts import breach_of
from .history import Series
from .monitor import Monitored

# The strongest first: what is rolled back needs no hold, and no new model at once.
STRENGTH: tuple[Action, ...] = ("rollback", "hold", "retrain")


@dataclass(frozen=True)
class Decision:
    """An action, the breaches of a release that led to it, and why it is not what the table says, if it is not."""

    release: str
    action: Action
    breaches: tuple[Series, ...]
    why: str = ""

    @property
    def reason(self) -> str:
        """For the ledger."""
        first = self.breaches[0]
        value = f"{first.check} of {first.subject} is {first.now.value:.3g}, bound {first.now.fire:.3g}"
        more = f" and {len(self.breaches) - 1} more" if len(self.breaches) > 1 else ""
        return f"monitor: {value} ({first.source}){more}" + (f"; {self.why}" if self.why else "")

    @property
    def evidence(self) -> dict[str, Any]:
        """For the ledger: what was measured, and by which names it is known again."""
        names = [breach_of(self.release, each) for each in self.breaches]
        figures = [
            {"check": each.check, "subject": each.subject, "value": each.now.value, "bound": each.now.fire}
            for each in self.breaches
        ]
        return {"trigger": {"breaches": names, "figures": figures, "why": self.why}}


def decide(found: Monitored, rules: Triggers, ledger: Ledger) -> Decision | None:
    """The strongest action that is due now, if any: what is told as an alert needs none."""
    production = ledger.channel("production")
    if production is None or production.release != found.release:
        return None  # what nobody is served can wait
    entries = [entry for _, entry in ledger.entries()]
    for action in STRENGTH:
        breaches = tuple(each for each in found.breaches if _action(each, rules) == action)
        new = _not_acted_on(breaches, action, found.release, entries)
        if not new or _cools_down(action, entries, rules, found.at):
            continue
        if action == "rollback" and len(_automatic(entries, action, found.at, 24)) >= rules.rollbacks_a_day:
            limit = f"production was rolled back {rules.rollbacks_a_day} times in a day: a person decides"
            return None if ledger.held("production") else Decision(found.release, "hold", new, limit)
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


def _trigger(entry: Entry) -> dict[str, Any]:
    found: dict[str, Any] = entry.evidence.get("trigger", {})
    return found


def _automatic(entries: Iterable[Entry], action: Action, now: datetime, hours: float) -> list[Entry]:
    """The automatic actions of a kind in the last hours."""
    since = now - timedelta(hours=hours)
    own = [entry for entry in entries if entry.kind == action and entry.automation and entry.channel == "production"]
    return [entry for entry in own if datetime.fromisoformat(entry.at).replace(tzinfo=None) > since]


def _cools_down(action: Action, entries: Iterable[Entry], rules: Triggers, now: datetime) -> bool:
    return bool(_automatic(entries, action, now, rules.cooldown_hours.get(action, 0)))


def act(found: Monitored, rules: Triggers, retrain: Callable[[], str]) -> list[str]:
    """Do what is due; returns what was done, in words.

    Args:
        found: what the monitor saw.
        rules: of params.yaml.
        retrain: builds a new model out of the newest data and releases it; says what came of it.
    """
    opened = open_ledger(network=True, offline=True)
    decision = decide(found, rules, opened.ledger)
    if decision is None:
        return []
    evidence = decision.evidence
    if decision.action == "rollback":
        generation = opened.ledger.channels()["production"].generation
        try:
            done = operations.rollback(
                "production", decision.reason, generation=generation, automation=True, evidence=evidence
            )
        except UserError as error:
            why = f"no rollback: {error}"
            channels.hold(
                opened.ledger, "production", reason=f"{decision.reason}; {why}", automation=True, evidence=evidence
            )
            return [f"production is on hold for a person: {why}"]
        return [*done.notes, f"production serves {done.result.release} again: {decision.reason}"]
    if decision.action == "hold":
        channels.hold(opened.ledger, "production", reason=decision.reason, automation=True, evidence=evidence)
        return [f"production is on hold for a person: {decision.reason}"]
    channels.note(opened.ledger, "retrain", "production", decision.reason, True, evidence)
    return [f"retrained: {retrain()}"]
