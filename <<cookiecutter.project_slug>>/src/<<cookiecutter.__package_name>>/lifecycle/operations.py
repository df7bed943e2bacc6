"""Release, promote and rollback from beginning to end, for the command line and for flows alike."""

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ..params import load_params
from . import channels, registry
from . import release as releases
from .channels import Move, Policy
from .ledger import ChannelName
from .reconcile import open_ledger
from .release import Released

T = TypeVar("T")


@dataclass(frozen=True)
class Done(Generic[T]):
    """What an operation came to, and what else there is to say: repairs before it, and what has to wait."""

    result: T
    notes: list[str]


def release(reason: str = "", automation: bool = False) -> Done[Released]:
    """Release what the pipeline has built; see release.py for what is refused."""
    opened = open_ledger(network=True)
    made = releases.release(opened.ledger, opened.store, reason, automation)
    warnings = [made.warning] if made.warning else []
    return Done(made, [*opened.done, *warnings, *registry.try_project(opened.store)])


def promote(
    what: str,
    to: ChannelName,
    traffic: float | None = None,
    reason: str = "",
    generation: int | None = None,
    automation: bool = False,
    evidence: dict[str, Any] | None = None,
) -> Done[Move]:
    """Let a channel serve a release, by the policy of params.yaml; see channels.py."""
    params = load_params()
    policy = Policy(params.promotion, params.evaluate)
    opened = open_ledger(network=True)
    move = channels.promote(
        opened.ledger,
        opened.ledger.release(what),
        to,
        policy,
        opened.store,
        traffic=traffic,
        reason=reason,
        generation=generation,
        automation=automation,
        evidence=evidence,
    )
    return Done(move, [*opened.done, *registry.try_project(opened.store)])


def rollback(
    channel: ChannelName,
    reason: str,
    to: str = "",
    generation: int | None = None,
    automation: bool = False,
    evidence: dict[str, Any] | None = None,
) -> Done[Move]:
    """Let a channel serve what it served before; see channels.py. MLflow is told in a process of its own."""
    opened = open_ledger(network=True, offline=True)
    move = channels.rollback(
        opened.ledger,
        channel,
        opened.store,
        reason=reason,
        to=to,
        generation=generation,
        automation=automation,
        evidence=evidence,
    )
    registry.project_later()
    return Done(move, opened.done)
