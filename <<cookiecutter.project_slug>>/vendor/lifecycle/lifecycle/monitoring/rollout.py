"""A release's way to production: staging, shadow, canary at growing shares, production; each step needs evidence.

The ledger holds a rollout's position and the evidence for each decision: a pass may be killed at any point, and the
next one continues. Time never promotes: if a rollout waits too long, a person has to decide.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from .. import parts
from ..errors import UserError
from ..params import Params, load_params
from ..predictions import sharing
from ..releases import ledger as book
from ..releases import operations
from ..releases.ledger import Channel, ChannelName, Entry, Ledger, MovedError
from ..releases.reconcile import open_ledger
from ..releases.record import Release
from ..releases.store import Store
from .canary import Stay, judge, watch
from .shadow import shadow

State = Literal["done", "waiting", "stopped", "rolled back"]


@dataclass(frozen=True)
class Step:
    """A move with evidence for it. `generation`: the channel's generation when it was decided."""

    kind: Literal["promote", "roll back"]
    channel: ChannelName
    generation: int
    reason: str
    evidence: dict[str, Any]
    traffic: float | None = None

    def __str__(self) -> str:
        share = f" at {self.traffic:.0%}" if self.traffic else ""
        verb = f"{self.channel}{share} serves it" if self.kind == "promote" else f"rolled back from {self.channel}"
        return f"{verb}: {self.reason}"


@dataclass(frozen=True)
class Stop:
    """No move, and why. stopped: a person decides; waiting: for what `why` says."""

    state: State
    why: str
    evidence: dict[str, Any]


@dataclass(frozen=True)
class Progress:
    """What one pass did, and where it ended."""

    release: str
    steps: list[Step]
    stop: Stop
    notes: list[str]


def nothing_staged() -> str | None:
    """Return why there is nothing to roll out from staging, or None if there is a release."""
    staging = book.load().channel("staging")
    return None if staging and staging.release else "staging serves nothing, so there is nothing to roll out"


def advance(what: str) -> Progress:
    """Take every step of a release's rollout that the evidence allows now.

    Raises:
        UserError: the release does not exist, or the ledger or the other hosts' prediction logs cannot be read.
    """
    steps: list[Step] = []
    notes: list[str] = []
    sharing.collect_recent(load_params().serving.log.store)
    while True:
        opened = open_ledger(network=True)
        notes += opened.done
        release = opened.ledger.release(what)
        what = release.id  # by the next step, a channel may serve another release
        try:
            decision = decide(opened.ledger, release, opened.store, load_params(), datetime.now(UTC))
            if isinstance(decision, Stop):
                return Progress(release.id, steps, decision, notes)
            notes += _take(decision, release)
        except MovedError as error:
            return Progress(release.id, steps, Stop("waiting", f"the next pass: {error}", {}), notes)
        except UserError as error:
            return Progress(release.id, steps, Stop("stopped", str(error), {}), notes)
        steps.append(decision)


def _take(step: Step, release: Release) -> list[str]:
    evidence = {"rollout": step.evidence}
    reason = f"rollout: {step.reason}"
    if step.kind == "roll back":
        return operations.rollback(
            step.channel, reason, generation=step.generation, automation=True, evidence=evidence
        ).notes
    return operations.promote(
        release.id, step.channel, step.traffic, reason, step.generation, automation=True, evidence=evidence
    ).notes


def decide(ledger: Ledger, release: Release, store: Store, params: Params, now: datetime) -> Step | Stop:
    """Return the next step of a rollout, or why there is none. Changes nothing.

    Raises:
        UserError: the evidence cannot be computed: a person must look.
    """
    staging, canary, production = ledger.channel("staging"), ledger.channel("canary"), ledger.channel("production")
    if quarantine := ledger.quarantine(release.id):
        why = f"{quarantine.channel} was rolled back from it at {quarantine.at}: {quarantine.reason}"
        return Stop("rolled back", why, {})
    if production and production.release == release.id:
        return Stop("done", f"production serves it since {production.at}", {})
    entries = [entry for _, entry in ledger.entries()]
    been = {entry.channel for entry in entries if entry.release == release.id and entry.channel}
    if "production" in been:
        return Stop(
            "stopped",
            "production has served it before, and serves another release now: a person must promote it again",
            {},
        )
    if not been & {"staging", "canary"}:
        return Step("promote", "staging", _generation(staging), "it begins", {})
    at: ChannelName = "canary" if _serves(canary, release) else "staging"
    here = canary if at == "canary" else staging
    if here is None or here.release != release.id:
        return Stop(
            "stopped", "it was in staging, which serves another release now: a person must promote it again", {}
        )
    if production is None or production.release is None:
        first = f"`promote {release.id} --to production`"
        return Stop(
            "stopped", f"production serves nothing to compare it with: the first one is a person's ({first})", {}
        )
    view = _View(ledger, entries, release, ledger.release(production.release), store, params, now)
    found = view.shadow()
    if found["compared"]["verdict"] != "promote":
        return view.shadow_ends(found, at, here)
    if at == "canary":
        return view.watch(found, here)
    if not view.shares:
        return view.to_production({"shadow": found}, _said(found))
    if canary and canary.release not in (None, production.release):
        other = f"the canary, which serves {canary.release} since {canary.at}: its rollout comes first"
        return Stop("waiting", other, {"shadow": found})
    return Step("promote", "canary", _generation(canary), _said(found), {"shadow": found}, view.shares[0])


