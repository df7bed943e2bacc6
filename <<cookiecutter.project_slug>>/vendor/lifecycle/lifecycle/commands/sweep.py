"""`sweep`: search for better training settings."""

from typing import Annotated

import typer

from .command import Result, command, table


@command("sweep --apply")
def sweep(
    apply: Annotated[bool, typer.Option("--apply", help="Write the best settings to params.yaml.")] = False,
) -> Result:
    """Search for better training settings.

    Tries the settings that params.yaml declares under sweep. Each trial trains in a folder of its own. It is judged on
    the validation months, never on the holdout. A trial with a known result does not run again, so after a kill the
    same command completes the sweep.
    """
    from ..params import PARAMS_FILE, load_params
    from ..releases import sweep as search

    params = load_params()
    found = search.sweep(params, apply)
    metric = params.sweep.metric if params.sweep else ""
    best = found.trials[0]
    names = sorted({name for trial in found.trials for name in trial.values})
    rows = [
        (str(trial.number or "now"), f"{trial.loss:.6f}", *(str(trial.values.get(name, "")) for name in names))
        for trial in found.trials
    ]
    if not found.diff:
        verdict = f"No trial is better than the settings in {PARAMS_FILE}."
    elif apply:
        verdict = f"{found.diff}\nWritten to {PARAMS_FILE}. `run` measures its model on the holdout."
    else:
        verdict = f"{found.diff}\n`sweep --apply` writes this to {PARAMS_FILE}."
    data = {
        "metric": metric,
        "trials": [{"trial": each.number, "loss": each.loss, "values": each.values} for each in found.trials],
        "best": best.number,
        "diff": found.diff,
        "applied": apply and bool(found.diff),
        "run_id": found.run_id,
    }
    # A space has settings of `train` alone.
    head = table([("trial", metric, *(name.removeprefix("train.") for name in names)), *rows])
    return Result(data, f"{head}\n{verdict}\nMLflow run {found.run_id[:8]}")
