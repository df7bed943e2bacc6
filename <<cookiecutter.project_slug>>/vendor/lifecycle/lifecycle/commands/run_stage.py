"""`run-stage`: run one stage for another machine."""

from pathlib import Path
from typing import Annotated

import typer

from .command import Result, command


@command("run-stage train --commit 3f2a9c1")
def run_stage(
    stage: Annotated[str, typer.Argument(help="A stage of dvc.yaml.")],
    commit: Annotated[
        str, typer.Option(metavar="SHA", help="First check out this commit, which the other machine pushed.")
    ] = "",
) -> Result:
    """Run one stage for another machine.

    For workers, in a clone of their own: fetches the inputs of the stage from the DVC remote, runs it, and pushes the
    outputs and DVC's run-cache entry. The other machine takes the result from there.
    """
    from ..releases import elsewhere
    from ..releases.store import Store

    if commit:
        elsewhere.check_out(commit)
        return Result(*_in_a_new_process(stage))
    done = elsewhere.work(stage, Store())
    data = {"stage": done.stage, "outcome": done.outcome, "seconds": round(done.seconds, 3)}
    return Result(data, f"{done.stage} {done.outcome}, {done.seconds:.1f} s; its result is in the DVC remote")


def _in_a_new_process(stage: str) -> tuple[dict[str, object], str, int]:
    """Run the same command with the code of the commit, which may be another than this process has loaded."""
    import json
    import os
    import subprocess
    import sys

    from .. import project

    command = [sys.executable, "-m", "lifecycle.cli", "run-stage", stage, "--json"]
    own_code = os.environ | {"PYTHONPATH": project.python_path(Path.cwd())}
    done = subprocess.run(command, env=own_code, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise typer.Exit(done.returncode)  # the process has said why
    data = json.loads(done.stdout)
    return data, f"{stage} {data['outcome']}, {data['seconds']:.1f} s; its result is in the DVC remote", 0
