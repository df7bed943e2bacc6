"""What breaches lead to: rollback, hold or retraining, once, with a limit, and in the ledger with the figures."""

from datetime import UTC, datetime, timedelta

import pytest

from lifecycle.commands.monitor import monitor
from lifecycle.commands.run import run_pipeline
from lifecycle.errors import UserError
from lifecycle.monitoring import gauges, operation, page
from lifecycle.monitoring.measure import end_of
from lifecycle.params import Monitoring, Params, Rule, Triggers, load_params
from lifecycle.releases import channels, ledger, operations, registry
from lifecycle.releases.ledger import Entry
from lifecycle.releases.verify import verify_ledger
from lifecycle.testing import Releases, commit_all, edit_params, wait_until

import synthetic
from predictions import failing, predictions, write


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def serving(releases: Releases) -> Releases:
    """The second release serves production, after the first."""
    operations.promote(releases.second, "production")
    return releases


def act(rules: Triggers | None = None, monkeypatch: pytest.MonkeyPatch | None = None) -> list[str]:
    """Run the monitor, with other rules if there are some."""
    if rules and monkeypatch:
        params = load_params()
        monitoring = Monitoring.model_validate(params.monitoring.model_dump() | {"triggers": rules.model_dump()})
        changed = Params.model_validate(params.model_dump() | {"monitoring": monitoring.model_dump()})
        monkeypatch.setattr(operation, "load_params", lambda: changed)
    return operation.run("production", [], now().replace(tzinfo=None), build=run_pipeline).acted


def last() -> Entry:
    entry = ledger.load().last_entry()
    assert entry is not None
    return entry


def only(do: str, a_day: int = 2) -> Triggers:
    rules = [Rule.model_validate({"check": "errors", "do": do})]
    return Triggers(rules=rules, rollbacks_a_day=a_day, cooldown_hours={"rollback": 0})


def test_a_server_that_fails_is_rolled_back_with_the_figures_in_the_ledger(serving: Releases) -> None:
    failing(serving.second, 0.2)
    [done] = [each for each in act() if "serves" in each]
    assert done.startswith(f"production serves {serving.first} again: monitor: errors of predictions is 0.2")
    entry = last()
    assert (entry.kind, entry.release, entry.automation) == ("rollback", serving.first, True)
    [figure] = entry.evidence["trigger"]["figures"]
    assert (figure["check"], figure["value"]) == ("errors", 0.2)
    assert ledger.load().quarantine(serving.second)
    wait_until(lambda: registry.in_step(ledger.load(), registry.DESCRIBED))  # what MLflow shows follows by itself


