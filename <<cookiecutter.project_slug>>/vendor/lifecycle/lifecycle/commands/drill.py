"""`drill`: test the promises about faults."""

import sys

from ..drill.drill import REPORT, TABLE, drill, span
from .result import Result, table


def hold(names: list[str]) -> Result:
    """Run a drill, reporting progress on standard error."""
    done = drill(names, lambda line: print(f"  {line}", file=sys.stderr, flush=True))
    rows: list[tuple[str, ...]] = [
        ("fault", "", "detected", "alerted", "resolved", "requests", "failed", "wrong", "expected")
    ]
    rows += [
        (
            row.fault,
            "held" if row.held else "FAILED",
            span(row.to_detect),
            span(row.to_alert),
            span(row.to_restore),
            f"{row.requests}",
            f"{row.failed}",
            f"{row.wrong}",
            row.expected,
        )
        for row in done.rows
    ]
    failed = [f"{row.fault} FAILED: {row.happened}" for row in done.rows if not row.held]
    held = f"{sum(row.held for row in done.rows)} of {len(done.rows)} faults as expected, {done.rollbacks}"
    end = f"{held}, {done.seconds:.0f} s; {REPORT}, {TABLE}"
    return Result(done.as_dict(), "\n".join([table(rows), *failed, end]), ok=done.held)
