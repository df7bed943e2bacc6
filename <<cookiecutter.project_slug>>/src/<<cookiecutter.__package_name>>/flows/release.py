"""Releases as Prefect flows, for schedules and triggers: thin over the functions that the command line calls.

What a flow decides is decided without a person: a release in quarantine is never promoted.
"""

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact

from ..lifecycle import operations
from ..lifecycle.ledger import ChannelName
from ..lifecycle.store import Store
from ..lineage import openlineage
from ..lineage.attach import attach, attach_later


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
    attach_later(done.result.release, done.result.previous)
    _log(done.notes)
    return done.result.generation


@flow(name="rollback")
def rollback(channel: ChannelName, reason: str, to: str = "") -> str | None:
    """Let a channel serve what it served before; returns what that is."""
    done = operations.rollback(channel, reason, to, automation=True)
    attach_later(done.result.release, done.result.previous)
    _log(done.notes)
    return done.result.release


def _log(notes: list[str]) -> None:
    for note in notes:
        get_run_logger().warning(note)
