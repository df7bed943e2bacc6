"""What the policy lets a channel serve, and the way back: quarantine, the default target, and nothing else touched."""

import inspect
import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

import lifecycle
from lifecycle.commands.channels import share
from lifecycle.errors import UserError
from lifecycle.params import ChannelPolicy, Gate, load_params
from lifecycle.releases import approvals, approving, channels, git, loading, operations, pointers
from lifecycle.releases import ledger as book
from lifecycle.releases import release as releasing
from lifecycle.releases.channels import Move
from lifecycle.releases.ledger import ChannelName, Entry, MovedError
from lifecycle.releases.pipeline import outputs as locked_outputs
from lifecycle.releases.policy import Policy
from lifecycle.releases.record import Release
from lifecycle.releases.store import Store
from lifecycle.releases.verify import verify_ledger
from lifecycle.testing import Releases, cli, commit_all, digests

MACHINERY = Path(lifecycle.__file__).parents[1]

# Nothing asked: for tests of what happens whatever the policy.
FREE = {name: ChannelPolicy(approvals=0) for name in ("staging", "canary", "production")}


def policy(gates: dict[str, Gate] | None = None, free: bool = False, **changes: Any) -> Policy:
    """That of params.yaml, with changes to its section promotion and to its gates."""
    params = load_params()
    if free:
        changes["channels"] = FREE
    if "production" in changes:
        rules = params.promotion.channels["production"].model_copy(update=changes.pop("production"))
        changes["channels"] = params.promotion.channels | {"production": rules}
    evaluate = params.evaluate if gates is None else params.evaluate.model_copy(update={"gates": gates})
    return Policy(params.promotion.model_copy(update=changes), evaluate)


def promote(release_id: str, to: ChannelName, by: Policy | None = None, **more: Any) -> Move:
    ledger = book.load()
    return channels.promote(ledger, ledger.release(release_id), to, by or policy(), Store(), **more)


def rollback(name: ChannelName, **more: Any) -> Move:
    return channels.rollback(book.load(), name, Store(), **({"reason": "worse"} | more))


def refused(says: str, release_id: str, to: ChannelName, by: Policy | None = None, **more: Any) -> None:
    """It is refused in these words, and nothing has changed."""
    before = book.load(), pointers.read(to)
    with pytest.raises(UserError, match=says):
        promote(release_id, to, by, **more)
    assert (book.load(), pointers.read(to)) == before


def last() -> Entry:
    entry = book.load().last_entry()
    assert entry is not None
    return entry


def serves(name: ChannelName) -> str | None:
    """What a channel serves, by the ledger and by the pointer alike."""
    channel, pointer = book.load().channel(name), pointers.read(name)
    assert channel is not None and pointer is not None
    assert (pointer.release, pointer.generation, pointer.traffic) == (
        channel.release,
        channel.generation,
        channel.traffic,
    )
    return channel.release


def new_release(content: str, by: str = "Tests <tests@example.org>") -> Release:
    """One more release, of the same data and model at another commit."""
    Path("NOTES.md").write_text(content, encoding="utf-8")
    commit_all(Path.cwd(), content)
    commit = str(git.resolve("HEAD"))
    statement = releasing.build(commit, Store())
    observed = {"commit": commit, "by": by, "at": book.now(), "platform": "", "mlflow": None}
    made = Release(statement | {"predicate": statement["predicate"] | {"observed": observed}})
    entry = Entry(kind="release", release=made.id, by=by, at=observed["at"])
    book.load().append(entry, lambda _: {f"releases/{made.id}.json": made.to_bytes()}, parent=commit)
    releasing.tag(made)
    return made


