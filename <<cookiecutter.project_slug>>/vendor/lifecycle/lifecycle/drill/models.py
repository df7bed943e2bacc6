"""Faults in models and in their requests."""

import json
import time
from collections.abc import Callable
from typing import Any

from ..params import load_params
from .defects import Defect
from .sandbox import PATIENCE_SECONDS, Sandbox, UnexpectedError, last_line
from .scenario import Scenario, expect

# Checks for inputs that differ from training.
INPUTS = {"psi", "distance", "outside"}


def drifted_inputs(scenario: Scenario) -> str:
    """Send requests in which every number is as large as the largest in the data."""
    sandbox, watch = scenario.sandbox, scenario.watch
    scenario.load.drifted = True
    watch.begin()
    try:
        seen = _monitored(
            scenario, lambda said: INPUTS & {each["check"] for each in said["breaches"]} and said["alerts"]
        )
    finally:
        scenario.load.drifted = False
    alerts = [each["title"] for each in seen["alerts"]]
    watch.found()
    watch.to_alert = _incident(sandbox)["to_alert"]
    expect(sandbox.serves("production") == scenario.sound, "production was moved, though nobody knows that it is worse")
    return f"{len(alerts)} alerts, the first {alerts[0]}; {'; '.join(seen['acted']) or 'nothing done'}"


def worse_model(scenario: Scenario) -> str:
    """Promote a model to production that passes every test, but then answers with the wrong rows' scores."""
    sandbox, watch = scenario.sandbox, scenario.watch
    bad = sandbox.release_defective("worse")
    sandbox.must("promote", bad, "--to", "production", "--reason", "drill")
    watch.begin()
    sandbox.until(lambda: sandbox.shows("production") == bad, "the server does not serve it")
    _monitored(scenario, lambda _: sandbox.serves("production") == scenario.sound)
    watch.found()
    entry = sandbox.ledger.last_entry()
    assert entry is not None
    expect(entry.kind == "rollback" and entry.automation, f"it was no automatic rollback: {entry.kind}")
    checks = {figure["check"] for figure in entry.evidence["trigger"]["figures"]}
    expect(checks & {"skill_drop", "ranking_drop"}, f"it was rolled back for {', '.join(sorted(checks))} alone")
    sandbox.until(lambda: sandbox.shows("production") == scenario.sound, "the server does not follow")
    watch.over()
    incident = _incident(sandbox)
    watch.to_alert = incident["to_alert"]
    expect(incident["how"] == f"rollback to {scenario.sound} by itself", f"`incidents` says: {incident}")
    return f"rolled back by the monitor: {', '.join(sorted(checks))}; {bad} is in quarantine"


def _incident(sandbox: Sandbox) -> dict[str, Any]:
    """Return the newest incident, as `incidents` lists it."""
    found: list[dict[str, Any]] = sandbox.must("incidents", "--limit", "1")["incidents"]
    expect(found and found[0]["to_alert"] is not None, f"`incidents` knows of no alert: {found}")
    return found[0]


def _monitored(scenario: Scenario, enough: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """Run the monitor repeatedly, as a schedule would, until `enough` is true. Return its last output."""
    rows, since = load_params().monitoring.min_rows, len(scenario.load.answers)
    scenario.sandbox.until(lambda: len(scenario.load.answers) - since > 1.5 * rows, "there are too few answers")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        done = scenario.sandbox.cli("monitor", "--act", "--json")
        expect(done.stdout, f"the monitor failed: {last_line(done)}")
        said: dict[str, Any] = json.loads(done.stdout)
        if enough(said):
            return said
    raise UnexpectedError(f"the monitor did not find it; in breach: {[each['check'] for each in said['breaches']]}")


def crashing_model(scenario: Scenario) -> str:
    """Roll out a release to the canary that raises on every request after the first ones."""
    return _bad_canary(scenario, "crashing")


def slow_model(scenario: Scenario) -> str:
    """Roll out a release to the canary that takes a second for every request after the first ones."""
    return _bad_canary(scenario, "slow")


def _bad_canary(scenario: Scenario, defect: Defect) -> str:
    sandbox, watch = scenario.sandbox, scenario.watch
    bad = sandbox.release_defective(defect)
    first = sandbox.start_cli("rollout", bad)
    sandbox.until(lambda: sandbox.shows("canary") == bad, "the rollout did not take it to the canary")
    watch.begin()
    sandbox.until(lambda: _breaker(sandbox) == "open" or sandbox.ledger.quarantine(bad), "the breaker does not open")
    watch.found()
    first.wait()
    deadline, code = time.monotonic() + PATIENCE_SECONDS, 3
    while code == 3 and time.monotonic() < deadline:
        done = sandbox.cli("rollout", bad)
        code = done.returncode
    expect(code == 1 and sandbox.serves("canary") is None, f"it was not rolled back: {last_line(done)}")
    sandbox.until(lambda: sandbox.shows("canary") is None, "the server does not follow")
    watch.over()
    entry = sandbox.ledger.last_entry()
    expect(entry and entry.automation and sandbox.ledger.quarantine(bad), "it is not in quarantine")
    return f"breaker open, then {entry.reason if entry else ''}"


def _breaker(sandbox: Sandbox) -> str:
    found: str = ((sandbox.info() or {}).get("canary") or {}).get("breaker", "")
    return found
