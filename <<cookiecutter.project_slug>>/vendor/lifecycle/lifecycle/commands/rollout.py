"""`rollout`: one pass of a release's rollout to production."""

from dataclasses import asdict
from typing import Annotated

import typer

from .command import Result, command, with_repairs

# State of the rollout -> what is said of it, and the exit code.
STATES = {
    "done": ("is in production", 0),
    "rolled back": ("is rolled back", 1),
    "waiting": ("waits for", 3),
    "stopped": ("needs a person", 3),
}


@command("rollout r-3f2a", part="monitoring", scheduled=True)
def rollout(
    release: Annotated[str, typer.Argument(metavar="[RELEASE]", help="Default: the staging release.")] = "",
) -> Result:
    """Roll out a release step by step, as measurements allow.

    Run it repeatedly. Each run takes every step that is due, and says what the next one waits for. The steps: staging,
    shadow, canary at growing shares, production; bounds in params.yaml (rollout). Exit code 0 when production serves
    the release, 1 when it was rolled back, 3 while it waits or needs a person.
    """
    from ..monitoring.rollout import advance, nothing_staged

    if not release and (why := nothing_staged()):
        return Result({"state": "waiting", "why": why}, why, STATES["waiting"][1])
    done = advance(release or "staging")
    stop = done.stop
    head, code = STATES[stop.state]
    lines = [f"  {step}" for step in done.steps]
    lines.append(f"{done.release} {head}{' ' if stop.state == 'waiting' else ': '}{stop.why}")
    data = {
        "release": done.release,
        "state": stop.state,
        "why": stop.why,
        "steps": [asdict(step) for step in done.steps],
        "evidence": stop.evidence,
        "notes": done.notes,
    }
    return Result(data, with_repairs(done.notes, "\n".join(lines)), code)