def approve(release_id: str, name: str, mail: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("GIT_COMMITTER_NAME", name)
        patch.setenv("GIT_COMMITTER_EMAIL", mail)
        ledger = book.load()
        approving.approve(ledger, ledger.release(release_id))


# Forward


def test_a_release_goes_through_the_channels_in_order(releases: Releases) -> None:
    made = new_release("never in staging")
    refused(f"{made.id} has not been in staging, which comes before production", made.id, "production")
    refused("`promote .* --to staging` first", made.id, "canary")
    move = promote(releases.second, "production")
    assert (move.release, move.previous, move.kind) == (releases.second, releases.first, "promote")
    assert serves("production") == releases.second
    assert verify_ledger(book.load()).problems == []


def test_that_it_was_in_staging_counts_though_it_is_no_longer(releases: Releases) -> None:
    promote(releases.first, "staging")
    assert serves("staging") == releases.first
    promote(releases.second, "production")
    assert serves("production") == releases.second


def test_a_channel_that_the_project_does_not_have(releases: Releases) -> None:
    without = policy(channels={"production": ChannelPolicy(approvals=0)})
    refused("no channel canary under promotion.channels", releases.second, "canary", without)


def test_gates_that_have_become_stricter_hold_for_what_was_released_before(releases: Releases) -> None:
    gates = load_params().evaluate.gates
    metrics = book.load().release(releases.second).evidence["metrics"]
    name, value = next((name, metrics[name]) for name in gates)
    promote(releases.second, "canary", policy(gates | {name: Gate(min=value, max=value)}))
    for stricter in (Gate(min=value + 1e-9), Gate(max=value - 1e-9)):
        refused(
            f"does not pass the gates of params.yaml: {name} is",
            releases.second,
            "production",
            policy({name: stricter}),
        )
    refused("no-such-metric is None", releases.second, "production", policy({"no-such-metric": Gate()}))
    # Also on the way back to what was served before, by a promotion; a rollback does not ask.
    refused("does not pass the gates", releases.first, "canary", policy({name: Gate(min=1e9)}))


def test_a_release_worse_than_the_champion_is_refused_by_the_bound_and_passes_a_wider_one(releases: Releases) -> None:
    known = book.load().release(releases.second).observed["comparison"]
    assert known["champion"] == releases.first
    name, change = next((name, each["change"]) for name, each in known["metrics"].items() if each["change"])
    for narrow in (Gate(max=change - 1e-6), Gate(min=change + 1e-6)):
        worse = policy(production={"against_champion": {name: narrow}})
        refused(f"worse than {releases.first} on the same holdout: {name}", releases.second, "production", worse)
    unknown = policy(production={"against_champion": {"no-such-metric": Gate(max=1)}})
    refused("cannot be compared by no-such-metric", releases.second, "production", unknown)
    promote(
        releases.second, "production", policy(production={"against_champion": {name: Gate(min=change, max=change)}})
    )
    assert last().evidence["comparison"] == known
    assert last().evidence["policy"]["against_champion"] == {name: {"min": change, "max": change}}


def test_a_champion_that_has_changed_since_the_release_is_measured_anew(releases: Releases) -> None:
    promote(releases.second, "production")
    made = new_release("compared with the second")
    promote(made.id, "staging")
    promote(made.id, "production", policy(production={"approvals": 0}))
    found = last().evidence["comparison"]
    assert found["champion"] == releases.second
    assert {name: each["change"] for name, each in found["metrics"].items()} == dict.fromkeys(found["metrics"], 0.0)
    assert {name: each["candidate"] for name, each in found["metrics"].items()}.items() <= made.evidence[
        "metrics"
    ].items()


def test_a_comparison_that_fails_holds_the_release_for_a_person_with_a_reason(releases: Releases) -> None:
    """The evaluation really crashes, and really takes longer than it may."""
    rules = policy(production={"approvals": 0})
    code = next(Path("src").glob("*/evaluate.py"))
    whole = code.read_text(encoding="utf-8")
    code.write_text("raise RuntimeError('no such feature')\n", encoding="utf-8")
    crashes = new_release("crashes").id
    code.write_text(whole, encoding="utf-8")
    pipeline = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))
    pipeline["stages"]["evaluate"]["meta"] = {"timeout_seconds": 0.05}
    Path("dvc.yaml").write_text(yaml.safe_dump(pipeline), encoding="utf-8")
    hangs = new_release("hangs").id
    for made, why in ((crashes, "failed: RuntimeError: no such feature"), (hangs, r"took longer than 0.05 s")):
        promote(made, "staging")
        says = rf"{made} could not be compared with {releases.first}, .*{why}.*--without-comparison --reason"
        refused(says, made, "production", rules, reason="rollout", automation=True)
        refused(says, made, "production", rules, reason="I know better")
        refused(says, made, "production", rules, without_comparison=True)
        refused(says, made, "production", rules, reason="rollout", automation=True, without_comparison=True)
    done = cli("promote", hangs, "--to", "production", "--without-comparison")
    assert (done.returncode, done.stdout) == (1, "")
    assert "--without-comparison needs a reason" in done.stderr
    promote(hangs, "production", rules, reason="it is three times as fast", without_comparison=True)
    assert serves("production") == hangs
    found = last()
    assert (found.reason, found.evidence["without_comparison"]) == ("it is three times as fast", True)
    assert "took longer" in found.evidence["comparison"]["problem"]
    assert verify_ledger(book.load()).problems == []


