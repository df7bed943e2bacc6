"""What MLflow shows of a release: the lineage page where its tag says, and the model card as it is now."""

import shutil
from pathlib import Path
from typing import Any

from lifecycle.commands.channels import promote, rollback
from lifecycle.commands.release import approve_release
from lifecycle.releases import ledger, registry, tracking
from lifecycle.releases.store import Store
from lifecycle.lineage import attach, card

from lifecycle.testing import Releases, wait_until

OBJECTS = (".dvc/cache/files", ".dvc-remote/files")


def version_of(release_id: str) -> Any:
    name = ledger.load().release(release_id).model["name"]
    versions = tracking.open_client().search_model_versions(f"name = '{name}'")
    [version] = [each for each in versions if each.tags.get("release") == release_id]
    return version


def test_a_release_has_its_page_in_mlflow_where_its_tag_says(releases: Releases) -> None:
    client = tracking.open_client()
    for release_id in (releases.first, releases.second):
        version = version_of(release_id)
        assert attach.ARTIFACT in [each.path for each in client.list_artifacts(version.run_id, "lineage")]
        assert release_id in Path(version.tags["lineage"].removeprefix("file://")).read_text(encoding="utf-8")


def described(release_id: str) -> bool:
    """Whether its card in MLflow is what holds now, whole in the run and as far as there is room in the description."""
    release, book, version = ledger.load().release(release_id), ledger.load(), version_of(release_id)
    whole = Path(version.tags["lineage"].removeprefix("file://")).with_name("model_card.md")
    return bool(
        version.description == card.render(release, book, Store(), at_most=attach.ROOM)
        and whole.read_text(encoding="utf-8") == card.render(release, book, Store())
        and len(version.description) <= attach.ROOM
    )


def test_the_cards_follow_approvals_and_promotions_of_the_one_and_of_the_other(releases: Releases) -> None:
    wait_until(lambda: described(releases.second))
    approve_release(releases.second, "looks good", "")
    wait_until(lambda: "looks good" in version_of(releases.second).description)
    promote(releases.second, "production", "", "", None)
    wait_until(lambda: "production, generation 2" in version_of(releases.second).description)
    wait_until(lambda: described(releases.first) and described(releases.second))  # the one before it, too


def test_the_cards_follow_a_rollback_soon(releases: Releases) -> None:
    promote(releases.second, "production", "", "", None)
    rollback("production", "", "it smells", None)
    wait_until(lambda: described(releases.first) and described(releases.second))
    assert "In quarantine: it smells." in version_of(releases.second).description


def test_who_looks_at_a_run_sees_the_release(releases: Releases) -> None:
    client = tracking.open_client()
    for release_id in (releases.first, releases.second):
        assert client.get_run(version_of(release_id).run_id).data.tags["release"] == release_id


def test_a_page_that_cannot_be_made_is_a_note_and_nothing_worse(releases: Releases) -> None:
    release, store = ledger.load().release(releases.second), Store()
    assert registry.try_project(store) == []
    version = version_of(release.id)
    assert attach.attach(release, store) == (version.tags["lineage"], [])
    tracking.open_client().delete_model_version_tag(version.name, str(version.version), "lineage")
    for objects in OBJECTS:
        shutil.move(objects, f"{objects}.away")
    uri, [note] = attach.attach(release, store)
    assert uri == ""
    assert note.startswith(f"the lineage page and the card of {release.id} are not in MLflow: ")
    for objects in OBJECTS:
        shutil.move(f"{objects}.away", objects)
    uri, notes = attach.attach(release, store)
    assert (version_of(release.id).tags["lineage"], notes) == (uri, [])
