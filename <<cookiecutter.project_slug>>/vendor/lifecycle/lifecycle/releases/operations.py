"""Release, promote and roll back from start to finish, for both the command line and flows."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from ..errors import UserError
from ..files import append_lines
from ..params import load_params
from . import approving, channels, git, registry
from . import ledger as book
from . import release as releases
from .approvals import Approval
from .channels import Move
from .ledger import ChannelName, MovedError
from .policy import Policy
from .reconcile import open_ledger
from .release import Released

T = TypeVar("T")

# Failed rollbacks. The ledger holds the successful ones.
FAILED = Path(".lifecycle/failed-rollbacks.jsonl")


@dataclass(frozen=True)
class Done(Generic[T]):
    """The outcome of an operation, with notes on repairs before it and on what has to wait."""

    result: T
    notes: list[str]


def release(reason: str = "", automation: bool = False) -> Done[Released]:
    """Release the current pipeline result. See release.py for what it refuses."""
    opened = open_ledger(network=True)
    made = releases.release(opened.ledger, opened.store, reason, automation)
    warnings = [made.warning] if made.warning else []
    return _followed(made, [*opened.done, *warnings, *registry.try_project(opened.store)])


def approve(what: str, comment: str = "", key: str = "", by: str = "") -> Done[Approval]:
    """Write an approval of a release; see approvals.py."""
    opened = open_ledger(network=True)
    approval, after = approving.approve(opened.ledger, opened.ledger.release(what), comment, key, by)
    notes = opened.done
    if quarantine := after.quarantine(approval.release):
        notes.append(
            f"{approval.release} is in quarantine since {quarantine.at}: rolled back from {quarantine.channel}, "
            f"{quarantine.reason}. The approval does not end that: automation does not promote it, and a person needs "
            "`promote --reason '...'`"
        )
    return _followed(approval, notes)


def promote(
    what: str,
    to: ChannelName,
    traffic: float | None = None,
    reason: str = "",
    generation: int | None = None,
    automation: bool = False,
    without_comparison: bool = False,
    evidence: dict[str, Any] | None = None,
) -> Done[Move]:
    """Make a channel serve a release, subject to the policy in params.yaml; see channels.py."""
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
        without_comparison=without_comparison,
        evidence=evidence,
    )
    return _followed(move, [*opened.done, *registry.try_project(opened.store)])


def rollback(
    channel: ChannelName,
    reason: str,
    to: str = "",
    generation: int | None = None,
    automation: bool = False,
    evidence: dict[str, Any] | None = None,
) -> Done[Move]:
    """Make a channel serve what it served before; see channels.py. MLflow is updated in the background."""
    opened = open_ledger(network=True, offline=True)
    if to:
        opened.ledger.resolve(to)  # a typo does not count as a failed attempt
    try:
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
    except MovedError:
        raise  # another operation came first: nothing was left to do
    except UserError as error:
        _note_failure(channel, automation, str(error))
        raise
    return _followed(move, opened.done)


def _followed(result: T, notes: list[str]) -> Done[T]:
    """Update MLflow's cards, pages and tags in the background after a change of the ledger."""
    registry.project_later()
    return Done(result, notes)


def _note_failure(channel: ChannelName, automation: bool, error: str) -> None:
    line = {"at": book.now(), "channel": channel, "by": git.identity(), "automation": automation, "error": error}
    append_lines(FAILED, json.dumps(line) + "\n")


def failed_rollbacks() -> list[dict[str, Any]]:
    """Return rollbacks that failed on this machine and left the channel unchanged."""
    found = []
    for line in FAILED.read_text(encoding="utf-8", errors="replace").splitlines() if FAILED.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:  # a partial line after a crash
            continue
    return found
