"""`run-stage`: run one stage for another machine."""

from typing import Annotated

import typer

from .command import AsJson, Result, command


@command("run-stage train --commit 3f2a9c1")
def run_stage(
    stage: Annotated[str, typer.Argument(help="A stage of dvc.yaml.")],
    commit: Annotated[
        str, typer.Option(metavar="SHA", help="First check out this commit, which the other machine pushed.")
    ] = "",
    as_json: AsJson = False,
) -> Result:
    """Run one stage for another machine.

    For workers, in a clone of their own: fetches the inputs of the stage from the DVC remote, runs it, and pushes the
    outputs and DVC's run-cache entry. The other machine takes the result from there.
    """
    import subprocess

    from ..releases import elsewhere
    from ..releases.store import Store

    if commit:
        elsewhere.check_out(commit)
        process, own_code = elsewhere.process_of(stage, *(["--json"] if as_json else []))
        # It prints the result, or why there is none.
        raise typer.Exit(subprocess.run(process, env=own_code, check=False).returncode)
    done = elsewhere.work(stage, Store())
    data = {"stage": done.stage, "outcome": done.outcome, "seconds": round(done.seconds, 3)}
    return Result(data, f"{done.stage} {done.outcome}, {done.seconds:.1f} s; its result is in the DVC remote")
