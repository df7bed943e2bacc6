"""Faults of models and of what they are asked."""

import json
import time
from collections.abc import Callable
from typing import Any

from ..params import load_params
from .defects import Defect
from .scene import Scene, expect
from .stand import PATIENCE_SECONDS, NotHeldError, Stand, last_line

# Checks that say that inputs are others than in training.
INPUTS = {"psi", "distance", "outside"}


def drifted_inputs(scene: Scene) -> str:
    """Every number in the requests is as large as the largest there was."""
    stand, watch = scene.stand, scene.watch
    scene.load.drifted = True
    watch.begin()
    try:
        told = _monitored(scene, lambda said: INPUTS & {each["check"] for each in said["breaches"]} and said["alerts"])
    finally:
        scene.load.drifted = False
    alerts = [each["title"] for each in told["alerts"]]
    watch.found()
    watch.told = _incident(stand)["to_alert"]
    expect(stand.serves("production") == scene.sound, "production was moved, though nobody knows that it is worse")
    return f"{len(alerts)} alerts, the first {alerts[0]}; {'; '.join(told['acted']) or 'nothing done'}"


def worse_model(scene: Scene) -> str:
    """Production gets a model that is sound in every test, and answers the wrong rows once it serves."""
    stand, watch = scene.stand, scene.watch
    bad = stand.release_defective("worse")
    stand.must("promote", bad, "--to", "production", "--reason", "drill")
    watch.begin()
    stand.until(lambda: stand.shows("production") == bad, "the server does not serve it")
    _monitored(scene, lambda _: stand.serves("production") == scene.sound)
    watch.found()
    entry = stand.ledger.last_entry()
    assert entry is not None
    expect(entry.kind == "rollback" and entry.automation, f"it was no automatic rollback: {entry.kind}")
    checks = {figure["check"] for figure in entry.evidence["trigger"]["figures"]}
    expect(checks & {"skill_drop", "ranking_drop"}, f"it was rolled back for {', '.join(sorted(checks))} alone")
    stand.until(lambda: stand.shows("production") == scene.sound, "the server does not follow")
    watch.over()
    incident = _incident(stand)
    watch.told = incident["to_alert"]
    expect(incident["how"] == f"rollback to {scene.sound} by itself", f"`incidents` says: {incident}")
    return f"rolled back by the monitor: {', '.join(sorted(checks))}; {bad} is in quarantine"


def _incident(stand: Stand) -> dict[str, Any]:
    """The newest, as `incidents` has it."""
    found: list[dict[str, Any]] = stand.must("incidents", "--limit", "1")["incidents"]
    expect(found and found[0]["to_alert"] is not None, f"`incidents` knows of no alert: {found}")
    return found[0]


def _monitored(scene: Scene, enough: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """Let the monitor run, as a schedule would, until it has seen enough; returns what it said last."""
    rows, since = load_params().monitoring.min_rows, len(scene.load.answers)
    scene.stand.until(lambda: len(scene.load.answers) - since > 1.5 * rows, "there are too few answers")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        done = scene.stand.cli("monitor", "--act", "--json")
        expect(done.stdout, f"the monitor failed: {last_line(done)}")
        said: dict[str, Any] = json.loads(done.stdout)
        if enough(said):
            return said
    raise NotHeldError(f"the monitor did not find it; in breach: {[each['check'] for each in said['breaches']]}")


def crashing_model(scene: Scene) -> str:
    """A release comes to the canary by a rollout, and raises on every request after the first ones."""
    return _bad_canary(scene, "crashing")


def slow_model(scene: Scene) -> str:
    """The same with one that takes a second."""
    return _bad_canary(scene, "slow")


def _bad_canary(scene: Scene, defect: Defect) -> str:
    stand, watch = scene.stand, scene.watch
    bad = stand.release_defective(defect)
    first = stand.start_cli("rollout", bad)
    stand.until(lambda: stand.shows("canary") == bad, "the rollout did not take it to the canary")
    watch.begin()
    stand.until(lambda: _breaker(stand) == "open" or stand.ledger.quarantine(bad), "the breaker does not open")
    watch.found()
    first.wait()
    deadline, code = time.monotonic() + PATIENCE_SECONDS, 3
    while code == 3 and time.monotonic() < deadline:
        done = stand.cli("rollout", bad)
        code = done.returncode
    expect(code == 1 and stand.serves("canary") is None, f"it was not rolled back: {last_line(done)}")
    stand.until(lambda: stand.shows("canary") is None, "the server does not follow")
    watch.over()
    entry = stand.ledger.last_entry()
    expect(entry and entry.automation and stand.ledger.quarantine(bad), "it is not in quarantine")
    return f"breaker open, then {entry.reason if entry else ''}"


def _breaker(stand: Stand) -> str:
    found: str = ((stand.info() or {}).get("canary") or {}).get("breaker", "")
    return found
