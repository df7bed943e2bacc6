"""What MLflow shows of a release: the lineage page where its tag says, and the model card as it is now."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from lifecycle.commands.channels import promote, rollback
from lifecycle.commands.release import approve
from lifecycle.lineage import card, mlflow_pages
from lifecycle.releases import ledger, operations, registry, tracking
from lifecycle.releases.store import Store
from lifecycle.testing import Releases, cli_json, is_quiet, wait_until

OBJECTS = (".dvc/cache/files", ".dvc-remote/files")


def version_of(release_id: str) -> Any:
    name = ledger.load().release(release_id).model["name"]
    versions = tracking.open_client().search_model_versions(f"name = '{name}'")
    [version] = [each for each in versions if each.tags.get("release") == release_id]
    return version


def read(uri: str) -> str:
    """An artifact of a run, by `runs:/`."""
    _, run_id, path = uri.split("/", 2)
    return Path(tracking.open_client().download_artifacts(run_id, path)).read_text(encoding="utf-8")


def test_a_release_has_its_page_in_mlflow_where_its_tag_says(releases: Releases) -> None:
    for release_id in (releases.first, releases.second):
        version = version_of(release_id)
        assert version.tags["lineage"] == f"runs:/{version.run_id}/lineage/{release_id}/lineage.html"
        assert release_id in read(version.tags["lineage"])


def described(release_id: str) -> bool:
    """Whether its card in MLflow is what holds now, whole in the run and as far as there is room in the description."""
    release, book, version = ledger.load().release(release_id), ledger.load(), version_of(release_id)
    whole = version.tags["lineage"].replace("lineage.html", "model_card.md")
    return bool(
        version.description == card.render(release, book, Store(), at_most=mlflow_pages.ROOM)
        and read(whole) == card.render(release, book, Store())
        and len(version.description) <= mlflow_pages.ROOM
    )


def test_the_cards_follow_approvals_and_promotions_of_the_one_and_of_the_other(releases: Releases) -> None:
    wait_until(lambda: described(releases.second))
    approve(releases.second, "looks good")
    wait_until(lambda: "looks good" in version_of(releases.second).description)
    promote(releases.second, "production")
    wait_until(lambda: "production, generation 2" in version_of(releases.second).description)
    wait_until(lambda: described(releases.first) and described(releases.second))  # the one before it, too


def test_the_cards_follow_a_rollback_soon(releases: Releases) -> None:
    promote(releases.second, "production")
    rollback("production", "it smells")
    wait_until(lambda: described(releases.first) and described(releases.second))
    assert "In quarantine: it smells." in version_of(releases.second).description


def test_who_looks_at_a_run_sees_the_release(releases: Releases) -> None:
    client = tracking.open_client()
    for release_id in (releases.first, releases.second):
        assert client.get_run(version_of(release_id).run_id).data.tags["release"] == release_id


def test_a_page_that_cannot_be_made_is_a_note_and_nothing_worse(releases: Releases) -> None:
    release, store = ledger.load().release(releases.second), Store()
    version = version_of(release.id)
    assert mlflow_pages.attach(release, store) == (version.tags["lineage"], [])
    registry.DESCRIBED.unlink()
    for objects in OBJECTS:
        shutil.move(objects, f"{objects}.away")
    uri, notes = mlflow_pages.attach(release, store)
    assert uri == ""
    assert [note.split(" are not in MLflow: ")[0] for note in notes] == [
        f"the lineage page and the card of {each}" for each in sorted([releases.first, releases.second])
    ]
    for objects in OBJECTS:
        shutil.move(f"{objects}.away", objects)
    assert mlflow_pages.attach(release, store) == (version.tags["lineage"], [])


def test_an_automatic_rollback_reaches_mlflow_whoever_decided_it(releases: Releases) -> None:
    operations.promote(releases.second, "production", automation=True)
    operations.rollback("production", "it smells", automation=True)
    wait_until(lambda: described(releases.first) and described(releases.second))
    assert "production, generation 3: " in version_of(releases.first).description
    assert [line for line in version_of(releases.second).description.splitlines() if line.endswith(" to now")] == [
        line for line in version_of(releases.second).description.splitlines() if line.startswith("- staging, gen")
    ]
    assert cli_json("doctor")["done"] == []


def test_a_move_while_mlflow_is_updated_is_followed_too(releases: Releases, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "project_later", lambda: None)  # nobody else does it
    operations.promote(releases.second, "production")
    render, moved = card.render, []

    def move_meanwhile(*arguments: Any, **named: Any) -> str:
        if not moved:
            moved.append(operations.rollback("production", "it smells").result.release)
        return render(*arguments, **named)

    monkeypatch.setattr(card, "render", move_meanwhile)
    assert mlflow_pages.follow(Store()) == []
    assert moved == [releases.first]
    assert described(releases.first)
    assert described(releases.second)
    assert registry.in_step(ledger.load(), registry.DESCRIBED)


def test_doctor_names_and_repairs_whatever_a_hand_has_changed(releases: Releases) -> None:
    wait_until(lambda: is_quiet(releases.folder))
    assert cli_json("doctor")["done"] == []
    client, first, second = tracking.open_client(), version_of(releases.first), version_of(releases.second)
    name, one, two = first.name, str(first.version), str(second.version)
    extra = client.create_model_version(name, second.source, second.run_id, await_creation_for=0)
    three = str(extra.version)
    for tag, value in (("release", releases.first), ("release_digest", "forged"), ("lineage", "forged")):
        client.set_model_version_tag(name, three, tag, value)
    client.set_model_version_tag(name, two, "release", releases.first)
    client.set_model_version_tag(name, two, "result_digest", "forged")
    client.set_model_version_tag(name, one, "lineage", "forged")
    client.update_model_version(name, one, "production, generation 7: to now")
    client.set_tag(first.run_id, "release", releases.second)
    client.set_registered_model_alias(name, "challenger", one)
    [page] = Path("mlartifacts").rglob(f"lineage/{releases.second}/lineage.html")
    page.write_text("forged", encoding="utf-8")
    done = "\n".join(cli_json("doctor")["done"])
    for expected in (
        f"{name} version {three} loses the tag release=",
        f"{name} version {three} loses the tag release_digest=",
        f"{name} version {three} loses the tag lineage=",
        f"{name} version {two} is tagged release={releases.second}",
        f"{name} version {two} is tagged result_digest=",
        f"run {first.run_id[:8]} is tagged release={releases.first}",
        f"alias challenger is {name} version ",
        f"{name} version {one} ({releases.first}): the description, the tag lineage written again",
        f"{name} version {two} ({releases.second}): lineage.html written again",
    ):
        assert expected in done, done
    assert described(releases.first)
    assert described(releases.second)
    assert "forged" not in read(second.tags["lineage"])
    assert cli_json("doctor")["done"] == []
