"""When an incident began, was found, told and over, out of what is written down anyway; and how rollbacks went."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lifecycle.commands.run import run_pipeline
from lifecycle.errors import UserError
from lifecycle.monitoring import alerts, history, incidents, operation
from lifecycle.monitoring.history import Measured
from lifecycle.monitoring.incidents import Incident
from lifecycle.monitoring.verdicts import Figure
from lifecycle.params import Monitoring, load_params
from lifecycle.releases import ledger as book
from lifecycle.releases import operations
from lifecycle.releases.ledger import Entry, Ledger
from lifecycle.testing import ROOT, Releases

from predictions import predictions, write

RELEASE = "r-0123456789ab"
START = datetime(2026, 5, 1)
HOUR = timedelta(hours=1)


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Monitoring:
    found = load_params(ROOT / "params.yaml").monitoring
    monkeypatch.chdir(tmp_path)
    changes = {"consecutive": {"hour": 2}, "clock": "now"}
    return Monitoring.model_validate(found.model_dump() | changes)


def measured(hour: int, value: float, check: str = "errors", rows: int = 400, minutes: int = 50) -> Measured:
    """One figure of an hour of the log, seen ten minutes before its end."""
    start = START + hour * HOUR
    figure = Figure(check, "predictions", value, rows, None, 0.01, 0.002)
    name = f"{start:%Y-%m-%dT%H}"
    return Measured("log", "hour", name, start, start + timedelta(minutes=minutes), rows, [figure])


def see(hour: int, *values: float, check: str = "errors") -> None:
    """The monitor runs at the end of an hour, and has so many hours before its eyes, the last of them the newest."""
    first = hour - len(values) + 1
    seen = [measured(first + number, value, check) for number, value in enumerate(values)]
    history.append(RELEASE, START + (hour + 1) * HOUR, seen)


def found(settings: Monitoring) -> list[Incident]:
    return incidents.find(Ledger(None), settings)


def test_a_breach_begins_with_its_first_bad_row_and_is_over_when_it_closes(settings: Monitoring) -> None:
    see(0, 0.0)
    see(1, 0.0, 0.5)
    see(2, 0.0, 0.5, 0.5)
    [incident] = found(settings)
    assert (incident.began, incident.detected) == (START + HOUR, START + 3 * HOUR)
    assert (incident.to_detect, incident.to_alert, incident.ended, incident.how) == (7200, None, None, "open")
    see(3, 0.5, 0.5, 0.0)
    [incident] = found(settings)
    assert (incident.ended, incident.how) == (START + 4 * HOUR, "it went away")
    assert incident.to_restore == 3 * 3600


def test_a_window_that_is_too_thin_to_judge_neither_begins_nor_ends_an_incident(settings: Monitoring) -> None:
    see(0, 0.5)

    def see_thin(hour: int, value: float | None) -> None:
        thin = replace(measured(hour, 0.0), figures=[Figure("errors", "predictions", value, 3)])
        history.append(RELEASE, START + (hour + 1) * HOUR, [thin])

    see_thin(1, 0.5)
    see(2, 0.5)
    see_thin(3, None)
    [incident] = found(settings)
    assert (incident.began, incident.detected, incident.ended) == (START, START + 3 * HOUR, None)
    [series] = history.read(RELEASE, {"hour": 2})
    assert (series.open, series.now.window, series.now.value) == (True, "2026-05-01T02", 0.5)
    assert series.caveat == "last judged in 2026-05-01T02: 2026-05-01T03 (rows: 3) cannot be judged"


def test_what_was_not_bad_for_long_enough_is_no_incident(settings: Monitoring) -> None:
    see(2, 0.0, 0.5, 0.0)
    assert found(settings) == []


def test_an_alert_is_counted_from_the_same_beginning(settings: Monitoring) -> None:
    see(1, 0.5, 0.5)
    [series] = history.read(RELEASE, {"hour": 2})
    at = START + 2 * HOUR + timedelta(minutes=5)
    alert = alerts.Alert(alerts.breach_of(RELEASE, series), "", "", "", "")
    alerts.tell([alert], {}, at, settings.alerts)
    alerts.tell([alert], {}, at + timedelta(days=3), settings.alerts)
    [incident] = found(settings)
    assert (incident.alerted, incident.to_alert) == (at, 125 * 60)


def test_breaches_at_the_same_time_are_one_incident_and_later_ones_another(settings: Monitoring) -> None:
    see(1, 0.5, 0.5)
    see(2, 0.5, 0.5, check="p99_ms")
    see(3, 0.5, 0.5, 0.0, 0.0)
    see(4, 0.5, 0.5, 0.0, 0.0, check="p99_ms")
    see(9, 0.5, 0.5)
    later, first = found(settings)
    assert first.what == ("errors of predictions (log)", "p99_ms of predictions (log)")
    assert first.title == "errors of predictions (log) and 1 more"
    assert (first.began, first.detected, first.ended) == (START, START + 2 * HOUR, START + 5 * HOUR)
    assert (later.began, later.ended) == (START + 8 * HOUR, None)


def move(kind: str, release: str, previous: str, minutes: float) -> Entry:
    return entry(kind, release, previous, minutes / 60)


@pytest.mark.parametrize(
    ("moves", "ended", "how"),
    [
        ([], None, "open"),
        ([("rollback", "r-old", RELEASE, 130)], 130, "rollback to r-old by x"),
        ([("rollback", "r-old", RELEASE, 10)], 10, "rollback to r-old by x, before it was found"),
        # It left and came back before anybody found it: that move ended nothing.
        ([("rollback", "r-old", RELEASE, 10), ("promote", RELEASE, "r-old", 20)], None, "open"),
        (
            [
                ("rollback", "r-old", RELEASE, 10),
                ("promote", RELEASE, "r-old", 20),
                ("rollback", "r-old", RELEASE, 130),
                ("promote", RELEASE, "r-old", 150),
            ],
            130,
            "rollback to r-old by x",
        ),
    ],
)
def test_the_move_that_ended_it_is_the_one_after_which_it_did_not_serve_when_it_was_found(
    moves: list[tuple[str, str, str, float]], ended: float | None, how: str, settings: Monitoring
) -> None:
    see(1, 0.5, 0.5)  # from 0 to 120 minutes
    [series] = history.read(RELEASE, {"hour": 2})
    [(_, incident)] = incidents._breaches(RELEASE, series, history.sightings(), settings)
    over = incidents._ended_by_a_move(incident, [move(*each) for each in moves])
    assert (over.ended and (over.ended - START).total_seconds() / 60, over.how) == (ended, how)


def test_data_of_the_past_has_taken_nobody_any_time(settings: Monitoring) -> None:
    old = Figure("psi", "x", 0.9, 400, None, 0.3, 0.2)
    month = datetime(2013, 9, 1)
    history.append(RELEASE, START, [Measured("features", "month", "2013-09", month, month + 700 * HOUR, 400, [old])])
    assert found(settings)[0].began == month
    past = Monitoring.model_validate(settings.model_dump() | {"clock": "data"})
    [incident] = found(past)
    assert (incident.began, incident.to_detect) == (START, 0)


def errors_on_two_days(release_id: str) -> None:
    release = book.load().release(release_id)
    table = pq.read_table(release.model["feature_table"], columns=list(release.model["features"])).slice(0, 400)
    for day in range(2):
        start = datetime.now(UTC) - timedelta(days=day)
        rows = predictions(release_id, "production", 2, [0.2] * 400, start=start, errors=80, name=f"d{day}")
        write([row | {"features": features} for row, features in zip(rows, table.to_pylist(), strict=True)])


def test_a_rollback_ends_it_and_counts_until_somebody_goes_back_on_it(releases: Releases) -> None:
    operations.promote(releases.second, "production")
    errors_on_two_days(releases.second)
    done = operation.run("production", [], datetime.now(UTC).replace(tzinfo=None), build=run_pipeline)
    assert any("serves" in each for each in done.acted), done
    settings = load_params().monitoring
    seen = [each for each in incidents.find(book.load(), settings) if "errors of predictions (log)" in each.what]
    [incident] = seen
    assert incident.how == f"rollback to {releases.first} by itself"
    assert incident.to_alert is not None and incident.ended is not None
    assert incident.began <= incident.detected <= incident.ended + timedelta(seconds=1)
    total = incidents.summary(seen, book.load())
    assert (total.tried, total.lasted, total.success) == (1, 1, 1.0)
    operations.promote(releases.second, "production", reason="it was right after all")
    total = incidents.summary(seen, book.load())
    assert (total.tried, total.lasted, total.success) == (1, 0, 0.0)


def test_a_rollback_that_fails_is_counted_and_a_slip_is_not(releases: Releases) -> None:
    with pytest.raises(UserError, match="production has served nothing else"):
        operations.rollback("production", "a test")
    with pytest.raises(UserError, match="there is no release r-none"):
        operations.rollback("production", "a test", to="r-none")
    [failed] = operations.failed_rollbacks()
    assert (failed["channel"], failed["automation"]) == ("production", False)
    with operations.FAILED.open("a", encoding="utf-8") as file:
        file.write('{"at": "torn')
    assert operations.failed_rollbacks() == [failed]
    operations.rollback("staging", "a person's")
    ledger = book.load()
    [incident] = incidents.find(ledger, load_params().monitoring)
    assert incident.what == ("staging: a person's",)
    assert (incident.alerted, incident.to_detect == incident.to_restore) == (None, True)
    assert incidents.summary([incident], ledger).success == 0.5


def entry(kind: str, release: str, previous: str, hours: float) -> Entry:
    at = (datetime(2026, 5, 1, tzinfo=UTC) + timedelta(hours=hours)).isoformat()
    given = {"kind": kind, "release": release, "previous": previous, "channel": "production", "by": "x", "at": at}
    return Entry.model_validate(given)


@pytest.mark.parametrize(
    ("later", "lasted"),
    [
        ([], True),
        ([entry("promote", "c", "a", 1)], True),
        ([entry("promote", "b", "a", 1)], False),
        ([entry("promote", "b", "a", 25)], True),
        ([entry("rollback", "z", "a", 1)], False),
        ([entry("promote", "c", "a", 1), entry("rollback", "a", "c", 2)], True),
    ],
)
def test_when_a_rollback_has_lasted(later: list[Entry], lasted: bool) -> None:
    assert incidents._has_lasted(entry("rollback", "a", "b", 0), later) == lasted


def test_the_log_of_failures_is_what_the_command_reads(releases: Releases) -> None:
    from lifecycle.commands.monitor import incidents as shown

    assert "0 of 0 rollbacks lasted" in shown(20).text
    with pytest.raises(UserError):
        operations.rollback("production", "a test")
    assert "0 of 1 rollbacks lasted, 0%" in shown(20).text
    data = json.loads(json.dumps(shown(20).data))
    assert (data["incidents"], data["count"], data["tried"]) == ([], 0, 1)
