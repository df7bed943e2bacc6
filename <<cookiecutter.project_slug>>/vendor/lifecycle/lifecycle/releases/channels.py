"""Promotion and rollback: prepare, one compare-and-swap, then whatever follows from it.

Until the ledger has moved, nothing is visible to anybody. From then on there is only forward: what a crash left undone
is done by the next command (reconcile.py).
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..params import ChannelPolicy, Evaluate, Promotion
from . import approvals, compare, git, loading, pointers
from . import ledger as book
from .ledger import Channel, ChannelName, Entry, Kind, Ledger, Quarantine
from .record import Release
from .store import Store


@dataclass(frozen=True)
class Move:
    """What a promotion or a rollback came to. `seconds`: until the pointer had moved and was read back."""

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


@dataclass(frozen=True)
class Policy:
    """What params.yaml asks of a promotion."""

    promotion: Promotion
    evaluate: Evaluate

    def channel(self, name: ChannelName) -> ChannelPolicy:
        """The rules of a channel; raises UserError when the project does not use it."""
        if name not in self.promotion.channels:
            raise UserError(f"params.yaml has no channel {name} under promotion.channels: add it, or choose another")
        return self.promotion.channels[name]


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
    evidence: dict[str, Any] | None = None,
) -> Move:
    """Let a channel serve a release, if the policy allows it.

    Args:
        ledger: as it was when this was decided.
        release: what to serve.
        to: the channel.
        policy: of params.yaml.
        store: DVC's cache and remote.
        traffic: share of the requests, for a canary.
        reason: why; needed for a release in quarantine.
        generation: move the channel only if it is at this generation.
        automation: nobody is at the keyboard; then quarantine is final.
        evidence: what it was decided on, beside what the policy asks for.

    Raises:
        UserError: the policy does not allow it, or something the release needs is missing; nothing has changed.
        MovedError: somebody else moved the channel first.
    """
    start = time.monotonic()
    channel = ledger.channel(to)
    _expect(ledger, to, generation)
    if channel and channel.release == release.id and channel.traffic == traffic:
        return _unchanged(to, channel, start)
    if automation and (hold := ledger.held(to)):
        raise UserError(f"{to} is on hold since {hold.at} ({hold.reason}): a person ends that, by `hold {to} --end`")
    loading.need(release.commit)  # a rollback goes without: what serves is held against the tree
    evidence = (evidence or {}) | _allowed(ledger, release, to, policy, store, reason, automation)
    loading.try_out(release, loading.materialise(release, store))
    entry = Entry(
        kind="promote",
        release=release.id,
        channel=to,
        generation=(channel.generation if channel else 0) + 1,
        previous=channel.release if channel else None,
        by=git.identity(),
        at=book.now(),
        automation=automation,
        reason=reason,
        evidence=evidence | ({"traffic": traffic} if traffic is not None else {}),
    )
    lifted: dict[str, bytes | None] = {}
    if ledger.quarantine(release.id):
        lifted[f"quarantine/{release.id}.json"] = None
    after = ledger.append(
        entry,
        lambda numbered: {f"channels/{to}.json": _channel_of(numbered, traffic).to_bytes()} | lifted,
        guards=[f"quarantine/{release.id}.json"],
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
    """Let a channel serve again what it served before, and put what it leaves in quarantine.

    Without `to`, it goes to the last release the channel has served that is not in quarantine. It needs no approval,
    since the channel has served it before, and no network, if the release is in DVC's cache.

    Raises:
        UserError: there is nothing to go back to, or it does not hold; nothing has changed.
        MovedError: somebody else moved the channel first.
    """
    start = time.monotonic()
    if not reason.strip():
        raise UserError("a rollback needs a reason, for those who come after: --reason '...'")
    _expect(ledger, name, generation)
    channel = ledger.channel(name)
    if channel is None or channel.release is None:
        raise UserError(f"{name} serves nothing, so there is nothing to roll back")
    served = [entry.release for _, entry in ledger.entries() if entry.channel == name and entry.release]
    target = _target(ledger, name, channel.release, served, to)
    release = ledger.release(target) if target else None
    if release:
        loading.try_out(release, loading.materialise(release, store))
    left = channel.release
    entry = Entry(
        kind="rollback",
        release=target,
        channel=name,
        generation=channel.generation + 1,
        previous=left,
        by=git.identity(),
        at=book.now(),
        automation=automation,
        reason=reason,
        evidence=(evidence or {}) | {"quarantined": left},
    )

    def files(numbered: Entry) -> dict[str, bytes | None]:
        why = Quarantine(release=left, channel=name, entry=numbered.number, by=entry.by, at=entry.at, reason=reason)
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
    """Keep automation from promoting to a channel, or end that; returns the ledger's entry.

    A person's promotion or rollback of the channel ends it too.

    Raises:
        UserError: it has no reason, or there is none to end.
    """
    if end and ledger.held(name) is None:
        raise UserError(f"{name} is not on hold")
    if not end and not reason.strip():
        raise UserError("a hold needs a reason, for those who come after: --reason '...'")
    return note(ledger, "hold", name, reason, automation, (evidence or {}) | ({"ended": True} if end else {}))


def note(
    ledger: Ledger, kind: Kind, name: ChannelName, reason: str, automation: bool, evidence: dict[str, Any]
) -> Entry:
    """Write an entry that moves nothing."""
    channel = ledger.channel(name)
    entry = Entry(
        kind=kind,
        release=channel.release if channel else None,
        channel=name,
        by=git.identity(),
        at=book.now(),
        automation=automation,
        reason=reason,
        evidence=evidence,
    )
    written = ledger.append(entry, lambda _: {}, offline=True).last_entry()
    assert written is not None
    return written


def _target(ledger: Ledger, name: ChannelName, leaving: str, served: list[str], to: str) -> str | None:
    if to:
        target = ledger.resolve(to)
        if target == leaving:
            raise UserError(f"{name} serves {target} already")
        if target not in served:
            raise UserError(f"{name} has never served {target}: go forward to it with `promote {target} --to {name}`")
        if quarantine := ledger.quarantine(target):
            raise UserError(
                f"{target} is in quarantine ({quarantine.reason}, {quarantine.at}): "
                f"`promote {target} --to {name} --reason '...'` if it is the right one after all"
            )
        return target
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


def _allowed(
    ledger: Ledger, release: Release, to: ChannelName, policy: Policy, store: Store, reason: str, automation: bool
) -> dict[str, Any]:
    """The evidence that the policy asks for.

    Raises:
        UserError: something is missing; says what, and what to type.
    """
    rules = policy.channel(to)
    _not_in_quarantine(ledger, release, to, reason, automation)
    metrics = release.evidence["metrics"]
    failed = [
        f"{name} is {metrics.get(name)}, gate {gate.model_dump(exclude_none=True)}"
        for name, gate in policy.evaluate.gates.items()
        if not gate.passes(float(metrics.get(name, "nan")))
    ]
    if failed:
        raise UserError(f"{release.id} does not pass the gates of params.yaml: {'; '.join(failed)}")
    evidence: dict[str, Any] = {"policy": rules.model_dump(mode="json")}
    entries = [entry for _, entry in ledger.entries()]
    if any(entry.channel == to and entry.release == release.id for entry in entries):
        return evidence | {"served_before": True}
    if rules.after and not any(entry.channel == rules.after and entry.release == release.id for entry in entries):
        raise UserError(
            f"{release.id} has not been in {rules.after}, which comes before {to}: "
            f"`promote {release.id} --to {rules.after}` first"
        )
    evidence |= _enough_approvals(ledger, release, to, policy)
    return evidence | _good_enough(ledger, release, rules, store)


def _not_in_quarantine(ledger: Ledger, release: Release, to: ChannelName, reason: str, automation: bool) -> None:
    quarantine = ledger.quarantine(release.id)
    if quarantine is None:
        return
    rolled_back = f"rolled back from {quarantine.channel}, {quarantine.reason}"
    why = f"{release.id} is in quarantine since {quarantine.at}: {rolled_back}"
    if automation:
        raise UserError(f"{why}. Automation does not promote it again; a person may")
    if not reason.strip():
        raise UserError(f"{why}. To promote it all the same, say why: `promote {release.id} --to {to} --reason '...'`")


def _enough_approvals(ledger: Ledger, release: Release, to: ChannelName, policy: Policy) -> dict[str, Any]:
    rules, promotion = policy.channel(to), policy.promotion
    counted, refused = [], []
    people: set[str] = set()
    for each in approvals.count(ledger, release):
        by = each.approval.by
        mail = approvals.mail_of(by).lower()
        own = approvals.is_own(by, release)
        if each.problem:
            refused.append(f"that of {by} does not count: {each.problem}")
        elif mail in people:
            refused.append(f"{by} has approved it before, under another name")
        elif mail in map(str.lower, promotion.may_not_approve):
            refused.append(f"{by} may not approve (promotion.may_not_approve)")
        elif own and not promotion.self_approval:
            refused.append(f"{by} released it, and promotion.self_approval is off")
        else:
            people.add(mail)
            counted.append({"by": by, "at": each.approval.at, "own": own, "signed": each.signed})
    if len(counted) < rules.approvals:
        raise UserError(
            f"{to} wants {rules.approvals} approval(s) of {release.id} and it has {len(counted)}"
            + "".join(f"; {line}" for line in refused)
            + f": `approve {release.id}`"
        )
    return {"approvals": counted} if counted else {}


def _good_enough(ledger: Ledger, release: Release, rules: ChannelPolicy, store: Store) -> dict[str, Any]:
    champion = ledger.channel("production")
    if not rules.against_champion or champion is None or champion.release in (None, release.id):
        return {}
    known = release.observed.get("comparison") or {}
    if known.get("champion") != champion.release:
        known = compare.compare(release, ledger.release(champion.release or ""), store)
    if "problem" in known:
        return {"comparison": known}
    if unknown := sorted(rules.against_champion.keys() - known["metrics"].keys()):
        raise UserError(
            f"{release.id} and {champion.release} cannot be compared by {', '.join(unknown)}, which against_champion "
            f"in params.yaml asks for: they are compared by {', '.join(known['metrics'])}"
        )
    worse = [
        f"{name} changes by {known['metrics'][name]['change']:+.4f}, bound {bound.model_dump(exclude_none=True)}"
        for name, bound in rules.against_champion.items()
        if not bound.passes(known["metrics"][name]["change"])
    ]
    if worse:
        raise UserError(f"{release.id} is worse than {champion.release} on the same holdout: {'; '.join(worse)}")
    return {"comparison": known}


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
    """After the commit: move the pointer, read it back, and hash once more what it points at."""
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
