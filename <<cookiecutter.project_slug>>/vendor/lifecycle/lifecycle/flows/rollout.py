"""A rollout on a schedule: each run takes every step that the evidence allows."""

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact

from ..releases import ledger as book
from . import flow_name, of_part


@flow(name=flow_name("rollout"))
@of_part("monitoring")
def rollout(release: str = "") -> str:
    """Advance the rollout of a release, by default the staging release. Return its state."""
    from ..monitoring.rollout import advance

    staging = book.load().channel("staging")
    if not release and (staging is None or staging.release is None):
        get_run_logger().info("staging serves nothing, so there is nothing to roll out")
        return "done"
    done = advance(release or "staging")
    for note in done.notes:
        get_run_logger().warning(note)
    lines = [f"- {step}" for step in done.steps] + [f"- **{done.stop.state}**: {done.stop.why}"]
    create_markdown_artifact("\n".join([f"Release `{done.release}`", "", *lines, ""]), key="rollout")
    return done.stop.state
