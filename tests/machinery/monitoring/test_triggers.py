"""What breaches lead to: rollback, hold or retraining, once, with a limit, and in the ledger with the figures."""

from datetime import UTC, datetime

import pytest

from lifecycle.errors import UserError
from lifecycle.releases import channels, ledger, operations
from lifecycle.releases.ledger import Entry
from lifecycle.releases.verify import verify_ledger
from lifecycle.monitoring import operation
from lifecycle.params import Monitoring, Params, Rule, Triggers, load_params

from predictions import failing
from lifecycle.testing import Releases


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
    return operation.run("production", [], now().replace(tzinfo=None), retrain=lambda: "a new one").acted


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


def test_the_same_breach_retrains_once(serving: Releases, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(serving.second, 0.2)
    assert act(only("retrain"), monkeypatch) == ["retrained: a new one"]
    assert act(only("retrain"), monkeypatch) == []
    assert [entry.kind for _, entry in ledger.load().entries()].count("retrain") == 1


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