def test_approvals_are_counted_by_person(releases: Releases, monkeypatch: pytest.MonkeyPatch) -> None:
    two = policy(production={"approvals": 2})
    refused("needs 2 approval.* and it has 1", releases.second, "production", two)
    approve(releases.second, "The Same", "TESTS@example.org", monkeypatch)
    refused("has 1; .* has approved it before, under another name", releases.second, "production", two)
    approve(releases.second, "Bob", "bob@example.org", monkeypatch)
    promote(releases.second, "production", two)
    found = {approvals.mail_of(each["by"]).lower(): each["own"] for each in last().evidence["approvals"]}
    assert found == {"bob@example.org": False, "tests@example.org": True}


def test_one_s_own_approval_counts_unless_the_team_says_no(releases: Releases, monkeypatch: pytest.MonkeyPatch) -> None:
    strict = policy(self_approval=False)
    refused("released it, and promotion.self_approval is off", releases.second, "production", strict)
    # The same person under another name is the same person.
    approve(releases.second, "Somebody Else", "tests@example.org", monkeypatch)
    refused("has 0; .*self_approval is off.*self_approval is off", releases.second, "production", strict)
    approve(releases.second, "Bob", "bob@example.org", monkeypatch)
    promote(releases.second, "production", strict)
    assert [each["by"] for each in last().evidence["approvals"]] == ["Bob <bob@example.org>"]


def test_whoever_may_not_approve_does_not_count(releases: Releases, monkeypatch: pytest.MonkeyPatch) -> None:
    without = policy(may_not_approve=["tests@example.org", "Bob@Example.org"])
    approve(releases.second, "Bob", "bob@example.org", monkeypatch)
    refused("Bob <bob@example.org> may not approve.*Tests .* may not approve", releases.second, "production", without)
    approve(releases.second, "Carol", "carol@example.org", monkeypatch)
    promote(releases.second, "production", without)


def test_the_way_back_to_what_was_served_needs_no_approval(releases: Releases) -> None:
    strict = policy(production={"approvals": 5})
    promote(releases.second, "production")
    promote(releases.first, "production", strict)
    assert last().evidence["served_before"] is True
    promote(releases.second, "production", strict)
    assert serves("production") == releases.second
    # Of another channel, it does.
    refused(
        "needs 5 approval",
        new_release("x").id,
        "staging",
        policy(channels=FREE | {"staging": ChannelPolicy(approvals=5)}),
    )


def test_what_is_served_already_is_no_move(releases: Releases) -> None:
    before = book.load()
    move = promote(releases.first, "production", policy(production={"approvals": 5}))
    assert (move.changed, move.generation) == (False, 1)
    assert book.load() == before


def test_only_at_the_generation_that_was_seen(releases: Releases) -> None:
    for wrong in (0, 2):
        refused(
            f"production is at generation 1, not {wrong}: moved by Tests",
            releases.second,
            "production",
            generation=wrong,
        )
    refused("canary is at generation 0, not 1. Nothing was changed", releases.second, "canary", generation=1)
    promote(releases.second, "canary", generation=0)
    assert promote(releases.second, "production", generation=1).generation == 2
    with pytest.raises(MovedError, match="at generation 2, not 1"):
        rollback("production", generation=1)
    assert rollback("production", generation=2).generation == 3


@pytest.mark.parametrize(
    ("text", "value"), [("10%", 0.1), ("0.1", 0.1), ("100%", 1.0), ("1", 1.0), ("0.5%", 0.005), ("", None)]
)
def test_shares_of_traffic(text: str, value: float | None) -> None:
    assert share(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["0", "0%", "101%", "1.01", "10", "-1%", "ten", "%", "10%%", "nan", "inf%", "1e400"])
def test_what_is_no_share(text: str) -> None:
    with pytest.raises(UserError, match="like 10%"):
        share(text)


def test_traffic_is_for_the_canary_and_a_share_can_grow(releases: Releases) -> None:
    done = cli("promote", releases.second, "--to", "production", "--traffic", "10%")
    assert done.returncode == 1
    assert done.stderr == "error: --traffic is for the canary; production gets all of its requests\n"
    assert promote(releases.second, "canary", traffic=0.1).changed
    assert not promote(releases.second, "canary", traffic=0.1).changed
    assert promote(releases.second, "canary", traffic=0.5).changed
    channel = book.load().channel("canary")
    assert channel and (channel.traffic, channel.generation) == (0.5, 2)
    assert serves("canary") == releases.second
    assert verify_ledger(book.load()).problems == []


