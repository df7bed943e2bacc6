"""The graph as a page: one HTML file that fetches nothing, for a disk, a mail or MLflow.

The layout, the search and the drawing are page.js; here the data goes in, so that nothing in it can run.
"""

import base64
import json
import tempfile
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError, one_line
from ..files import write_text
from ..lifecycle import ledger as book
from ..lifecycle import registry, tracking
from ..lifecycle.ledger import Ledger
from ..lifecycle.record import Release
from ..lifecycle.store import Store
from .graph import KINDS, Graph, of_releases

if TYPE_CHECKING:
    from mlflow import MlflowClient

PAGE = Path(".lifecycle/lineage.html")
# In MLflow: the artifact of the run, and the tag on the model version that says where it is.
ARTIFACT = "lineage/lineage.html"
TAG = "lineage"
# More releases than this are on the page only if somebody asks for them.
SHOWN = 10


def write_page(path: Path, graph: Graph, title: str) -> None:
    """Write the page. Equal graphs give equal bytes."""
    write_text(path, render(graph, title))


def render(graph: Graph, title: str) -> str:
    """The page as text."""
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
    """JSON that holds no `<`: `</script>` in a label ends nothing, and `<!--` begins nothing."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _csp_hash(text: str) -> str:
    return f"sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}"


def choose(ledger: Ledger, asked: Iterable[str] = ()) -> list[Release]:
    """The releases for a page: those asked for; else all, or of many those that serve and the newest.

    Raises:
        UserError: one is not known, or there is none yet.
    """
    if ids := {ledger.resolve(what) for what in asked}:
        return ledger.read_releases(sorted(ids))
    if not ledger.releases:
        raise UserError("there is no release yet: `release` makes one of what the pipeline has built")
    if len(ledger.releases) > SHOWN:
        made = [entry.release for _, entry in ledger.entries() if entry.kind == "release" and entry.release]
        ids = {*made[-SHOWN:], *_serving(ledger)}
    return ledger.read_releases(sorted(ids or ledger.releases))


def _serving(ledger: Ledger) -> list[str]:
    return [channel.release for channel in ledger.channels().values() if channel.release]


def attach(release: Release, store: Store) -> tuple[str, list[str]]:
    """Put a release's page into its MLflow run, once, with what the channels serve now to compare it with.

    Returns: where the page is, empty if it is in no run; and what there is to say. Nothing depends on it.
    """
    ledger = book.load()
    if not registry.in_step(ledger):  # MLflow did not answer just now, and that was said
        return "", []
    try:
        return _attach(tracking.open_client(), release, ledger, store), []
    except Exception as error:  # whatever it is: the release stands, and is not to fail for its picture
        return "", [f"the lineage page of {release.id} is not in MLflow: {one_line(error)}"]


def _attach(client: "MlflowClient", release: Release, ledger: Ledger, store: Store) -> str:
    name = release.model["name"]
    versions = client.search_model_versions(f"name = '{name}'")
    version = max(
        (each for each in versions if each.tags.get(registry.RELEASE_TAG) == release.id),
        key=lambda each: int(each.version),
        default=None,
    )
    if version is None:
        raise UserError("no model version there has its tag")
    if TAG in version.tags:
        return str(version.tags[TAG])
    others = ledger.read_releases(sorted({*_serving(ledger)} - {release.id}))
    folder, _, file = ARTIFACT.partition("/")
    with tempfile.TemporaryDirectory(prefix="lineage-") as made:
        page = Path(made) / file
        write_page(page, of_releases([release, *others], ledger, store), name)
        client.log_artifact(version.run_id, str(page), folder)
    uri = f"{client.get_run(version.run_id).info.artifact_uri}/{ARTIFACT}"
    client.set_model_version_tag(name, str(version.version), TAG, uri)
    return uri
