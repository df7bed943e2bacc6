"""The monitor as a Prefect flow, for a schedule. It also sends alerts to Prefect blocks."""

from functools import partial
from typing import TYPE_CHECKING, Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_link_artifact, create_table_artifact
from prefect.blocks.core import Block
from prefect.events import emit_event

from .. import project
from ..params import load_params
from . import flow_name, of_part
from .pipeline import pipeline

if TYPE_CHECKING:
    from ..monitoring.alerts import Alert
    from ..monitoring.operation import Done

# The event that prefect.yaml waits for.
BREACH = "lifecycle.breach"


@flow(name=flow_name("monitor"))
@of_part("monitoring")
def monitor(release: str = "production", months: list[str] | None = None, act: bool = False) -> list[str]:
    """Check for breaches, and alert the blocks in params.yaml (monitoring.alerts.blocks). Return the open breaches.

    With `act`, also take the actions of the triggers in params.yaml. A breach that calls for a rollback always emits an
    event.
    """
    from ..monitoring import alerts, operation
    from ..monitoring.monitor import now

    blocks = load_params().monitoring.alerts.blocks
    done = operation.run(
        release, months or [], now(), {slug: partial(_notify, slug) for slug in blocks}, pipeline if act else None
    )
    if done.due and done.due.action == "rollback":
        # Prefect's automation starts the rollback with this generation; a second attempt finds that it has moved.
        emit_event(
            BREACH,
            {"prefect.resource.id": f"{project.here().name}.production", "prefect.resource.name": "production"},
            payload={
                "release": done.found.release,
                "reason": done.due.reason,
                "generation": done.generation,
                "evidence": done.due.evidence,
            },
        )
    for note in [*done.notes, *map(str, done.found.thin), *done.acted]:
        get_run_logger().warning(note)
    create_table_artifact(
        _rows(done) or [{"breach": "none"}], key="monitor", description=f"{done.found.release}: {done.found.verdict}"
    )
    create_link_artifact(done.page.resolve().as_uri(), key="monitor-page", link_text="all figures, with plots")
    return [alert.breach for alert in alerts.of(done.found, load_params().monitoring.alerts)]


def _notify(slug: str, alert: "Alert") -> None:
    from ..monitoring import alerts

    block: Any = Block.load(slug)
    block.notify(alerts.body(alert), alert.title)


def _rows(done: "Done") -> list[dict[str, Any]]:
    return [
        {
            "check": each.check,
            "subject": each.subject,
            "value": each.now.value,
            "fires above": each.now.fire,
            "since": each.now.state.since,
            "last judged in": each.now.window,
            "source": each.source,
        }
        for each in done.found.breaches
    ]
