"""What somebody who only looks into MLflow finds there: the lineage page of a release, and its model card."""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError, one_line
from ..lifecycle import ledger as book
from ..lifecycle import registry, tracking
from ..lifecycle.ledger import Ledger
from ..lifecycle.record import Release
from ..lifecycle.store import Store
from . import card, openlineage
from .graph import of_releases
from .page import serving, write_page

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

# The artifact of the run, and the tag on the model version that says where it is.
ARTIFACT = "lineage/lineage.html"
TAG = "lineage"
LOG = Path("logs/attach.log")


def attach(release: Release, store: Store) -> tuple[str, list[str]]:
    """Put a release's page into its MLflow run, once, and its card as it is now into its model version's description.

    Returns: where the page is, empty if it is in no run; and what there is to say. Nothing depends on it.
    """
    ledger = book.load()
    if not registry.in_step(ledger):  # MLflow did not answer just now, and that was said
        return "", []
    try:
        client = tracking.open_client()
        version = _version(client, release)
        text = card.render(release, ledger, store)
        if version.description != text:
            client.update_model_version(version.name, str(version.version), text)
        return _page(client, version, release, ledger, store), []
    except Exception as error:  # whatever it is: the release stands, and is not to fail for its picture
        return "", [f"the lineage page and the card of {release.id} are not in MLflow: {one_line(error)}"]


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


def attach_later(*releases: str | None) -> None:
    """Do that for some releases, and tell OpenLineage of the ledger, in a process that nobody waits for."""
    LOG.parent.mkdir(exist_ok=True)
    with LOG.open("w", encoding="utf-8") as log:
        subprocess.Popen(
            [sys.executable, "-m", __name__, *filter(None, releases)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _attach_now(releases: list[str]) -> list[str]:
    store = Store()
    notes = registry.try_project(store)
    for release in book.load().read_releases(releases):
        notes += attach(release, store)[1]
    return notes + openlineage.tell_of_ledger()


if __name__ == "__main__":
    print(*_attach_now(sys.argv[1:]), sep="\n")
