"""`run`: run the pipeline from the command line."""

import os
import signal
import sys
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UserError
from .command import Result, command

if TYPE_CHECKING:
    from ..releases.tracking import Tracked


@command("run --through 2013-07")
def run(
    through: Annotated[
        str, typer.Option(metavar="YYYY-MM", help="First set the last month of the data window (data.through).")
    ] = "",
) -> Result:
    """Run stale stages, log the result and register the model.

    Checks and admits new files of the source first.

    Exit code 0 if the model passes its gates, 1 if something failed, 3 if a gate failed.
    """
    outcome = run_pipeline(through)
    return Result(outcome.as_dict(), outcome.as_text(), code=3 if outcome.failed_gates else 0)


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run."""

    changed: bool
    tracked: "Tracked"
    failed_gates: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Return the outcome for --json."""
        return {"changed": self.changed, "failed_gates": self.failed_gates, **vars(self.tracked)}

    def as_text(self) -> str:
        """Return the outcome as readable text."""
        from ..releases import tracking

        t = self.tracked
        if self.failed_gates:
            model = f"not registered: {'; '.join(self.failed_gates)}"
        else:
            model = f"{t.model_name} version {t.version}, alias {tracking.CHALLENGER}"
        passed = ", ".join(f"{gate['name']} {gate['value']:.3f}" for gate in tracking.gates() if gate["pass"])
        head = "Done." if self.changed else "Nothing has changed."
        return (
            f"{head}\n  model   {model}\n  passes  {passed or 'no gate'}\n"
            f"  result  {t.result_digest[:12]} (MLflow run {t.run_id[:8]})\n{WHERE_TO_LOOK}"
        )


WHERE_TO_LOOK = """  report  reports/report.html
  pages   make ui (MLflow, Prefect), make docs (dbt)"""


def run_pipeline(through: str = "") -> Outcome:
    """Run stale stages as a Prefect flow. If nothing is stale, do not start Prefect at all.

    Raises:
        UserError, StageError: the run failed; the previous state is restored.
    """
    from ..releases import tracking
    from ..releases.window import moved

    stop_cleanly()
    with moved(through) if through else nullcontext():
        changed = _run()
    tracked = tracking.last_tracked()
    assert tracked is not None
    return Outcome(changed, tracked, tracking.failed_gates())


def stop_cleanly() -> None:
    """From now on, stop at SIGTERM as after Ctrl-C, including the stage's processes and without partial results."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


def _run() -> bool:
    if not os.environ.get("PREFECT_API_URL") and not _anything_to_do():
        return False
    from ..flows import server
    from ..releases.pipeline import StageError

    server.ensure_api()
    from ..flows import pipeline

    # While the server starts, do the first task's work. It is stored by content, so the task will find it done.
    # If it fails here, the task will fail too, and record the error.
    with suppress(Exception):
        pipeline.admit.fn()
    try:
        pipeline.run_now()
    except (UserError, StageError):
        raise
    except Exception as error:
        if said := server.what_is_wrong(error):
            raise UserError(said) from None
        raise
    return True


def _anything_to_do() -> bool:
    from ..params import load_params
    from ..releases import tracking
    from ..releases.pipeline import Pipeline
    from ..stages import ingest
    from ..stages.source import pins_of, read_pins

    _, files = ingest.look(load_params().data)
    if pins_of(files) != read_pins() or not tracking.is_tracked():
        return True
    return not all(stage.fresh for stage in Pipeline().status())