def test_a_server_that_does_not_fail_is_left_alone(serving: Releases, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(serving.second, 0.0)
    before = ledger.load()
    assert act(only("rollback"), monkeypatch) == []
    assert ledger.load() == before


def test_a_breach_on_one_day_alone_is_not_enough(serving: Releases, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(serving.second, 0.2, days=1)
    assert act(only("rollback"), monkeypatch) == []


def test_what_production_does_not_serve_is_not_acted_on(serving: Releases, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(serving.first, 0.2)
    failing(serving.second, 0.0)
    assert act(only("rollback"), monkeypatch) == []


def test_after_so_many_rollbacks_a_day_a_person_decides(serving: Releases, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(serving.second, 0.2)
    [said] = act(only("rollback", a_day=0), monkeypatch)
    assert "on hold for a person" in said
    assert (last().kind, ledger.load().channels()["production"].release) == ("hold", serving.second)
    assert act(only("rollback", a_day=0), monkeypatch) == []  # it is on hold already


def test_with_nothing_to_go_back_to_production_is_put_on_hold(
    releases: Releases, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(releases.first, 0.2)
    [said] = act(only("rollback"), monkeypatch)
    assert said.startswith("production is on hold for a person: no rollback: production has served nothing else")
    assert ledger.load().channels()["production"].release == releases.first


def retrainings() -> list[Entry]:
    return [entry for _, entry in ledger.load().entries() if entry.kind == "retrain"]


def retrain_on_errors(releases: Releases, gates: dict[str, dict[str, float]], attempts: int = 2) -> None:
    """Let a breach of errors retrain; hold models to these gates; and commit both, as a release asks for."""
    triggers = {"rules": [{"check": "errors", "do": "retrain"}], "retrain_attempts": attempts}
    edit_params(releases.folder, {"monitoring": {"triggers": triggers}, "evaluate": {"gates": gates}})
    commit_all(releases.folder, "Other triggers and gates")


def test_a_retraining_that_fails_is_tried_again_and_in_the_ledger_when_it_is_done(serving: Releases) -> None:
    failing(serving.second, 0.2)
    gates = load_params().model_dump(exclude_none=True)["evaluate"]["gates"]
    # A month is new, and no model passes this.
    month = f"{end_of(synthetic.MONTHS[-1]):%Y-%m}"
    synthetic.write_source(serving.folder / "extracts", [*synthetic.MONTHS, month])
    edit_params(serving.folder, {"data": {"through": month}})
    retrain_on_errors(serving, {name: {"min": 2.0} for name in gates})
    failed = monitor("production", [], "", act=True)
    assert failed.data["acted"][0].startswith("retraining failed (1 of 2): the model does not pass its gates")
    assert failed.data["acted"][1] == "the next run of the monitor tries again"
    [alert] = [each for each in failed.data["alerts"] if each["title"] == "retraining failed"]
    assert "does not pass its gates" in alert["text"] and "tries again" in alert["text"]
    assert retrainings() == []

    retrain_on_errors(serving, gates)
    [done] = monitor("production", [], "", act=True).data["acted"]
    [entry] = retrainings()
    made = entry.evidence["made"]
    assert done == f"retrained: {made}" and made not in (serving.first, serving.second)
    assert ledger.load().release(made).materials["params"]["data"]["through"] == month
    assert "errors of predictions" in entry.reason and entry.automation
    assert ledger.load().channels()["production"].release == serving.second
    assert monitor("production", [], "", act=True).data["acted"] == []  # once for a breach
    assert verify_ledger(ledger.load()).problems == []


def test_a_retraining_that_keeps_failing_is_left_to_a_person(serving: Releases) -> None:
    failing(serving.second, 0.2)
    retrain_on_errors(serving, {"roc_auc": {"min": 2.0}})
    assert monitor("production", [], "", act=True).data["acted"][0].startswith("retraining failed (1 of 2)")
    last_try, held = monitor("production", [], "", act=True).data["acted"]
    assert last_try.startswith("retraining failed (2 of 2)")
    assert held.startswith("production is on hold for a person") and "retraining failed 2 times" in held
    channels.hold(ledger.load(), "production", reason="I have seen it", end=True)
    assert monitor("production", [], "", act=True).data["acted"] == []
    assert retrainings() == []


def test_a_breach_is_acted_on_though_the_newest_window_is_too_thin_to_judge(serving: Releases) -> None:
    failing(serving.second, 0.2)
    tomorrow = now() + timedelta(days=1)
    write(predictions(serving.second, "production", 2, [0.2], start=tomorrow, errors=1, name="thin"))
    said = monitor("production", [], "")
    [breach] = [each for each in said.data["breaches"] if each["check"] == "errors"]
    assert (breach["value"], breach["window"]) == (0.2, f"{now():%Y-%m-%d}")
    assert breach["unjudged"] == [{"window": f"{tomorrow:%Y-%m-%d}", "rows": 1}]
    told = f"last judged in {now():%Y-%m-%d}: {tomorrow:%Y-%m-%d} (rows: 1) cannot be judged"
    [alert] = [each for each in said.data["alerts"] if each["title"].startswith("errors")]
    assert told in alert["text"]
    assert "1 day of the prediction log had too few rows to judge: 1, min_rows is" in said.text
    assert told in page.FILE.read_text(encoding="utf-8")
    breaches = [line for line in gauges.read().splitlines() if line.startswith("monitor_breach{")]
    assert [line[-1] for line in breaches if 'check="errors"' in line] == ["1"]

    acted = monitor("production", [], "", act=True).data["acted"]
    assert any(each.startswith(f"production serves {serving.first} again") and told in each for each in acted)
    entry = last()
    assert (entry.kind, entry.release, entry.automation) == ("rollback", serving.first, True)
    html = page.FILE.read_text(encoding="utf-8")
    assert f"serves {serving.first} since" in html and f"rollback to {serving.first} by itself: monitor: errors" in html


def test_a_hold_stops_automation_until_a_person_ends_it(releases: Releases) -> None:
    entry = channels.hold(ledger.load(), "production", reason="the holidays")
    assert ledger.load().held("production") == entry
    with pytest.raises(UserError, match=r"production is on hold since .* \(the holidays\)"):
        operations.promote(releases.second, "production", automation=True)
    channels.hold(ledger.load(), "production", reason="back again", end=True)
    assert ledger.load().held("production") is None
    operations.promote(releases.second, "production", automation=True)
    with pytest.raises(UserError, match="production is not on hold"):
        channels.hold(ledger.load(), "production", reason="", end=True)


def test_a_person_s_promotion_ends_a_hold_and_the_ledger_is_whole(releases: Releases) -> None:
    with pytest.raises(UserError, match="a hold needs a reason"):
        channels.hold(ledger.load(), "production", reason=" ")
    channels.hold(ledger.load(), "production", reason="careful", automation=True)
    operations.promote(releases.second, "production")
    assert ledger.load().held("production") is None
    assert verify_ledger(ledger.load()).problems == []
