"""The model card says what the record, the SQL, the reports and the ledger say."""

import json
from pathlib import Path

import pytest

from lifecycle.lineage import card, structure
from lifecycle.lineage.structure import Column
from lifecycle.releases import approving, channels, ledger
from lifecycle.releases.store import Store
from lifecycle.testing import Releases, cli, commit_all


@pytest.fixture
def text(releases: Releases) -> str:
    return card.render(ledger.load().release(releases.second), ledger.load(), Store())


def section(text: str, title: str) -> str:
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_every_number_and_gate_of_the_record_is_on_it(text: str, releases: Releases) -> None:
    release = ledger.load().release(releases.second)
    for name, value in release.evidence["metrics"].items():
        if not isinstance(value, dict):
            assert f"| {name} | {value} |" in section(text, "Metrics on the holdout")
    for gate in release.evidence["gates"]:
        row = next(line for line in section(text, "Gates").splitlines() if line.startswith(f"| {gate['name']} |"))
        assert f"| {gate['value']} | {'passes' if gate['pass'] else 'fails'} |" in row
    assert releases.first in section(text, "Metrics on the holdout")  # the champion it was measured beside
    assert release.commit in section(text, "Made from")


def test_every_feature_is_there_with_the_source_columns_it_comes_from(text: str, releases: Releases) -> None:
    release = ledger.load().release(releases.second)
    sql = structure.of_release(release, Store())
    table = sql.find(Path(release.model["feature_table"]).stem)
    assert table is not None
    rows = {line.split(" | ")[0].strip("| "): line for line in section(text, "Features").splitlines()}
    for name in release.model["features"]:
        origins = [each for each in sql.upstream(Column(table.id, name)) if sql.nodes[each.node].kind == "source"]
        assert all(f"{sql.nodes[each.node].name}.{each.name}" in rows[name] for each in origins)
        assert ("no column" in rows[name]) == (not origins)


def test_slices_are_the_largest_groups_of_the_report(text: str) -> None:
    slices = json.loads(Path(card.SLICES).read_text(encoding="utf-8"))
    for column, groups in slices.items():
        largest = max(groups, key=lambda group: groups[group]["rows"])
        assert f"| {column} |" in section(text, "Slices")
        assert f"| {largest} |" in section(text, "Slices")


def test_approvals_and_channels_are_those_of_the_ledger(text: str, releases: Releases) -> None:
    assert "not signed, by who released it" in section(text, "Approvals")
    assert "- staging, generation" in section(text, "Served")
    channels.rollback(ledger.load(), "staging", Store(), reason="it smells", to=releases.first)
    after = card.render(ledger.load().release(releases.second), ledger.load(), Store())
    assert "In quarantine: it smells." in section(after, "Served")
    assert " to now" not in section(after, "Served")


def test_with_little_room_the_longest_sections_make_way_and_say_so(releases: Releases, text: str) -> None:
    release = ledger.load().release(releases.second)
    short = card.render(release, ledger.load(), Store(), at_most=len(text) - 1)
    assert len(short) < len(text)
    assert short.count("\n## ") == text.count("\n## ")
    assert short.count(card.LEFT_OUT) == 1
    assert "| passes |" in short
    assert len(card.render(release, ledger.load(), Store(), at_most=300)) <= 300
    assert card.render(release, ledger.load(), Store(), at_most=len(text)) == text


def test_what_people_write_breaks_no_table_and_no_list(releases: Releases) -> None:
    approving.approve(ledger.load(), ledger.load().release(releases.first), "fine\n## Gates\n| none |", "")
    text = card.render(ledger.load().release(releases.first), ledger.load(), Store())
    assert "fine ## Gates / none /" in section(text, "Approvals")
    assert text.count("\n## Gates\n") == 1


def test_the_intended_use_is_that_of_the_release(releases: Releases) -> None:
    """The projects of tests have none; one written after a release is not the release's."""
    missing = f"Nobody had written {card.INTENDED_USE}"
    Path(card.INTENDED_USE).parent.mkdir(exist_ok=True)
    Path(card.INTENDED_USE).write_text("For tests.\n", encoding="utf-8")
    commit_all(releases.folder, "What it is for")
    assert missing in card.render(ledger.load().release(releases.second), ledger.load(), Store())
    done = cli("release")
    assert done.returncode == 0, done.stderr
    made = ledger.load().resolve(done.stdout.split()[0])
    assert "For tests." in card.render(ledger.load().release(made), ledger.load(), Store())


def test_without_the_data_the_card_still_says_what_the_record_does(releases: Releases) -> None:
    for objects in (".dvc/cache/files", ".dvc-remote/files"):
        Path(objects).rename(f"{objects}.away")
    text = card.render(ledger.load().release(releases.second), ledger.load(), Store())
    assert "Not there: " in section(text, "Slices")
    assert all(name in section(text, "Features") for name in ledger.load().release(releases.second).model["features"])


def test_the_command_writes_a_file(releases: Releases, tmp_path: Path) -> None:
    done = cli("card", "production", "--out", str(tmp_path / "card.md"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "card.md").read_text(encoding="utf-8").startswith("# ")
    assert cli("card", "production").stdout == (tmp_path / "card.md").read_text(encoding="utf-8")
