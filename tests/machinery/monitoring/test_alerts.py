"""Alerts: told once, told again after the cooldown, and to each of those who should hear."""

import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from lifecycle.monitoring import alerts
from lifecycle.monitoring.alerts import Alert
from lifecycle.params import Alerts

SETTINGS = Alerts(cooldown_hours=24, runbook="docs/monitoring.md")
AT = datetime(2031, 1, 1)
DRIFT = Alert("r-1/features/psi/x/2031-01", "psi of x", "psi of x is 9", "run", "docs/monitoring.md")
SLOW = Alert("r-1/log/p99_ms/predictions/2031-01-01", "p99", "p99 is 900", "rollback", "docs/monitoring.md")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "alerts.jsonl"


def test_an_opening_is_told_once_and_again_after_the_cooldown(file: Path) -> None:
    def tell(hours: float) -> list[str]:
        new, _ = alerts.tell([DRIFT], {}, AT + timedelta(hours=hours), SETTINGS, file)
        return [alert.breach for alert in new]

    assert [bool(tell(hours)) for hours in (0, 1, 23.9, 24, 30)] == [True, False, False, True, False]


def test_another_opening_of_the_same_check_is_told_at_once(file: Path) -> None:
    alerts.tell([DRIFT], {}, AT, SETTINGS, file)
    later = Alert(DRIFT.breach.replace("2031-01", "2031-02"), *list(vars(DRIFT).values())[1:])
    assert alerts.tell([DRIFT, later], {}, AT, SETTINGS, file)[0] == [later]


def test_who_was_down_is_told_next_time_and_nobody_twice(file: Path) -> None:
    heard: dict[str, list[str]] = {"mail": [], "chat": []}
    up = {"mail": False, "chat": True}

    def deliver(name: str, alert: Alert) -> None:
        if not up[name]:
            raise ConnectionError
        heard[name].append(alert.breach)

    targets = {name: lambda alert, name=name: deliver(name, alert) for name in heard}
    _, problems = alerts.tell([DRIFT], targets, AT, SETTINGS, file)
    assert problems == ["psi of x could not be sent to mail: ConnectionError"]
    up["mail"] = True
    assert alerts.tell([DRIFT, SLOW], targets, AT + timedelta(hours=1), SETTINGS, file)[1] == []
    assert heard == {"mail": [DRIFT.breach, SLOW.breach], "chat": [DRIFT.breach, SLOW.breach]}


def test_a_torn_line_costs_that_line_alone(file: Path) -> None:
    alerts.tell([DRIFT], {}, AT, SETTINGS, file)
    with file.open("a", encoding="utf-8") as log:
        log.write('{"at": "2031-01-0')
    assert alerts.tell([DRIFT, SLOW], {}, AT, SETTINGS, file)[0] == [SLOW]
    assert [line["breach"] for line in alerts.read(file)] == [DRIFT.breach, SLOW.breach]
    assert len(file.read_text(encoding="utf-8").splitlines()) == 3


def test_a_message_has_the_command_and_the_runbook() -> None:
    text = alerts.body(SLOW)
    assert all(part in text for part in (SLOW.text, SLOW.command, SLOW.runbook))
    assert json.dumps(vars(SLOW))
