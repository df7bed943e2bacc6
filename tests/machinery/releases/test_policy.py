"""An entry of the ledger that is not allowed is named and not followed, whoever wrote it and however."""

import json
from pathlib import Path
from typing import Any

import pytest

from lifecycle.errors import UserError
from lifecycle.lineage.trace import serving_at
from lifecycle.releases import approvals, approving, git, pointers, replay
from lifecycle.releases import ledger as book
from lifecycle.releases.entries import moment
from lifecycle.releases.ledger import Entry, Ledger
from lifecycle.releases.verify import verify_ledger
from lifecycle.testing import new_repository, with_own_settings

import ledgers

GOOD, NEW, BAD = "good", "new", "bad"
# As entries had it before they carried all the rules.
OLD: dict[str, Any] = {"after": "staging", "approvals": 1, "against_champion": {"log_loss": {"max": 0.02, "min": None}}}
WHOLE = OLD | {"self_approval": True, "may_not_approve": [], "gates": {}, "signers": None}


@pytest.fixture
def ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Three releases: `good` serves production, `new` is in staging and approved, `bad` was rolled back."""
    with_own_settings(new_repository(tmp_path / "repository"), monkeypatch)
    made = {name: ledgers.record(name) for name in (GOOD, NEW, BAD)}
    for each in made.values():
        ledgers.release(book.load(), each)
    ids = {name: each.id for name, each in made.items()}
    ledgers.promote(book.load(), ids[GOOD], "production")
    ledgers.promote(book.load(), ids[BAD], "production")
    ledgers.rollback(book.load(), "production", ids[GOOD])
    ledgers.promote(book.load(), ids[NEW], "staging")
    approving.approve(book.load(), made[NEW])
    pointers.write(book.load())
    return ids


def compared(with_: str, change: float = 0.0) -> dict[str, Any]:
    return {"champion": with_, "metrics": {"log_loss": {"change": change}}}


def not_followed(ids: dict[str, str], forged: Ledger, says: str) -> None:
    """Production stays where it was, for whoever looks; the entry is named; and the next operation is honest again."""
    channel = forged.channel("production")
    assert channel and (channel.release, channel.generation) == (ids[GOOD], 3)
    pointers.write(forged)
    pointer = pointers.read("production")
    assert pointer and (pointer.release, pointer.generation) == (ids[GOOD], 3)
    (warning,) = forged.warnings()
    assert says in warning
    assert f"production stays with {ids[GOOD]}" in warning
    assert warning == pointer.warning
    (problem, *_) = verify_ledger(forged).problems
    assert says in problem
    ledgers.promote(forged, ids[NEW], "production")
    after = book.load()
    channel = after.channel("production")
    assert channel and (channel.release, channel.generation, channel.previous) == (ids[NEW], 4, ids[GOOD])
    assert after.warnings() == []
    assert [says in each for each in verify_ledger(after).problems].count(True) == 1
    ledgers.rollback(after, "production", ids[GOOD])
    assert len(book.load().refused) == 1


@pytest.mark.parametrize(
    ("release", "values", "says"),
    [
        (NEW, {"evidence": {}}, "does not carry the rules"),
        (NEW, {"evidence": {"policy": {"approvals": -1}}}, "does not carry the rules"),
        (NEW, {"evidence": {"policy": OLD | {"approvals": 2}}}, "needs 2 approval(s)"),
        (NEW, {"evidence": {"policy": WHOLE | {"self_approval": False, "approvals": 2}}}, "needs 2 approval(s)"),
        (NEW, {"evidence": {"policy": WHOLE | {"may_not_approve": ["TESTS@example.org"]}}}, "may not approve"),
        (NEW, {"evidence": {"policy": WHOLE | {"signers": "0" * 40}}}, "this clone does not have 000000000000"),
        (NEW, {"evidence": {"policy": WHOLE | {"after": "canary"}}}, "has not been in canary"),
        (NEW, {"evidence": {"policy": WHOLE}}, "was not compared with"),
        (NEW, {"evidence": {"policy": OLD, "comparison": {"champion": "r-0"}}}, "was not compared with"),
        (NEW, {"evidence": {"policy": OLD, "comparison": ["nonsense"]}}, "its evidence cannot be read"),
        (NEW, {"evidence": {"policy": {"approvals": 0}}, "generation": 3}, "it says generation 3"),
        (NEW, {"evidence": {"policy": {"approvals": 0}}, "previous": None}, "in place of nothing"),
        (NEW, {"evidence": {"policy": {"approvals": 0}}, "number": 99}, "the history was rewritten"),
        (NEW, {"evidence": {"policy": {"approvals": 0}}, "at": "yesterday"}, "holds no readable entry"),
        (BAD, {"evidence": {"policy": {"approvals": 0}}, "automation": True}, "Automation does not promote it again"),
        (BAD, {"evidence": {"policy": {"approvals": 0}}, "reason": " "}, "give a reason"),
        ("r-000000000000", {"evidence": {"policy": {"approvals": 0}}}, "there is no release r-000000000000"),
    ],
)
@pytest.mark.parametrize("whole_tree", [True, False], ids=["on the tree", "two files alone"])
def test_a_forged_promotion(
    ids: dict[str, str], release: str, values: dict[str, Any], says: str, whole_tree: bool
) -> None:
    forged = ledgers.forge(book.load(), ids.get(release, release), whole_tree, **values)
    not_followed(ids, forged, says)


def test_a_comparison_that_could_not_be_made_is_for_a_person_with_a_reason(ids: dict[str, str]) -> None:
    comparison = {"champion": ids[GOOD], "problem": "it crashed"}
    evidence = {"policy": WHOLE, "comparison": comparison, "without_comparison": True}
    ledger = book.load()
    refused: tuple[dict[str, Any], ...] = (
        {"evidence": evidence, "automation": True},
        {"evidence": evidence, "reason": ""},
        {"evidence": evidence | {"without_comparison": False}},
        {"evidence": evidence | {"comparison": compared(ids[GOOD], 0.03)}},
    )
    for values in refused:
        ledger = ledgers.forge(ledger, ids[NEW], **values)
        assert ledger.resolve("production") == ids[GOOD], values
    allowed = ledgers.forge(ledger, ids[NEW], evidence=evidence, reason="it wants a feature that is gone")
    assert (allowed.resolve("production"), len(allowed.refused)) == (ids[NEW], len(refused))


def test_an_entry_of_before_it_carried_all_the_rules_stays_valid_until_one_does(ids: dict[str, str]) -> None:
    failed = {"champion": ids[GOOD], "problem": "of a time when that let it pass"}
    ledger = ledgers.forge(book.load(), ids[NEW], evidence={"policy": OLD, "comparison": failed})
    assert (ledger.resolve("production"), ledger.refused) == (ids[NEW], [])
    ledger = ledgers.forge(ledger, ids[GOOD], evidence={"policy": WHOLE})  # served before
    assert (ledger.resolve("production"), ledger.refused) == (ids[GOOD], [])
    ledger = ledgers.forge(ledger, ids[NEW], evidence={"policy": OLD, "comparison": compared(ids[GOOD])})
    assert ledger.resolve("production") == ids[GOOD]
    assert "it carries fewer rules than an entry before it" in ledger.warnings()[0]


def test_an_approval_counts_only_by_an_entry_of_its_own_before(ids: dict[str, str]) -> None:
    ledger = book.load()
    approval = approvals.Approval(
        release=ids[NEW], digest=ledger.release(ids[NEW]).digest, by="Bob <b@example.org>", at=ledgers.AT, own=False
    )
    path = f"approvals/{ids[NEW]}/bob.json"
    two = {"policy": OLD | {"approvals": 2, "against_champion": {}}}
    alone = ledgers.put(ledger, {path: approval.to_bytes()})
    assert path not in alone.files
    assert "holds no readable entry" in alone.warnings()[0]
    assert ledgers.forge(alone, ids[NEW], evidence=two).resolve("production") == ids[GOOD]
    entry = Entry(kind="approve", release=ids[NEW], by=approval.by, at=ledgers.AT)
    own = approval.model_copy(update={"comment": "looks right"})
    given = alone.append(entry, lambda _: {path: own.to_bytes()})
    assert ledgers.forge(given, ids[NEW], evidence=two).resolve("production") == ids[NEW]


def test_a_hold_does_not_make_a_release_one_that_was_served(ids: dict[str, str]) -> None:
    ledger = book.load()
    entry = Entry(
        kind="hold",
        release=ids[NEW],
        channel="production",
        by="Mallory",
        at=ledgers.AT,
        number=ledger.number + 1,
        after=ledger.tip,
    )
    forged = ledgers.put(ledger, {book.ENTRY: entry.to_bytes()})
    assert forged.held("production") is None
    with pytest.raises(UserError, match="has never served"):
        ledgers.rollback(forged, "production", ids[NEW])
    not_followed(ids, forged, f"production has never served {ids[NEW]}")


def test_after_a_forged_entry_the_files_of_the_ledger_are_put_back(ids: dict[str, str]) -> None:
    before = book.load()
    forged = ledgers.forge(before, ids[NEW], whole_tree=False, evidence={})
    after = ledgers.approve(forged, ids[GOOD])
    assert git.tree_files(str(after.tip)) == after.files
    assert before.files.items() - after.files.items() == {(book.ENTRY, before.files[book.ENTRY])}


# What is kept of it on this machine


def test_what_is_kept_can_be_deleted_is_extended_and_is_held_against_the_ledger(ids: dict[str, str]) -> None:
    kept, ledger = replay.CACHE.read_text(encoding="utf-8"), book.load()
    assert ledger == Ledger(**vars(replay.replay(str(ledger.tip))[0]))
    replay.CACHE.unlink()
    assert book.load() == ledger
    assert replay.CACHE.read_text(encoding="utf-8") == kept
    ledgers.forge(ledger, ids[NEW], evidence={})
    replay.CACHE.write_text(kept, encoding="utf-8")  # of the commit before
    extended = book.load()
    assert (extended.files, len(extended.refused)) == (ledger.files, 1)
    replay.CACHE.write_text("{", encoding="utf-8")
    assert book.load() == extended
    edited = json.loads(replay.CACHE.read_text(encoding="utf-8"))
    edited["judged"]["refused"] = []
    replay.CACHE.write_text(json.dumps(edited), encoding="utf-8")
    assert any("ledger.json does not match the ledger" in each for each in verify_ledger(book.load()).problems)


# Time


def test_an_entry_is_not_dated_before_the_one_that_it_follows(ids: dict[str, str]) -> None:
    ahead = "2999-01-01T00:00:00+00:00"
    assert book.load().warnings() == []
    ledger = ledgers.promote(book.load(), ids[NEW], "production", at=ahead)
    (warning,) = ledger.warnings()
    assert "the clock of this machine says" in warning
    assert ahead in warning
    approving.approve(ledger, ledger.release(ids[GOOD]))
    ledgers.rollback(book.load(), "production", ids[GOOD], at=book.now())
    after = book.load()
    times = [moment(entry.at) for _, entry in after.entries()]
    assert times == sorted(times)
    channel = after.channel("production")
    assert channel and channel.at == after.at == ahead
    assert verify_ledger(after).problems == []


def test_in_a_ledger_whose_times_go_back_the_order_says_what_was_served_when(ids: dict[str, str]) -> None:
    """As a clock that was a day behind has written it, before the ledger looked at the time."""
    ledger = ledgers.promote(book.load(), ids[NEW], "production", at="2999-01-03T00:00:00+00:00")
    evidence = {"policy": {"approvals": 0}}
    ledger = ledgers.forge(ledger, ids[GOOD], evidence=evidence, at="2999-01-02T00:00:00+00:00")
    ledger = ledgers.forge(ledger, ids[NEW], evidence=evidence, at="2999-01-04T00:00:00+00:00")
    assert ledger.refused == []
    for time, generation in (("02T12:00", 3), ("03T00:00", 5), ("03T12:00", 5), ("04T00:00", 6)):
        assert serving_at(ledger, "production", f"2999-01-{time}").generation == generation
    assert verify_ledger(ledger).problems == []
