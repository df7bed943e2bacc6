"""A release gets to production by evidence alone, and a worse one does not; whatever is killed on the way."""

import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lifecycle.monitoring import rollout, shadow
from lifecycle.monitoring.rollout import Progress, Stop, advance, decide
from lifecycle.params import load_params
from lifecycle.releases import ledger as book
from lifecycle.releases import operations, registry
from lifecycle.releases.ledger import ChannelName, Entry
from lifecycle.releases.store import Store
from lifecycle.testing import Releases, cli, commit_all, copy_project, edit_params, repro, wait_until

from predictions import predictions, write
from workers import Worker

REQUESTS = 2000


def serves(channel: ChannelName) -> str | None:
    found = book.load().channel(channel)
    return found.release if found else None


def last() -> Entry:
    entry = book.load().last_entry()
    assert entry is not None
    return entry


def serve(requests: int = REQUESTS, errors: int = 0, latency_ms: float = 5.0, moved: bool = False) -> None:
    """What the log holds after so many requests to the canary, and as many to production.

    The scores are spread as on the shadow's rows, or all at one end.
    """
    ledger = book.load()
    canary, production = ledger.channel("canary"), ledger.channel("production")
    assert canary and production and canary.release and production.release
    known = next(
        entry.evidence["rollout"]["shadow"]
        for _, entry in reversed(ledger.entries())
        if entry.release == canary.release and "rollout" in entry.evidence
    )
    edges = [known["edges"][0] - 0.01, *known["edges"]]
    scores = np.random.default_rng(1).choice(edges, requests, p=known["parts"])
    scores = np.full(requests, 0.999) if moved else np.nextafter(scores, np.inf)
    write(
        predictions(canary.release, "canary", canary.generation, scores.tolist(), errors=errors, latency_ms=latency_ms)
    )
    write(predictions(production.release, "production", production.generation, scores.tolist()))


def worse_release() -> str:
    """A release of a model that has learned next to nothing, for real."""
    gates = {name: {"min": 0.0} for name in load_params().evaluate.gates}
    edit_params(Path.cwd(), {"train": {"rounds": 1, "learning_rate": 0.01}, "evaluate": {"gates": gates}})
    commit_all(Path.cwd(), "One round")
    repro(Path.cwd())
    return operations.release().result.release.id


def as_good(done: Progress) -> None:
    """Nothing is decided in its favour without numbers."""
    for step in done.steps:
        if step.channel != "staging":
            compared = step.evidence["shadow"]["compared"]
            assert compared["verdict"] == "promote"
            assert compared["e_good"] >= 1 / load_params().rollout.alpha


def test_a_release_that_is_as_good_reaches_production_without_a_person(releases: Releases) -> None:
    done = advance(releases.second)
    as_good(done)
    assert [(step.channel, step.traffic) for step in done.steps] == [("canary", 0.05)]
    assert (done.stop.state, done.stop.why) == ("waiting", "200 more requests at 5%")
    assert serves("production") == releases.first
    for share in (0.25, 0.5):
        serve()
        done = advance(releases.second)
        assert [(step.channel, step.traffic) for step in done.steps] == [("canary", share)]
        assert last().evidence["traffic"] == share
    serve()
    done = advance(releases.second)
    as_good(done)
    assert done.stop.state == "done"
    assert serves("production") == releases.second
    entry = last()
    assert entry.automation
    assert entry.reason.startswith(f"rollout: as good as {releases.first} on ")
    assert entry.evidence["rollout"]["canary"]["requests"] == 3 * REQUESTS
    assert entry.evidence["policy"]["approvals"] == 1, "the policy was asked too"
    assert advance(releases.second).steps == [], "and then there is nothing left to do"
    wait_until(lambda: registry.in_step(book.load(), registry.DESCRIBED))  # what MLflow shows follows by itself


def test_a_release_that_is_worse_on_labelled_rows_is_rolled_back_and_stays_out(releases: Releases) -> None:
    worse = worse_release()
    done = advance(worse)
    assert [(step.kind, step.channel) for step in done.steps] == [("promote", "staging"), ("roll back", "staging")]
    assert done.stop.state == "rolled back"
    assert last().evidence["rollout"]["shadow"]["compared"]["difference"] > 0
    ledger = book.load()
    assert ledger.quarantine(worse)
    assert (serves("staging"), serves("production")) == (releases.second, releases.first)
    assert advance(worse) == Progress(worse, [], done.stop, [])
    assert book.load() == ledger


def test_what_policy_wants_a_person_for_waits_for_one(releases: Releases) -> None:
    policy = load_params().promotion.model_dump(mode="json")["channels"]
    policy["production"]["approvals"] = 2
    edit_params(releases.folder, {"promotion": {"channels": policy}, "rollout": no_canary()})
    before = book.load()
    done = advance(releases.second)
    assert done.stop.state == "stopped"
    assert "production needs 2 approval" in done.stop.why
    assert book.load() == before
    policy["production"]["approvals"] = 1
    edit_params(releases.folder, {"promotion": {"channels": policy}})
    assert advance(releases.second).stop.state == "done"


def no_canary(**changes: Any) -> dict[str, Any]:
    section = load_params().rollout.model_dump(mode="json")
    section["canary"]["shares"] = []
    return section | changes


@pytest.mark.parametrize(
    ("requests", "says"),
    [
        ({"errors": 60}, "fails more often than"),
        ({"latency_ms": 900.0}, "more than 1 in 100 requests take longer"),
    ],
)
def test_a_canary_that_fails_or_is_slow_is_rolled_back(releases: Releases, requests: dict[str, Any], says: str) -> None:
    advance(releases.second)
    serve(**requests)
    done = advance(releases.second)
    assert [(step.kind, step.channel) for step in done.steps] == [("roll back", "canary")]
    assert done.stop.state == "rolled back"
    assert says in last().reason
    assert (serves("canary"), serves("production")) == (None, releases.first)
    assert book.load().quarantine(releases.second)