# Back


def test_a_rollback_goes_back_and_quarantines_what_it_left(releases: Releases) -> None:
    promote(releases.second, "production")
    move = rollback("production", reason="misses late ones")
    assert (move.release, move.previous, move.quarantined) == (releases.first, releases.second, releases.second)
    assert serves("production") == releases.first
    found = book.load().quarantine(releases.second)
    assert found and (found.channel, found.reason, found.by) == ("production", "misses late ones", git.identity())
    assert verify_ledger(book.load()).problems == []


def test_out_of_quarantine_by_a_person_with_a_reason_only(releases: Releases) -> None:
    promote(releases.second, "production")
    rollback("production", reason="misses late ones")
    says = f"{releases.second} is in quarantine since .*: rolled back from production, misses late ones"
    for to in ("production", "canary"):
        refused(f"{says}. Automation does not", releases.second, to, reason="mended", automation=True)
        refused(f"{says}. To promote it anyway, give a reason", releases.second, to)
        refused(f"{says}. To promote it anyway, give a reason", releases.second, to, reason="  ")
    move = promote(releases.second, "production", reason="the labels were wrong")
    assert f"{releases.second} is out of quarantine" in move.notes
    assert serves("production") == releases.second
    assert book.load().quarantine(releases.second) is None
    promote(releases.second, "canary", automation=True)
    assert verify_ledger(book.load()).problems == []


def test_to_approve_what_is_in_quarantine_does_not_lift_it_and_says_so(releases: Releases) -> None:
    promote(releases.second, "production")
    rollback("production", reason="misses late ones")
    done = cli("approve", releases.second)
    assert done.returncode == 0, done.stderr
    assert f"note: {releases.second} is in quarantine since" in done.stdout
    assert "misses late ones. The approval does not end that" in done.stdout
    assert book.load().quarantine(releases.second)


def test_the_default_is_the_last_good_one_however_far_back(releases: Releases) -> None:
    third, fourth = new_release("third").id, new_release("fourth").id
    free = policy(free=True)
    for release_id in (releases.second, third, fourth):
        promote(release_id, "production", free)
    # Found wanting elsewhere: the default goes around it.
    promote(third, "canary", free)
    rollback("canary", reason="wrong elsewhere")
    assert rollback("production").release == releases.second
    assert rollback("production").release == releases.first
    before = book.load()
    with pytest.raises(UserError, match="nothing else that is not in quarantine: name a release"):
        rollback("production")
    assert book.load() == before
    assert serves("production") == releases.first
    assert verify_ledger(book.load()).problems == []


def test_a_rollback_to_one_that_is_named(releases: Releases) -> None:
    third, never = new_release("third").id, new_release("never served").id
    free = policy(free=True)
    promote(releases.second, "production", free)
    promote(third, "production", free)
    before = book.load()
    for to, says in (
        (third, "serves .* already"),
        (never, f"has never served {never}: go forward to it with `promote {never}"),
        ("r-nothing", "no release r-nothing; the nearest is"),
    ):
        with pytest.raises(UserError, match=says):
            rollback("production", to=to)
    assert book.load() == before
    assert rollback("production", to=releases.first).release == releases.first
    with pytest.raises(UserError, match=f"{third} is in quarantine"):
        rollback("production", to=third)
    assert rollback("production", to=releases.second[:8]).release == releases.second


def test_a_rollback_needs_a_reason_and_something_to_leave(releases: Releases) -> None:
    before = book.load()
    for reason in ("", "  \n"):
        with pytest.raises(UserError, match="needs a reason"):
            rollback("production", reason=reason)
    with pytest.raises(UserError, match="canary serves nothing"):
        rollback("canary")
    with pytest.raises(UserError, match="nothing else that is not in quarantine"):
        rollback("production")
    assert book.load() == before


def test_a_canary_with_nothing_before_it_is_emptied_and_can_be_filled_again(releases: Releases) -> None:
    promote(releases.second, "canary", traffic=0.1)
    move = rollback("canary")
    assert (move.release, move.quarantined, move.generation) == (None, releases.second, 2)
    assert serves("canary") is None
    with pytest.raises(UserError, match="canary serves nothing"):
        rollback("canary")
    promote(releases.second, "canary", reason="it was the other one")
    assert serves("canary") == releases.second
    assert verify_ledger(book.load()).problems == []


