"""Promotion and rollback: prepare, one compare-and-swap, then the follow-up work.

Nothing is visible to anyone until the ledger has moved. After that there is no way back: if a crash leaves work undone,
the next command does it (reconcile.py).
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from . import approvals, approving, compare, git, loading, pointers, replay
from . import ledger as book
from .ledger import Channel, ChannelName, Entry, Kind, Ledger, Quarantine
from .policy import Policy, Rules, counted, why_not
from .record import Release
from .store import Store


@dataclass(frozen=True)
class Move:
    """The outcome of a promotion or a rollback. `seconds`: time until the pointer had moved and was read back."""

    channel: ChannelName
    release: str | None
    previous: str | None
    generation: int
    kind: Kind
    traffic: float | None
    quarantined: str | None
    notes: list[str]
    seconds: float
    changed: bool = True


def promote(
    ledger: Ledger,
    release: Release,
    to: ChannelName,
    policy: Policy,
    store: Store,
    *,
    traffic: float | None = None,
    reason: str = "",
    generation: int | None = None,
    automation: bool = False,
    without_comparison: bool = False,
    evidence: dict[str, Any] | None = None,
) -> Move:
    """Make a channel serve a release, if the policy allows it.

    Args:
        ledger: the ledger that the decision was based on.
        release: the release to serve.
        to: the channel.
        policy: of params.yaml.
        store: DVC's cache and remote.
        traffic: share of the requests, for a canary.
        reason: why; required for a release in quarantine.
        generation: move the channel only if it is at this generation.
        automation: nobody is at the keyboard, so quarantine cannot be overridden.
        without_comparison: continue if the release cannot be compared with production's; needs a reason.
        evidence: what the decision was based on, in addition to what the policy asks for.

    Raises:
        UserError: the policy does not allow it, or something the release needs is missing; nothing has changed.
        MovedError: another operation moved the channel first.
    """
    start = time.monotonic()
    channel = ledger.channel(to)
    _expect(ledger, to, generation)
    if channel and channel.release == release.id and channel.traffic == traffic:
        return _unchanged(to, channel, start)
    rules = policy.rules(to, approvals.signers_blob())
    entry = Entry(
        kind="promote",
        release=release.id,
        channel=to,
        generation=(channel.generation if channel else 0) + 1,
        previous=channel.release if channel else None,
        by=git.identity(),
        at=ledger.now(),
        automation=automation,
        reason=reason,
        evidence=(evidence or {})
        | {"policy": rules.model_dump(mode="json")}
        | ({"traffic": traffic} if traffic is not None else {}),
    )
    entry = _with_evidence(ledger, entry, release, rules, store, without_comparison)
    loading.need(release.commit)  # rollback does not need it: it compares the files with the tree
    loading.try_out(release, loading.materialise(release, store))
    lifted: dict[str, bytes | None] = {}
    if ledger.quarantine(release.id):
        lifted[f"quarantine/{release.id}.json"] = None
    after = ledger.append(
        entry,
        lambda numbered: {f"channels/{to}.json": _channel_of(numbered, traffic).to_bytes()} | lifted,
        # Compare with the release that production serves.
        guards=[f"quarantine/{release.id}.json", *(["channels/production.json"] if rules.against_champion else [])],
    )
    notes = [f"{release.id} is out of quarantine"] if lifted else []
    return _follow(after, entry, release, start, notes, traffic)


def rollback(
    ledger: Ledger,
    name: ChannelName,
    store: Store,
    *,
    reason: str,
    to: str = "",
    generation: int | None = None,
    automation: bool = False,
    evidence: dict[str, Any] | None = None,
) -> Move:
    """Make a channel serve again what it served before, and quarantine the release it stops serving.

    Without `to`, the channel returns to the last release it served that is not in quarantine. This needs no approval,
    since the channel has served it before, and no network if the release is in DVC's cache.

    Raises:
        UserError: there is no release to return to, or it fails verification; nothing has changed.
        MovedError: another operation moved the channel first.
    """
    start = time.monotonic()
    if not reason.strip():
        raise UserError("a rollback needs a reason for the ledger: --reason '...'")
    _expect(ledger, name, generation)
    channel = ledger.channel(name)
    if channel is None or channel.release is None:
        raise UserError(f"{name} serves nothing, so there is nothing to roll back")
    target = _target(ledger, name, channel.release, to)
    left = channel.release
    entry = Entry(
        kind="rollback",
        release=target,
        channel=name,
        generation=channel.generation + 1,
        previous=left,
        by=git.identity(),
        at=ledger.now(),
        automation=automation,
        reason=reason,
        evidence=(evidence or {}) | {"quarantined": left},
    )
    _ask(ledger, entry, None)
    release = ledger.release(target) if target else None
    if release:
        loading.try_out(release, loading.materialise(release, store))

    def files(numbered: Entry) -> dict[str, bytes | None]:
        why = Quarantine(release=left, channel=name, entry=numbered.number, by=entry.by, at=numbered.at, reason=reason)
        return {
            f"channels/{name}.json": _channel_of(numbered, None).to_bytes(),
            f"quarantine/{left}.json": why.to_bytes(),
        }

    guards = [f"quarantine/{target}.json"] if target else []
    after = ledger.append(entry, files, guards=guards, offline=True)
    notes = [] if release is None else _schema_notes(release, ledger.release(left))
    return _follow(after, entry, release, start, notes, None)


def hold(
    ledger: Ledger,
    name: ChannelName,
    *,
    reason: str,
    end: bool = False,
    automation: bool = False,
    evidence: dict[str, Any] | None = None,
) -> Entry:
    """Stop automation from promoting to a channel, or lift that hold. Return the ledger entry.

    A promotion or rollback of the channel by a person lifts it too.

    Raises:
        UserError: no reason was given, or there is no hold to lift.
    """
    if end and ledger.held(name) is None:
        raise UserError(f"{name} is not on hold")
    if not end and not reason.strip():
        raise UserError("a hold needs a reason for the ledger: --reason '...'")
    return note(ledger, "hold", name, reason, automation, (evidence or {}) | ({"ended": True} if end else {}))


def note(
    ledger: Ledger, kind: Kind, name: ChannelName, reason: str, automation: bool, evidence: dict[str, Any]
) -> Entry:
    """Write an entry that does not move a channel."""
    channel = ledger.channel(name)
    entry = Entry(
        kind=kind,
        release=channel.release if channel else None,
        channel=name,
        by=git.identity(),
        at=ledger.now(),
        automation=automation,
        reason=reason,
        evidence=evidence,
    )
    written = ledger.append(entry, lambda _: {}, offline=True).last_entry()
    assert written is not None
    return written


def _target(ledger: Ledger, name: ChannelName, leaving: str, to: str) -> str | None:
    if to:
        return ledger.resolve(to)
    served = ledger.served.get(name, [])
    good = [release_id for release_id in served if release_id != leaving and not ledger.quarantine(release_id)]
    if good:
        return good[-1]
    if name == "production":
        raise UserError(
            "production has served nothing else that is not in quarantine: name a release with `promote RELEASE --to "
            "production --reason '...'`"
        )
    return None


def _expect(ledger: Ledger, name: ChannelName, generation: int | None) -> None:
    channel = ledger.channel(name)
    at = channel.generation if channel else 0
    if generation is not None and generation != at:
        raise book.MovedError(
            f"{name} is at generation {at}, not {generation}"
            + (f": moved by {channel.by} at {channel.at}" if channel else "")
            + ". Nothing was changed"
        )


def _ask(ledger: Ledger, entry: Entry, rules: Rules | None) -> None:
    if problem := why_not(replay.before(ledger, entry, rules), entry, rules):
        raise UserError(problem)


def _with_evidence(
    ledger: Ledger, entry: Entry, release: Release, rules: Rules, store: Store, without_comparison: bool
) -> Entry:
    """Return the promotion's entry with all the evidence that the rules ask for.

    Raises:
        UserError: the promotion is not allowed; the message says why, and what to type.
    """
    # A comparison is slow, so first check everything else.
    _ask(ledger, entry, rules.model_copy(update={"against_champion": {}}))
    if release.id in ledger.served.get(entry.channel or "", []):
        return entry.model_copy(update={"evidence": entry.evidence | {"served_before": True}})
    given, _ = counted(approving.count(ledger, release), release, rules)
    evidence = entry.evidence | ({"approvals": given} if given else {})
    champion = ledger.channel("production")
    if rules.against_champion and champion and champion.release not in (None, release.id):
        known = release.observed.get("comparison") or {}
        if known.get("champion") != champion.release or ("problem" in known and not without_comparison):
            known = compare.compare(release, ledger.release(champion.release or ""), store)
        evidence |= {"comparison": known}
        if without_comparison and "problem" in known:
            evidence |= {"without_comparison": True}
    complete = entry.model_copy(update={"evidence": evidence})
    _ask(ledger, complete, rules)
    return complete


def _channel_of(entry: Entry, traffic: float | None) -> Channel:
    assert entry.generation is not None
    return Channel(
        release=entry.release,
        generation=entry.generation,
        previous=entry.previous,
        entry=entry.number,
        operation=entry.kind,
        by=entry.by,
        at=entry.at,
        reason=entry.reason,
        traffic=traffic,
    )


def _unchanged(name: ChannelName, channel: Channel, start: float) -> Move:
    seconds = time.monotonic() - start
    return Move(
        name,
        channel.release,
        channel.previous,
        channel.generation,
        channel.operation,
        channel.traffic,
        None,
        [],
        seconds,
        changed=False,
    )


def _follow(
    ledger: Ledger, entry: Entry, release: Release | None, start: float, notes: list[str], traffic: float | None
) -> Move:
    """After the commit: move the pointer, read it back, and hash again the files it points at."""
    assert entry.channel is not None and entry.generation is not None
    pointers.write(ledger)
    pointer = pointers.read(entry.channel)
    if (
        release
        and pointer
        and pointer.release == release.id
        and loading.wrong_files(release, Path(loading.RELEASES, release.id))
    ):
        raise UserError(
            f"{release.id} was altered while {entry.channel} moved to it: `doctor`, then `verify {release.id}`"
        )
    return Move(
        channel=entry.channel,
        release=entry.release,
        previous=entry.previous,
        generation=entry.generation,
        kind=entry.kind,
        traffic=traffic,
        quarantined=entry.evidence.get("quarantined"),
        notes=notes,
        seconds=time.monotonic() - start,
    )


def _schema_notes(release: Release, left: Release) -> list[str]:
    ours, theirs = release.model["features"], left.model["features"]
    gone, back = sorted(theirs.keys() - ours.keys()), sorted(ours.keys() - theirs.keys())
    notes = [f"its model does not use {', '.join(gone)}"] if gone else []
    return notes + ([f"its model uses {', '.join(back)}, which the other did not"] if back else [])