def test_a_canary_whose_inputs_have_changed_is_held_for_a_person(releases: Releases) -> None:
    advance(releases.second)
    serve(moved=True)
    done = advance(releases.second)
    assert (done.stop.state, done.steps) == ("stopped", [])
    assert "far from those on the shadow's rows" in done.stop.why


def test_no_data_never_promotes_however_long_it_takes(releases: Releases) -> None:
    advance(releases.second)
    later = datetime.now(UTC) + timedelta(days=365)
    stop = decided(releases.second, later)
    assert stop.state == "stopped"
    assert "7 days without a verdict" in stop.why
    serve(requests=199)
    assert decided(releases.second, datetime.now(UTC)).why == "1 more requests at 5%"
    serve()
    stop = decided(releases.second, datetime.now(UTC) + timedelta(hours=1))
    assert (stop.state, stop.why[:11]) == ("waiting", "predictions")


def test_too_few_labelled_rows_decide_nothing(releases: Releases, monkeypatch: pytest.MonkeyPatch) -> None:
    edit_params(releases.folder, {"rollout": {"shadow": {"margin": 1e-6, "min_rows": 300, "wait_days": 14}}})
    assert decided(releases.second, datetime.now(UTC)).state == "waiting"
    stop = decided(releases.second, datetime.now(UTC) + timedelta(days=15))
    assert (stop.state, serves("canary")) == ("stopped", None)
    monkeypatch.setattr(shadow, "unseen_from", lambda release: "9999-01")
    stop = decided(releases.second, datetime.now(UTC))
    assert (stop.state, stop.evidence["shadow"]["rows"]) == ("waiting", 0)


def decided(release: str, now: datetime) -> Stop:
    ledger = book.load()
    found = decide(ledger, ledger.release(release), Store(), load_params(), now)
    assert isinstance(found, Stop)
    return found


def test_a_release_that_production_has_left_does_not_come_back_by_itself(releases: Releases) -> None:
    operations.promote(releases.second, "production")
    operations.promote(releases.first, "staging")
    assert decided(releases.first, datetime.now(UTC)).why.startswith("production has served it")
    operations.rollback("production", "worse")
    assert decided(releases.second, datetime.now(UTC)).state == "rolled back"


def test_rows_that_a_model_has_learned_from_say_nothing(releases: Releases) -> None:
    ledger = book.load()
    candidate, champion = (ledger.release(each) for each in (releases.second, releases.first))
    params = load_params()
    found = shadow.shadow(candidate, champion, Store(), params.rollout, params.monitoring.columns)
    assert found.months == tuple(params.data.months()[-params.split.holdout_months :])
    table = Path(candidate.model["feature_table"])
    table.chmod(0o644)
    table.write_bytes(b"altered in the work tree")
    again = shadow.shadow(candidate, champion, Store(), params.rollout, params.monitoring.columns)
    assert again == found


def test_a_canary_against_another_champion_is_measured_anew(releases: Releases) -> None:
    edit_params(releases.folder, {"rollout": no_canary()})
    operations.promote(releases.second, "canary", 0.1)
    ledger = book.load()
    release = ledger.release(releases.second)
    step = decide(ledger, release, Store(), load_params(), datetime.now(UTC))
    assert isinstance(step, Stop), "the shadow is done, and there are no requests yet"
    assert step.evidence["shadow"]["champion"] == releases.first


def test_a_rollout_killed_anywhere_goes_on(releases: Releases, tmp_path: Path) -> None:
    """It is the ledger that says where it stands: there is nothing else to be lost."""
    edit_params(releases.folder, {"rollout": no_canary()})
    with Worker() as worker:
        steps = len(worker.do(copy(releases, tmp_path / "whole"), "rollout", what=releases.second).steps)
        moments = random.Random(2013)
        for number, die_at in enumerate(sorted(moments.sample(range(1, steps + 1), 3))):
            folder = copy(releases, tmp_path / str(number))
            killed = worker.do(folder, "rollout", what=releases.second, die_at=die_at)
            assert killed.killed, killed
            done = worker.do(folder, "rollout", what=releases.second)
            assert done.result["state"] == "done", done
            pointer = json.loads((folder / ".lifecycle/channels/production.json").read_text(encoding="utf-8"))
            assert (pointer["release"], pointer["generation"]) == (releases.second, 2)


def test_the_exit_code_says_where_it_stands(releases: Releases) -> None:
    def code(release: str) -> tuple[int, str]:
        done = cli("rollout", release, "--json")
        return done.returncode, json.loads(done.stdout)["state"]

    assert code(releases.first) == (0, "done")
    assert code(releases.second) == (3, "waiting")
    operations.rollback("canary", "worse")
    assert code(releases.second) == (1, "rolled back")


def copy(releases: Releases, folder: Path) -> Path:
    copy_project(releases.folder, folder)
    return folder


def test_somebody_who_was_first_is_not_overruled(releases: Releases, monkeypatch: pytest.MonkeyPatch) -> None:
    take = rollout._take

    def late(step: rollout.Step, release: Any) -> list[str]:
        monkeypatch.setattr(rollout, "_take", take)
        operations.promote(releases.second, "canary", 0.01)
        return take(step, release)

    monkeypatch.setattr(rollout, "_take", late)
    done = advance(releases.second)
    assert done.steps == []
    assert (done.stop.state, "Nothing was changed" in done.stop.why) == ("waiting", True)
