"""`admit`, `run-stage`, `track`: the steps of `run`, for engines that call a command for each."""

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UserError
from .command import AsJson, Result, command
from .run import stop_cleanly

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..releases.pipeline import StageResult


@command("admit", step=True)
def admit() -> Result:
    """Check new files of the source, and pin those that pass.

    The first step of `run`, for engines that call a command for each step. Exit code 2 if a retry will not help.
    """
    from ..params import load_params
    from ..stages import ingest

    new = len(ingest.admit(load_params().data))
    return Result({"new": new}, f"{new} new files passed the gate" if new else "the source has no new file")


@command("run-stage train --commit 3f2a9c1", step=True)
def run_stage(
    stage: Annotated[str, typer.Argument(help="A stage of dvc.yaml.")],
    here: Annotated[bool, typer.Option("--here", help="Run it for this folder, as `run` does.")] = False,
    hand_over: Annotated[bool, typer.Option("--hand-over", help="Send its inputs, and print the commit.")] = False,
    take_over: Annotated[bool, typer.Option("--take-over", help="Take the result of another machine.")] = False,
    commit: Annotated[
        str,
        typer.Option(
            metavar="SHA",
            help="First check out this commit, which the other machine pushed. With --take-over: delete it there.",
        ),
    ] = "",
    as_json: AsJson = False,
) -> Result:
    """Run one stage for another machine.

    For workers, in a clone of their own: fetches the inputs of the stage from the DVC remote, runs it, and pushes the
    outputs and DVC's run-cache entry. The other machine takes the result from there.

    With --here, --hand-over or --take-over: a step of `run`. Exit code 2 if a retry will not help, 3 if nothing is to
    be done.
    """
    import subprocess

    from ..releases import elsewhere
    from ..releases.pipeline import Pipeline
    from ..releases.store import Store

    if here + hand_over + take_over > 1:
        raise UserError("--here, --hand-over and --take-over exclude each other: give one of them")
    if hand_over:
        if elsewhere.is_done(stage, Pipeline(), store := Store()):
            return Result({"stage": stage, "commit": None}, f"the result of {stage} is known", code=3)
        sent = elsewhere.hand_over(stage, store)
        return Result({"stage": stage, "commit": sent}, sent)
    if here or take_over:
        stop_cleanly()
        pipeline = Pipeline()
        if elsewhere.is_fresh(stage, pipeline):
            return Result({"stage": stage, "outcome": "fresh"}, f"{stage} is up to date", code=3)
        if here:
            with _output_shown(stage):
                return _result(pipeline.run(stage))
        done = elsewhere.take_over(stage, pipeline, Store())
        if commit:
            elsewhere.forget(commit)
        return _result(done)
    if commit:
        elsewhere.check_out(commit)
        process, own_code = elsewhere.process_of(stage, *(["--json"] if as_json else []))
        # It prints the result, or why there is none.
        raise typer.Exit(subprocess.run(process, env=own_code, check=False).returncode)
    stop_cleanly()
    with _output_shown(stage):
        return _result(elsewhere.work(stage, Store()), "; its result is in the DVC remote")


@contextmanager
def _output_shown(stage: str) -> "Iterator[None]":
    """Print the stage's own output at the end: an engine shows what its command prints."""
    from ..releases.pipeline import LOGS, tail

    log = LOGS / f"{stage}.log"
    log.unlink(missing_ok=True)
    try:
        yield
    finally:
        if log.exists():
            print(tail(log), file=sys.stderr)


def _result(done: "StageResult", where: str = "") -> Result:
    data = {"stage": done.stage, "outcome": done.outcome, "seconds": round(done.seconds, 3)}
    return Result(data, f"{done.stage} {done.outcome}, {done.seconds:.1f} s{where}")


@command("track", step=True)
def track() -> Result:
    """Log the result to MLflow and make its model the challenger.

    The last step of `run`, for engines that call a command for each step. Exit code 2 if a retry will not help, 3 if a
    gate failed.
    """
    from ..releases import tracking

    tracked, failed = tracking.track(), tracking.failed_gates()
    model = (
        f"not registered: {'; '.join(failed)}"
        if failed
        else f"{tracked.model_name} version {tracked.version}, alias {tracking.CHALLENGER}"
    )
    return Result({"failed_gates": failed, **vars(tracked)}, model, code=3 if failed else 0)
