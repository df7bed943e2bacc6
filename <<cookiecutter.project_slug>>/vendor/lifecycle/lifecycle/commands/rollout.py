"""`rollout`: one pass of a release's rollout to production."""

from dataclasses import asdict

from ..monitoring.rollout import State, advance
from .result import Result, with_repairs

CODES: dict[State, int] = {"done": 0, "rolled back": 1, "waiting": 3, "held": 3}
HEADS: dict[State, str] = {
    "done": "is in production",
    "rolled back": "is rolled back",
    "waiting": "waits for",
    "held": "is held for a person",
}


def rollout(what: str) -> tuple[Result, int]:
    """Take every step that the evidence allows. Return the result and the exit code."""
    done = advance(what)
    stop = done.stop
    lines = [f"  {step}" for step in done.steps]
    lines.append(f"{done.release} {HEADS[stop.state]}" + (" " if stop.state == "waiting" else ": ") + stop.why)
    data = {
        "release": done.release,
        "state": stop.state,
        "why": stop.why,
        "steps": [asdict(step) for step in done.steps],
        "evidence": stop.evidence,
        "notes": done.notes,
    }
    return Result(data, with_repairs(done.notes, "\n".join(lines))), CODES[stop.state]
