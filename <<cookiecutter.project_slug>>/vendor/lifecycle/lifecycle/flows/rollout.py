"""A rollout on a schedule: each run takes every step that the evidence allows."""

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact

from . import flow_name, of_part


@flow(name=flow_name("rollout"))
@of_part("monitoring")
def rollout(release: str = "") -> str:
    """Advance the rollout of a release, by default the staging release. Return its state."""
    from ..monitoring.rollout import advance, nothing_staged

    if not release and (why := nothing_staged()):
        get_run_logger().info(why)
        return "done"
    done = advance(release or "staging")
    for note in done.notes:
        get_run_logger().warning(note)
    lines = [f"- {step}" for step in done.steps] + [f"- **{done.stop.state}**: {done.stop.why}"]
    create_markdown_artifact("\n".join([f"Release `{done.release}`", "", *lines, ""]), key="rollout")
    return done.stop.state
