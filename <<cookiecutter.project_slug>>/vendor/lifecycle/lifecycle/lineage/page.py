"""Render the graph as one self-contained HTML file, to save, mail or attach in MLflow.

Layout, search and drawing are in page.js. This module inserts the data so that none of it can run as code.
"""

import base64
import json
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import write_text
from ..releases.ledger import Ledger
from ..releases.record import Release
from .graph import KINDS, Graph

PAGE = Path(".lifecycle/lineage.html")
# More releases than this are on the page only on request.
SHOWN = 10


def write_page(path: Path, graph: Graph, title: str) -> None:
    """Write the page. Equal graphs give equal bytes."""
    write_text(path, render(graph, title))


def render(graph: Graph, title: str) -> str:
    """Return the page as text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader(__package__.rsplit(".", 1)[0], "lineage")
    template = Environment(loader=loader, autoescape=True, undefined=StrictUndefined).get_template("page.html.j2")
    style, script = _own("page.css"), _own("page.js")
    page: str = template.render(
        title=title,
        data=_json_in_html(graph.as_dict() | {"kinds": KINDS}),
        style=style,
        style_hash=_csp_hash(style),
        script=script,
        script_hash=_csp_hash(script),
    )
    return page


def _own(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _json_in_html(value: Any) -> str:
    """Return JSON without any `<`, so that `</script>` or `<!--` in a label has no effect."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _csp_hash(text: str) -> str:
    return f"sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}"


def choose(ledger: Ledger, asked: Iterable[str] = ()) -> list[Release]:
    """Return the releases for a page: the requested ones, or all; if there are many, the served and the newest.

    Raises:
        UserError: a release is unknown, or there is none yet.
    """
    if ids := {ledger.resolve(what) for what in asked}:
        return ledger.read_releases(sorted(ids))
    if not ledger.releases:
        raise UserError("there is no release yet: `release` makes one of what the pipeline has built")
    if len(ledger.releases) > SHOWN:
        made = [entry.release for _, entry in ledger.entries() if entry.kind == "release" and entry.release]
        ids = {*made[-SHOWN:], *serving(ledger)}
    return ledger.read_releases(sorted(ids or ledger.releases))


def serving(ledger: Ledger) -> list[str]:
    """Return the releases that the channels serve now."""
    return [channel.release for channel in ledger.channels().values() if channel.release]
