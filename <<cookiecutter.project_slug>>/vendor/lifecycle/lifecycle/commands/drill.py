"""`drill`: test the promises about faults."""

import sys
from typing import Annotated

import typer

from .command import Result, command, table


@command("drill --only worse-model --only killed-process", part="drills", scheduled=True)
def drill(
    only: Annotated[list[str] | None, typer.Option(metavar="FAULT", help="Repeatable. Default: all.")] = None,
) -> Result:
    """Inject faults into a copy of the project, and check recovery.

    The copy is temporary, and under load. Writes .lifecycle/drill.json and drill.md. Exit code 1 if a promise does
    not hold.
    """
    from ..drill.drill import REPORT, TABLE, span
    from ..drill.drill import drill as inject

    done = inject(only or [], lambda line: print(f"  {line}", file=sys.stderr, flush=True))
    rows: list[tuple[str, ...]] = [
        ("fault", "", "detected", "alerted", "resolved", "requests", "failed", "wrong", "expected")
    ]
    rows += [
        (
            row.fault,
            "passed" if row.passed else "FAILED",
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
    failed = [f"{row.fault} FAILED: {row.happened}" for row in done.rows if not row.passed]
    passed = f"{sum(row.passed for row in done.rows)} of {len(done.rows)} faults as expected, {done.rollbacks}"
    end = f"{passed}, {done.seconds:.0f} s; {REPORT}, {TABLE}"
    return Result(done.as_dict(), "\n".join([table(rows), *failed, end]), code=not done.passed)