def _generation(channel: Channel | None) -> int:
    return channel.generation if channel else 0


def _serves(channel: Channel | None, release: Release) -> bool:
    return channel is not None and channel.release == release.id


def _said(shadow: dict[str, Any]) -> str:
    """Describe the shadow's result for the ledger."""
    compared = shadow["compared"]
    word = {"promote": "as good as", "roll back": "worse than", "undecided": "not distinguishable from"}[
        compared["verdict"]
    ]
    mean = f" (loss {compared['difference']:+.4f} a row)" if compared["difference"] is not None else ""
    return f"{word} {shadow['champion']} on {compared['rows']:,} labelled rows{mean}"


@dataclass(frozen=True)
class _View:
    """The inputs of a decision."""

    ledger: Ledger
    entries: list[Entry]
    release: Release
    champion: Release
    store: Store
    params: Params
    now: datetime

    @property
    def shares(self) -> list[float]:
        """The canary's shares. Empty if nothing is served online, since a canary would never get a request."""
        return [] if parts.why_off("serving") else self.params.rollout.canary.shares

    def shadow(self) -> dict[str, Any]:
        """Return the ledger's shadow of this release against this champion, or run a new one."""
        for entry in reversed(self.entries):
            known: dict[str, Any] = entry.evidence.get("rollout", {}).get("shadow", {})
            if entry.release == self.release.id and known.get("champion") == self.champion.id:
                return known
        columns = self.params.monitoring.columns
        return shadow(self.release, self.champion, self.store, self.params.rollout, columns).as_dict()

    def shadow_ends(self, found: dict[str, Any], at: ChannelName, channel: Channel) -> Step | Stop:
        """Decide after a shadow that found the release worse, or could not tell."""
        evidence = {"shadow": found}
        if found["compared"]["verdict"] == "roll back":
            return Step("roll back", at, channel.generation, _said(found), evidence)
        why = f"more labelled rows, from {found['months'][0] if found['months'] else 'the holdout'} on: {_said(found)}"
        return self._wait(channel, self.params.rollout.shadow.wait_days, why, evidence)

    def watch(self, found: dict[str, Any], canary: Channel) -> Step | Stop:
        """Decide on the canary: roll back, next share, production, or none of these yet."""
        rules = self.params.rollout
        if canary.traffic is None:
            return Stop("stopped", "the canary has no share of the requests: `promote` it there with --traffic", {})
        expected = (tuple(found["edges"]), tuple(found["parts"]))
        watched = watch(self.release.id, self._stays(), rules, expected)
        evidence = {"shadow": found, "canary": watched.as_dict()}
        verdict, why, person = judge(watched, rules, self.now)
        if verdict == "roll back":
            return Step("roll back", "canary", canary.generation, why, evidence)
        if verdict == "undecided":
            return (
                Stop("stopped", why, evidence) if person else self._wait(canary, rules.canary.wait_days, why, evidence)
            )
        share = next((share for share in self.shares if share > canary.traffic), None)
        if share is None:
            return self.to_production(evidence, f"{_said(found)}; {why}")
        return Step("promote", "canary", canary.generation, why, evidence, share)

    def to_production(self, evidence: dict[str, Any], why: str) -> Step:
        """Return the last step. The policy may still require a person for it."""
        return Step("promote", "production", _generation(self.ledger.channel("production")), why, evidence)

    def _stays(self) -> list[Stay]:
        """Return the shares that the canary has given this release since it last served another one."""
        moves = [entry for entry in self.entries if entry.channel == "canary"]
        since = max((number for number, move in enumerate(moves) if move.release != self.release.id), default=-1)
        return [
            Stay(move.generation or 0, move.evidence["traffic"], move.at)
            for move in moves[since + 1 :]
            if move.evidence.get("traffic")
        ]

    def _wait(self, channel: Channel, days: float, why: str, evidence: dict[str, Any]) -> Stop:
        since = datetime.fromisoformat(channel.at)
        if self.now - since > timedelta(days=days):
            return Stop("stopped", f"{days:g} days without a verdict; it waits for {why}", evidence)
        return Stop("waiting", why, evidence)
