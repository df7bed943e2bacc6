"""Decide what may be written to the ledger, in one pure function.

A command calls it before it acts, and replay.py calls it again for every past entry. An entry carries the rules that it
was judged by.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, ValidationError

from ..errors import UserError
from ..params import Evaluate, Gate, Promotion
from .approvals import Counted, is_own, mail_of
from .entries import Channel, ChannelName, Entry, Quarantine, Stored
from .record import Release


class Rules(Stored):
    """The rules of one channel, as stored in a promotion's entry.

    `signers`: the git blob of the file allowed_signers, if approvals must be signed. Entries before 0.2 only have the
    first three fields.
    """

    after: Literal["staging", "canary"] | None = None
    approvals: int = Field(ge=0)
    against_champion: dict[str, Gate] = Field(default={})
    self_approval: bool | None = None
    may_not_approve: list[str] = Field(default=[])
    gates: dict[str, Gate] = Field(default={})
    signers: str | None = Field(default=None, pattern="^[0-9a-f]{40,64}$")

    @property
    def are_whole(self) -> bool:
        """Whether these are all the rules that the promotion was judged by."""
        return self.self_approval is not None


@dataclass(frozen=True)
class Policy:
    """The requirements for a promotion in params.yaml."""

    promotion: Promotion
    evaluate: Evaluate

    def rules(self, name: ChannelName, signers: str | None) -> Rules:
        """Return the rules of a channel. Raises UserError if the project does not use the channel."""
        if name not in self.promotion.channels:
            raise UserError(f"params.yaml has no channel {name} under promotion.channels: add it, or choose another")
        return Rules(
            **self.promotion.channels[name].model_dump(),
            self_approval=self.promotion.self_approval,
            may_not_approve=self.promotion.may_not_approve,
            gates=self.evaluate.gates,
            signers=signers,
        )


@dataclass(frozen=True)
class Before:
    """The combined effect of the allowed entries before an entry, as far as that entry depends on it.

    `serving`: the entry's channel. `champion`: the release that production serves. `served`: all releases that each
    channel has served. `hold`: the hold on the channel. `known`, `quarantine`, `release` and `approvals`: of the
    entry's release; the last two are set for a promotion only. `whole_rules`: an earlier entry carries whole rules.
    """

    serving: Channel | None
    champion: str | None
    served: Mapping[str, Collection[str]]
    hold: Entry | None
    known: bool
    quarantine: Quarantine | None
    release: Release | None
    approvals: Sequence[Counted]
    whole_rules: bool


def rules_of(entry: Entry) -> Rules | None:
    """Return the rules that an entry carries, or None."""
    try:
        return Rules.model_validate(entry.evidence.get("policy"))
    except ValidationError:
        return None


def why_not(before: Before, entry: Entry, rules: Rules | None) -> str:
    """Return why an entry is not allowed, in plain words, or an empty string if it is."""
    if entry.kind == "release":
        return ""
    if entry.kind == "approve":
        return "" if before.known else f"there is no release {entry.release}"
    if entry.channel is None:
        return "it names no channel"
    serves = before.serving.release if before.serving else None
    if entry.kind in ("hold", "retrain"):
        served = before.served.get(entry.channel, ())
        return "" if entry.release in (None, *served) else f"{entry.channel} has never served {entry.release}"
    generation = (before.serving.generation if before.serving else 0) + 1
    if (entry.generation, entry.previous) != (generation, serves):
        return (
            f"it says generation {entry.generation}, in place of {entry.previous or 'nothing'}; "
            f"the entries before it say generation {generation}, in place of {serves or 'nothing'}"
        )
    if entry.release is not None and not before.known:
        return f"there is no release {entry.release}"
    return _rollback(before, entry) if entry.kind == "rollback" else _promotion(before, entry, rules)


def _rollback(before: Before, entry: Entry) -> str:
    name, to = entry.channel, entry.release
    if not entry.reason.strip():
        return "it gives no reason"
    if entry.previous is None:
        return f"{name} serves nothing, so there is nothing to roll back"
    if entry.evidence.get("quarantined") != entry.previous:
        return f"it does not put {entry.previous} in quarantine"
    if to is None:
        return "production must serve something" if name == "production" else ""
    if to == entry.previous:
        return f"{name} serves {to} already"
    if to not in before.served.get(str(name), ()):
        return f"{name} has never served {to}: go forward to it with `promote {to} --to {name}`"
    if before.quarantine:
        return (
            f"{to} is in quarantine ({before.quarantine.reason}, {before.quarantine.at}): "
            f"`promote {to} --to {name} --reason '...'` if it is the right one after all"
        )
    return ""


def _promotion(before: Before, entry: Entry, rules: Rules | None) -> str:
    if rules is None:
        return "it does not carry the rules that it was judged by"
    if before.whole_rules and not rules.are_whole:
        return "it carries fewer rules than an entry before it: update the code of the clone that wrote it"
    if entry.release is None or before.release is None:
        return "it names no release"
    if entry.automation and before.hold:
        at, why = before.hold.at, before.hold.reason
        return (
            f"{entry.channel} is on hold since {at} ({why}): a person ends the hold with `hold {entry.channel} --end`"
        )
    first = _quarantine(before.quarantine, entry) or _gates(before.release, rules)
    if first or entry.release in before.served.get(str(entry.channel), ()):
        return first
    return (
        _order(before, entry, rules)
        or _approvals(before.approvals, before.release, entry, rules)
        or _comparison(before.champion, entry, rules)
    )


def _quarantine(quarantine: Quarantine | None, entry: Entry) -> str:
    if quarantine is None:
        return ""
    rolled_back = f"rolled back from {quarantine.channel}, {quarantine.reason}"
    why = f"{entry.release} is in quarantine since {quarantine.at}: {rolled_back}"
    if entry.automation:
        return f"{why}. Automation does not promote it again; a person may"
    if not entry.reason.strip():
        command = f"promote {entry.release} --to {entry.channel} --reason '...'"
        return f"{why}. To promote it anyway, give a reason: `{command}`"
    return ""


def _gates(release: Release, rules: Rules) -> str:
    metrics = release.evidence["metrics"] if rules.gates else {}
    failed = [
        f"{name} is {metrics.get(name)}, gate {gate.model_dump(exclude_none=True)}"
        for name, gate in rules.gates.items()
        if not gate.passes(float(metrics.get(name, "nan")))
    ]
    return f"{release.id} does not pass the gates of params.yaml: {'; '.join(failed)}" if failed else ""


def _order(before: Before, entry: Entry, rules: Rules) -> str:
    if rules.after is None or entry.release in before.served.get(rules.after, ()):
        return ""
    return (
        f"{entry.release} has not been in {rules.after}, which comes before {entry.channel}: "
        f"`promote {entry.release} --to {rules.after}` first"
    )


def counted(approvals: Sequence[Counted], release: Release, rules: Rules) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the approvals that count, as an entry stores them, and why each of the others does not."""
    found, refused = [], []
    people: set[str] = set()
    for each in approvals:
        by = each.approval.by
        mail = mail_of(by).lower()
        own = is_own(by, release)
        if each.problem:
            refused.append(f"that of {by} does not count: {each.problem}")
        elif mail in people:
            refused.append(f"{by} has approved it before, under another name")
        elif mail in map(str.lower, rules.may_not_approve):
            refused.append(f"{by} may not approve (promotion.may_not_approve)")
        elif own and rules.self_approval is False:
            refused.append(f"{by} released it, and promotion.self_approval is off")
        else:
            people.add(mail)
            found.append({"by": by, "at": each.approval.at, "own": own, "signed": each.signed})
    return found, refused


