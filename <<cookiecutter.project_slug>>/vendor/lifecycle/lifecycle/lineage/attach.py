"""What somebody who only looks into MLflow finds there: the lineage page of a release, and its model card."""

import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError, one_line
from ..files import write_text
from ..releases import ledger as book
from ..releases import registry, tracking
from ..releases.ledger import Ledger
from ..releases.record import Release
from ..releases.store import Store
from . import card, openlineage
from .graph import of_releases
from .page import serving, write_page

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

# The artifact of the run, and the tag on the model version that says where it is.
ARTIFACT = "lineage/lineage.html"
TAG = "lineage"
CARD = "lineage/model_card.md"
# What MLflow's databases have room for in a description; SQLite alone takes more.
ROOM = 5000
LOG = Path("logs/attach.log")


def attach(release: Release, store: Store) -> tuple[str, list[str]]:
    """Put a release's page into its MLflow run, once, and its card as it is now, whole and into its description.

    Returns: where the page is, empty if it is in no run; and what there is to say. Nothing depends on it.
    """
    ledger = book.load()
    if not registry.in_step(ledger):  # MLflow did not answer just now, and that was said
        return "", []
    try:
        client = tracking.open_client()
        version = _version(client, release)
        _describe(client, version, release, ledger, store)
        return _page(client, version, release, ledger, store), []
    except Exception as error:  # whatever it is: the release stands, and is not to fail for its picture
        return "", [f"the lineage page and the card of {release.id} are not in MLflow: {one_line(error)}"]


def attach_later(*releases: str | None) -> None:
    """Do that for some releases, and tell OpenLineage of the ledger, in a process that nobody waits for."""
    command = [sys.executable, "-m", __name__, *filter(None, releases)]
    with suppress(OSError):  # a full disk, say: what was decided stands
        LOG.parent.mkdir(exist_ok=True)
        with LOG.open("a", encoding="utf-8") as log:
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)


def _attach_now(*releases: str) -> list[str]:
    notes, store = openlineage.tell_of_ledger(), Store()
    notes += registry.try_project(store)
    for release in book.load().read_releases(releases):
        notes += attach(release, store)[1]
    return notes


def _describe(client: "MlflowClient", version: "ModelVersion", release: Release, ledger: Ledger, store: Store) -> None:
    text = card.render(release, ledger, store, at_most=ROOM)
    if version.description != text:
        folder, _, file = CARD.partition("/")
        with tempfile.TemporaryDirectory(prefix="card-") as made:
            whole = Path(made) / file
            write_text(whole, card.render(release, ledger, store))
            client.log_artifact(version.run_id, str(whole), folder)
        client.update_model_version(version.name, str(version.version), text)
    if client.get_run(version.run_id).data.tags.get(registry.RELEASE_TAG) != release.id:
        client.set_tag(version.run_id, registry.RELEASE_TAG, release.id)


def _version(client: "MlflowClient", release: Release) -> "ModelVersion":
    """The newest version of the release's model that is this release."""
    versions = client.search_model_versions(f"name = '{release.model['name']}'")
    own = [each for each in versions if each.tags.get(registry.RELEASE_TAG) == release.id]
    if not own:
        raise UserError("no model version there has its tag")
    return max(own, key=lambda each: int(each.version))


def _page(client: "MlflowClient", version: "ModelVersion", release: Release, ledger: Ledger, store: Store) -> str:
    """See that the page is there, drawn with what the channels serve now to compare it with."""
    if TAG in version.tags:
        return str(version.tags[TAG])
    others = ledger.read_releases(sorted({*serving(ledger)} - {release.id}))
    folder, _, file = ARTIFACT.partition("/")
    with tempfile.TemporaryDirectory(prefix="lineage-") as made:
        page = Path(made) / file
        write_page(page, of_releases([release, *others], ledger, store), version.name)
        client.log_artifact(version.run_id, str(page), folder)
    uri = f"{client.get_run(version.run_id).info.artifact_uri}/{ARTIFACT}"
    client.set_model_version_tag(version.name, str(version.version), TAG, uri)
    return uri


if __name__ == "__main__":
    for note in _attach_now(*sys.argv[1:]):
        print(note)
