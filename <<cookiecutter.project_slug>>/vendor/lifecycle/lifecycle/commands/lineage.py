"""`trace`, `impact`, `lineage`, `card` and `report`."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from ..errors import UserError
from ..files import write_text
from ..lineage import card as model_card
from ..lineage import page
from ..lineage import report as changes
from ..lineage.fact_tree import Fact
from ..lineage.graph import of_releases
from ..lineage.impact import Reach
from ..lineage.trace import Tracer
from ..predictions import ids
from ..predictions import log as predictions
from ..releases.reconcile import open_ledger
from ..releases.store import Store
from .result import Result, with_repairs


def trace(what: str, verify: bool) -> Result:
    """Show what something was made from."""
    opened = open_ledger()
    tracer = Tracer(opened.ledger, opened.store, verify)
    found = _prediction(tracer, what) if ids.PATTERN.fullmatch(what) else tracer.trace(what)
    problems = list(found.problems())
    lines = list(found.lines())
    if problems:
        lines += ["", f"{len(problems)} of these do not match:", *(f"  {line}" for line in problems)]
    elif verify:
        lines += ["", "everything matches"]
    data = found.as_dict() | {"problems": problems, "notes": opened.done}
    return Result(data, with_repairs(opened.done, "\n".join(lines)), ok=not problems)


def _prediction(tracer: Tracer, prediction_id: str) -> Fact:
    lines = predictions.find(prediction_id)
    if not lines:
        raise UserError(
            f"the prediction {prediction_id} of {ids.day(prediction_id)} is not in logs/predictions: "
            "it was made elsewhere, or was not on the disk yet when its server ended"
        )
    return tracer.prediction(prediction_id, lines)


def impact(what: str) -> Result:
    """Show what something affected."""
    opened = open_ledger()
    found = Reach(opened.ledger, opened.store, predictions.counts()).impact(what)
    data = found.as_dict(below="reaches") | {"notes": opened.done}
    return Result(data, with_repairs(opened.done, "\n".join(found.lines())))


def lineage(html: Path | None, releases: Iterable[str], as_json: bool) -> Result:
    """Write the graph over releases as a page, or return it as data for scripts."""
    opened = open_ledger()
    chosen = page.choose(opened.ledger, releases)
    graph = of_releases(chosen, opened.ledger, opened.store)
    file = html or page.PAGE
    if html or not as_json:
        page.write_page(file, graph, chosen[-1].model["name"])
    of = chosen[0].id if len(chosen) == 1 else f"{len(chosen)} releases"
    text = f"open {file}\n  {len(graph.nodes):,} nodes, {len(graph.edges):,} edges, of {of}"
    return Result(graph.as_dict() | {"notes": opened.done}, with_repairs(opened.done, text))


def card(what: str, out: Path | None) -> Result:
    """Show the model card of a release."""
    opened = open_ledger()
    release = opened.ledger.release(what)
    text = model_card.render(release, opened.ledger, opened.store)
    if out:
        write_text(out, text)
    data = {"release": release.id, "card": text, "notes": opened.done}
    return Result(data, with_repairs(opened.done, f"wrote {out}" if out else text.rstrip()))


def report(base: str) -> Result:
    """Report what the work tree changes since it branched off."""
    found = changes.report(base, Store())
    return Result(asdict(found), found.as_markdown().rstrip())
