"""`trace`, `impact`, `lineage`, `card` and `report`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UserError
from .command import Release, Result, command, with_repairs

if TYPE_CHECKING:
    from ..lineage.fact_tree import Fact
    from ..lineage.trace import Tracer


@command("trace production@2013-08-01T12:00 --verify")
def trace(
    what: Annotated[
        str, typer.Argument(help="A channel (CHANNEL@TIME for a moment), release, prediction, file, model or column.")
    ],
    verify: Annotated[bool, typer.Option("--verify", help="Hash the files of the release again.")] = False,
) -> Result:
    """Trace a result to its bytes, SQL, code, parameters and people. Exit code 1 if anything differs."""
    from ..lineage.trace import Tracer
    from ..predictions import ids
    from ..releases.reconcile import open_ledger

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
    return Result(data, with_repairs(opened.done, "\n".join(lines)), code=bool(problems))


def _prediction(tracer: "Tracer", prediction_id: str) -> "Fact":
    from ..params import load_params
    from ..predictions import ids, sharing
    from ..predictions import log as predictions

    day, store = ids.day(prediction_id), load_params().serving.log.store
    lines = predictions.find(prediction_id)
    if not lines and sharing.collect(store, day, day):
        lines = predictions.find(prediction_id)
    if not lines:
        raise UserError(
            f"the prediction {prediction_id} of {day} is not in logs/predictions{f' or {store}' if store else ''}: "
            "it was made elsewhere, or was not on the disk yet when its server ended"
        )
    return tracer.prediction(prediction_id, lines)


@command("impact 2013-06")
def impact(
    what: Annotated[str, typer.Argument(help="A raw file, month, source column, model, commit or parameter.")],
) -> Result:
    """Show the features, releases and channels that an input reached.

    Says when the channels served it.
    """
    from ..lineage.impact import Reach
    from ..predictions import log as predictions
    from ..releases.reconcile import open_ledger

    opened = open_ledger()
    found = Reach(opened.ledger, opened.store, predictions.counts()).impact(what)
    data = found.as_dict(below="reaches") | {"notes": opened.done}
    return Result(data, with_repairs(opened.done, "\n".join(found.lines())))


@command("lineage --html lineage.html --release production")
def lineage(
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", resolve_path=True, help="Where to write the page. Default: .lifecycle/lineage.html."
        ),
    ] = None,
    release: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RELEASE", help="Repeatable. Default: all; of more than ten, those in channels and the newest."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the graph as JSON; write a page only with --html.")
    ] = False,
) -> Result:
    """Write the lineage of releases as one page.

    On the page, search, follow links and compare two releases.
    """
    from ..lineage import page
    from ..lineage.graph import of_releases
    from ..releases.reconcile import open_ledger

    opened = open_ledger()
    chosen = page.choose(opened.ledger, release or [])
    graph = of_releases(chosen, opened.ledger, opened.store)
    file = html or page.PAGE
    if html or not as_json:
        page.write_page(file, graph, chosen[-1].model["name"])
    of = chosen[0].id if len(chosen) == 1 else f"{len(chosen)} releases"
    text = f"open {file}\n  {len(graph.nodes):,} nodes, {len(graph.edges):,} edges, of {of}"
    return Result(graph.as_dict() | {"notes": opened.done}, with_repairs(opened.done, text))


@command("card production --out card.md")
def card(
    release: Release,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", resolve_path=True, help="Write the card to a file.")
    ] = None,
) -> Result:
    """Print the model card of a release.

    Intended use, data, features and their sources, metrics, gates, approvals and limits.
    """
    from ..files import write_text
    from ..lineage.card import render
    from ..releases.reconcile import open_ledger

    opened = open_ledger()
    found = opened.ledger.release(release)
    text = render(found, opened.ledger, opened.store)
    if out:
        write_text(out, text)
    data = {"release": found.id, "card": text, "notes": opened.done}
    return Result(data, with_repairs(opened.done, f"wrote {out}" if out else text.rstrip()))


@command("report --base origin/main > report.md")
def report(
    base: Annotated[str, typer.Option(metavar="REV", help="The branch or commit to compare with.")] = "main",
) -> Result:
    """Report the effect of a change, as Markdown.

    Compares metrics, gates, source files, outputs, parameters and SQL.
    """
    from ..lineage import report as changes
    from ..releases.store import Store

    found = changes.report(base, Store())
    return Result(asdict(found), found.as_markdown().rstrip())
