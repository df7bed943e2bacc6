"""Releases as Prefect flows, for schedules and triggers: thin, over the functions that the command line calls.

A flow decides without a person, so it never promotes a release in quarantine.
"""

from typing import Any

from prefect import flow, get_run_logger, pause_flow_run
from prefect.artifacts import create_markdown_artifact
from prefect.input import RunInput
from pydantic import Field

from ..errors import UserError
from ..lineage import openlineage
from ..lineage.mlflow_pages import attach
from ..releases import approvals, operations
from ..releases.ledger import ChannelName, MovedError
from ..releases.reconcile import open_ledger
from ..releases.store import Store


@flow(name="release")
def release(reason: str = "") -> str:
    """Release what the pipeline has built; returns the id, of an earlier release where the content is the same."""
    done = operations.release(reason, automation=True)
    made = done.result.release
    lineage, unattached = attach(made, Store())
    _log([*done.notes, *unattached, *openlineage.tell_of_ledger()])
    if lineage:
        text = f"Release `{made.id}`: everything it was made from is on the page `{lineage}`, in its MLflow run.\n"
        create_markdown_artifact(text, key="lineage", description=f"The lineage of {made.id}")
    return made.id


@flow(name="promote")
def promote(release: str, to: ChannelName, reason: str = "") -> int:
    """Let a channel serve a release, by the policy of params.yaml; returns the channel's generation."""
    done = operations.promote(release, to, reason=reason, automation=True)
    _log(done.notes)
    return done.result.generation


@flow(name="rollback")
def rollback(
    channel: ChannelName,
    reason: str,
    to: str = "",
    generation: int | None = None,
    evidence: dict[str, Any] | None = None,
) -> str | None:
    """Let a channel serve what it served before; returns what that is.

    With `generation`, only if the channel is still at that one: what has been dealt with is left alone. The
    ledger keeps the evidence.
    """
    try:
        done = operations.rollback(channel, reason, to, generation=generation, automation=True, evidence=evidence)
    except MovedError as moved:
        _log([f"nothing to do: {moved}"])
        return None
    _log(done.notes)
    return done.result.release


class Answer(RunInput):
    """What the person who is asked fills in on the flow run's page."""

    approved: bool
    name: str = Field(description="Yours, as git knows it: Ada Lovelace")
    mail: str = Field(description="Yours, as git knows it: ada@example.org")
    comment: str = ""


@flow(name="approve")
def approve(release: str, wait_hours: float = 72) -> bool:
    """Ask a person, on Prefect's page, whether a release may serve; a yes becomes an approval in the ledger.

    Prefect does not know who answers. Where the project has a file allowed_signers, only the command line can sign, and
    this flow refuses to ask.
    """
    if approvals.allowed_signers() is not None:
        raise UserError(f"approvals are signed in this project: `approve {release}` on the command line")
    opened = open_ledger(network=True)
    asked = opened.ledger.release(release)
    text = f"May **{asked.id}** serve? `card {asked.id}`, `diff production {asked.id}` say more."
    answer = pause_flow_run(Answer.with_initial_data(description=text), timeout=int(wait_hours * 3600))
    if not answer.approved:
        _log([f"{asked.id} was not approved by {answer.name}: {answer.comment}"])
        return False
    by = f"{answer.name.strip()} <{answer.mail.strip()}>"
    # Approve the release that was asked about: the ledger may have moved in the meantime.
    operations.approve(asked.id, f"through Prefect: {answer.comment}".rstrip(": "), by=by)
    return True


def _log(notes: list[str]) -> None:
    for note in notes:
        get_run_logger().warning(note)