def test_a_rollback_that_automation_decided_says_what_on(releases: Releases) -> None:
    promote(releases.second, "production")
    rollback("production", automation=True, evidence={"log_loss": 0.7})
    assert last().automation
    assert last().evidence == {"log_loss": 0.7, "quarantined": releases.second}


# What is not touched, and what is not trusted


def work_tree() -> tuple[Any, ...]:
    """What a person would call their work: every file that git or DVC knows, or does not know yet, and git's state."""
    names = git.git("ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")[:-1]
    outputs = [Path(output["path"]) for output in locked_outputs()]
    files = [Path(name) for name in names] + [path for top in outputs for path in (top, *top.rglob("*"))]
    state = [
        Path(".git/index").read_bytes(),
        Path(".git/HEAD").read_bytes(),
        git.git("branch", "--verbose", "--list", "main"),
    ]
    seen = {str(path): path.stat().st_mtime_ns for path in files} | digests(*files)
    return state, git.git("status", "--porcelain", "-z", "--untracked-files=all"), seen


def test_work_in_progress_is_not_touched(releases: Releases) -> None:
    Path("params.yaml").write_text(Path("params.yaml").read_text(encoding="utf-8") + "# later\n", encoding="utf-8")
    Path("new file ü").write_text("new", encoding="utf-8")
    Path("staged").write_text("staged", encoding="utf-8")
    git.git("add", "staged")
    Path("model/extra").write_text("of mine", encoding="utf-8")
    git.git("status")  # which brings the index up to date
    before = work_tree()
    operations.promote(releases.second, "production")
    assert work_tree() == before
    operations.rollback("production", "worse")
    assert work_tree() == before
    assert serves("production") == releases.first


def test_a_release_is_loaded_by_its_own_code(releases: Releases) -> None:
    promote(releases.second, "production")
    for file in Path("src").rglob("model.py"):
        file.write_text("raise SystemError('work in progress')\n", encoding="utf-8")
    # The command itself is that of the work tree too, as where the project is installed to be edited.
    done = cli(
        "rollback",
        "production",
        "--reason",
        "worse",
        PYTHONPATH=os.pathsep.join([str(Path("src").resolve()), str(MACHINERY)]),
    )
    assert done.returncode == 0, done.stderr
    assert serves("production") == releases.first
    release = book.load().release(releases.first)
    folder = loading.materialise(release, Store())
    loaded = loading.try_out(release, folder)
    assert Path(inspect.getfile(type(loaded))).resolve().is_relative_to(folder.resolve())


def test_a_release_that_no_longer_predicts_the_same_is_refused(
    releases: Releases, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = book.load().release(releases.second)
    folder = loading.materialise(release, Store())
    probe = json.loads(json.dumps(release.model["probe"]))
    loading.try_out(release, folder)
    probe["predictions"][-1] = probe["predictions"][-1] + 1e-6 if isinstance(probe["predictions"][-1], float) else None
    monkeypatch.setitem(release.model, "probe", probe)
    with pytest.raises(UserError, match=f"{releases.second} does not predict here what it did"):
        loading.try_out(release, folder)
    # And a channel does not move to it.
    before = book.load()
    with pytest.raises(UserError, match="does not predict here what it did"):
        channels.promote(before, release, "canary", policy(), Store())
    assert book.load() == before


def test_an_altered_folder_of_a_release_is_made_anew_before_it_is_served(releases: Releases) -> None:
    promote(releases.second, "production")
    release = book.load().release(releases.first)
    folder = loading.materialise(release, Store())
    name = next(iter(release.model["files"]))
    (folder / name).write_bytes(b"altered")
    rollback("production")
    assert loading.wrong_files(release, folder) == []
    assert serves("production") == releases.first


def test_a_model_that_nobody_has_any_more_is_refused_and_the_channel_stays(releases: Releases) -> None:
    promote(releases.second, "production")
    release = book.load().release(releases.first)
    store = Store()
    for file in store.files(release.outputs(release.model["path"])):
        store.object_path(file.md5).unlink()
        (Path(".dvc-remote/files/md5") / file.md5[:2] / file.md5[2:]).unlink()
    loading.clean_up(keep=set())
    before = book.load()
    with pytest.raises(UserError, match=f"{releases.first} cannot be used: .* is missing in the cache"):
        rollback("production")
    assert book.load() == before
    assert serves("production") == releases.second
    assert list(loading.RELEASES.iterdir()) == []
