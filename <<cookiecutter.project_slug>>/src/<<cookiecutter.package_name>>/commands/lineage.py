"""`trace` and `impact`."""

from ..lifecycle.reconcile import open_ledger
from ..lineage.impact import Reach
from ..lineage.trace import Tracer
from .shown import Shown, with_repairs


def trace(what: str, verify: bool) -> Shown:
    """What something was made from."""
    opened = open_ledger()
    found = Tracer(opened.ledger, opened.store, verify).trace(what)
    problems = list(found.problems())
    lines = list(found.lines())
    if problems:
        lines += ["", f"{len(problems)} of these do not match:", *(f"  {line}" for line in problems)]
    elif verify:
        lines += ["", "everything matches"]
    data = found.as_dict() | {"problems": problems, "notes": opened.done}
    return Shown(data, with_repairs(opened.done, "\n".join(lines)), ok=not problems)


def impact(what: str) -> Shown:
    """What something reached."""
    opened = open_ledger()
    found = Reach(opened.ledger, opened.store).impact(what)
    data = found.as_dict(below="reaches") | {"notes": opened.done}
    return Shown(data, with_repairs(opened.done, "\n".join(found.lines())))