def _approvals(approvals: Sequence[Counted], release: Release, entry: Entry, rules: Rules) -> str:
    found, refused = counted(approvals, release, rules)
    if len(found) >= rules.approvals:
        return ""
    return (
        f"{entry.channel} needs {rules.approvals} approval(s) of {release.id}, and it has {len(found)}"
        + "".join(f"; {line}" for line in refused)
        + f": `approve {release.id}`"
    )


def _comparison(champion: str | None, entry: Entry, rules: Rules) -> str:
    if not rules.against_champion or champion in (None, entry.release):
        return ""
    found = entry.evidence.get("comparison") or {}
    if found.get("champion") != champion:
        return f"{entry.release} was not compared with {champion}, which production serves"
    if "problem" in found:
        return _no_comparison(found["problem"], champion, entry) if rules.are_whole else ""
    if unknown := sorted(rules.against_champion.keys() - found["metrics"].keys()):
        return (
            f"{entry.release} and {champion} cannot be compared by {', '.join(unknown)}, which against_champion "
            f"in params.yaml asks for: they are compared by {', '.join(found['metrics'])}"
        )
    worse = [
        f"{name} changes by {found['metrics'][name]['change']:+.4f}, bound {bound.model_dump(exclude_none=True)}"
        for name, bound in rules.against_champion.items()
        if not bound.passes(found["metrics"][name]["change"])
    ]
    return f"{entry.release} is worse than {champion} on the same holdout: {'; '.join(worse)}" if worse else ""


def _no_comparison(problem: str, champion: str | None, entry: Entry) -> str:
    asked = entry.evidence.get("without_comparison") is True
    if asked and entry.reason.strip() and not entry.automation:
        return ""
    command = f"promote {entry.release} --to {entry.channel} --without-comparison --reason '...'"
    return (
        f"{entry.release} could not be compared with {champion}, which production serves: {problem}. "
        f"A person can promote it anyway: `{command}`"
    )
