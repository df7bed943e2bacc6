"""Show each release's model card and lineage page in MLflow, generated from the ledger.

Like the aliases, all of it is a projection: `_shown` computes the target state, `_apply` writes the differences.
"""

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError, one_line, redacted_traceback
from ..files import write_text
from ..releases import ledger as book
from ..releases import registry, tracking
from ..releases.ledger import Ledger
from ..releases.record import Release
from ..releases.store import Store
from . import card, openlineage
from .graph import of_releases
from .page import render

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

# Artifacts of the run, in a folder for each release: releases that differ only in code have the same run.
FOLDER = "lineage"
PAGE, CARD = "lineage.html", "model_card.md"
# The maximum length of a description in MLflow's databases; only SQLite allows more.
ROOM = 5000


@dataclass(frozen=True)
class Result:
    """The target state of a release's model version: its description, and the artifacts of its run by path."""

    description: str
    artifacts: dict[str, str]


def attach(release: Release, store: Store) -> tuple[str, list[str]]:
    """Bring MLflow in step with the ledger; nothing depends on it.

    Returns: the location of the release's lineage page, or an empty string if there is none; and notes.
    """
    if not registry.in_step(book.load()):
        return "", []  # MLflow did not answer, which was already reported, or the ledger has moved: see project_later
    if notes := follow(store):
        return "", notes
    try:
        version = _versions(tracking.open_client(), [release])[release.id]
    except Exception as error:  # whatever the error, the release must not fail because of its page
        return "", [f"the lineage page of {release.id} cannot be looked up in MLflow: {one_line(error)}"]
    return version.tags.get(registry.PAGE_TAG, ""), []


def follow(store: Store) -> list[str]:
    """Bring everything shown in MLflow in step with the ledger, even if that moves meanwhile. Return problems."""
    try:
        with registry.alone(registry.DESCRIBED):
            while (ledger := book.load()).releases and not registry.in_step(ledger, registry.DESCRIBED):
                if problems := registry.try_project(store) or _project(ledger, _touched(ledger), store)[1]:
                    return problems
                registry.note(registry.DESCRIBED, ledger)
    except Exception as error:  # whatever the error, the decision stands
        return [f"cards and lineage pages in MLflow could not be updated: {one_line(error)}. `doctor` tries again"]
    return []


def put_right(store: Store) -> list[str]:
    """Compare every release's card and page in MLflow with the ledger. Return what was repaired, and problems."""
    with registry.alone(registry.DESCRIBED):
        ledger = book.load()
        done, problems = _project(ledger, ledger.read_releases(ledger.releases), store)
        if not problems:
            registry.note(registry.DESCRIBED, ledger)
    return done + problems


def _touched(ledger: Ledger) -> list[Release]:
    """Return the releases whose content in MLflow may be out of date."""
    entries = ledger.entries()
    commits = [commit for commit, _ in entries]
    noted = registry.noted(registry.DESCRIBED)
    new = entries[commits.index(noted) + 1 :] if noted in commits else entries
    moved = {name for _, entry in new for name in (entry.release, entry.previous) if name}
    return [each for each in ledger.read_releases(ledger.releases) if {each.id, _champion(each)} & moved]


def _champion(release: Release) -> str | None:
    """Return the release that production served when this one was released."""
    return (release.observed.get("comparison") or {}).get("champion")


def _project(ledger: Ledger, releases: Iterable[Release], store: Store) -> tuple[list[str], list[str]]:
    """Write the differences for these releases. Return what was done, and what could not be done."""
    if not (releases := list(releases)):
        return [], []
    done: list[str] = []
    problems: list[str] = []
    with registry.in_words():
        client = tracking.open_client()
        versions = _versions(client, releases)
        for release in releases:
            try:
                shown = _shown(release, ledger, store)
                done += _apply(client, versions[release.id], release, shown)
            except (UserError, KeyError) as error:
                problems.append(f"the lineage page and the card of {release.id} are not in MLflow: {one_line(error)}")
    return done, problems


def _versions(client: "MlflowClient", releases: Iterable[Release]) -> dict[str, "ModelVersion"]:
    """Return release -> version. Each has one tag of its own once the registry is in step."""
    names = {release.model["name"] for release in releases}
    found = (each for name in sorted(names) for each in client.search_model_versions(f"name = '{name}'"))
    return {each.tags[registry.RELEASE_TAG]: each for each in found if registry.RELEASE_TAG in each.tags}


def _shown(release: Release, ledger: Ledger, store: Store) -> Result:
    """Return the target state. The page compares with the release that production served at the time."""
    champion = _champion(release)
    others = ledger.read_releases([champion]) if champion in ledger.releases else []
    return Result(
        card.render(release, ledger, store, at_most=ROOM),
        {
            f"{FOLDER}/{release.id}/{PAGE}": render(
                of_releases([release, *others], ledger, store), release.model["name"]
            ),
            f"{FOLDER}/{release.id}/{CARD}": card.render(release, ledger, store),
        },
    )


def _apply(client: "MlflowClient", version: "ModelVersion", release: Release, shown: Result) -> list[str]:
    """Write what differs from the target state. Return what was written."""
    name, number, run_id = version.name, str(version.version), version.run_id
    written = []
    for path, text in shown.artifacts.items():
        if _read(client, run_id, path) != text:
            with tempfile.TemporaryDirectory(prefix="attach-") as made:
                file = Path(made) / Path(path).name
                write_text(file, text)
                client.log_artifact(run_id, str(file), str(Path(path).parent))
            written.append(file.name)
    if version.description != shown.description:
        client.update_model_version(name, number, shown.description)
        written.append("the description")
    page = f"runs:/{run_id}/{FOLDER}/{release.id}/{PAGE}"
    if version.tags.get(registry.PAGE_TAG) != page:
        client.set_model_version_tag(name, number, registry.PAGE_TAG, page)
        written.append(f"the tag {registry.PAGE_TAG}")
    return [f"{name} version {number} ({release.id}): {', '.join(written)} written again"] if written else []


def _read(client: "MlflowClient", run_id: str, path: str) -> str | None:
    from mlflow.exceptions import MlflowException

    with tempfile.TemporaryDirectory(prefix="attached-") as folder:
        try:
            return Path(client.download_artifacts(run_id, path, folder)).read_text(encoding="utf-8")
        except (MlflowException, OSError, UnicodeDecodeError):  # it does not exist, or is not text
            return None


if __name__ == "__main__":
    with redacted_traceback():
        for line in [*openlineage.tell_of_ledger(), *follow(Store())]:
            print(line)
