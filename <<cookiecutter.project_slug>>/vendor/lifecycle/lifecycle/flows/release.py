"""Release, promote, roll back and approve as Prefect flows, for schedules and triggers.

They call the same functions as the command line. A flow decides without a person, so it never promotes a release that
is in quarantine.
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
from . import flow_name


@flow(name=flow_name("release"))
def release(reason: str = "") -> str:
    """Release the current pipeline result. Return its id: an earlier release's, if the content is the same."""
    done = operations.release(reason, automation=True)
    made = done.result.release
    lineage, unattached = attach(made, Store())
    _log([*done.notes, *unattached, *openlineage.tell_of_ledger()])
    if lineage:
        text = f"The lineage of release `{made.id}` is the page `{lineage}` in its MLflow run.\n"
        create_markdown_artifact(text, key="lineage", description=f"The lineage of {made.id}")
    return made.id


@flow(name=flow_name("promote"))
def promote(release: str, to: ChannelName, reason: str = "") -> int:
    """Promote a release to a channel, if the policy in params.yaml allows it. Return the channel's generation."""
    done = operations.promote(release, to, reason=reason, automation=True)
    _log(done.notes)
    return done.result.generation


@flow(name=flow_name("rollback"))
def rollback(
    channel: ChannelName,
    reason: str,
    to: str = "",
    generation: int | None = None,
    evidence: dict[str, Any] | None = None,
) -> str | None:
    """Return a channel to its previous release. Return that release's id.

    With `generation`, only if the channel is still at that generation: if it has moved since, nothing is done and the
    flow returns None. The ledger keeps the evidence.
    """
    try:
        done = operations.rollback(channel, reason, to, generation=generation, automation=True, evidence=evidence)
    except MovedError as moved:
        _log([f"nothing to do: {moved}"])
        return None
    _log(done.notes)
    return done.result.release


class Answer(RunInput):
    """The form on the flow run's page."""

    approved: bool
    name: str = Field(description="Your name as in git, like Ada Lovelace")
    mail: str = Field(description="Your e-mail address as in git, like ada@example.org")
    comment: str = ""


@flow(name=flow_name("approve"))
def approve(release: str, wait_hours: float = 72) -> bool:
    """Ask a person on Prefect's page to approve a release. If they do, write the approval to the ledger.

    Prefect does not know who answers. If the project has a file allowed_signers, this flow fails: such approvals must
    be signed on the command line.
    """
    if approvals.allowed_signers() is not None:
        raise UserError(f"approvals are signed in this project: run `approve {release}` on the command line")
    opened = open_ledger(network=True)
    asked = opened.ledger.release(release)
    text = f"Approve **{asked.id}**? For details, run `card {asked.id}` and `diff production {asked.id}`."
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
