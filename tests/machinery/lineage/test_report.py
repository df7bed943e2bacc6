"""What a change does, for its reviewers: against the commit that it starts from, out of cache or remote."""

import shutil
from pathlib import Path

import pytest
import yaml

from lifecycle.errors import UserError
from lifecycle.lineage.report import report
from lifecycle.releases.store import Store
from lifecycle.testing import FEWER_LEAVES, Releases, cli, commit_all, repro

# In the history of the fixture: the first result, smaller trees, the second result.
FIRST = "HEAD~2"


def test_parameters_metrics_and_outputs_that_differ(releases: Releases) -> None:
    found = report(FIRST, Store())
    assert [(each.name, each.new) for each in found.params] == [("train.num_leaves", FEWER_LEAVES)]
    assert "model" in {each.name for each in found.outputs}
    assert not {"data/raw", "data/features"} & {each.name for each in found.outputs}
    assert found.metrics
    assert all(found.gates.values())
    assert (found.source, found.sql, found.notes) == ([], {}, [])
    page = found.as_markdown()
    assert "All gates pass." in page
    assert "| train.num_leaves |" in page


def test_changed_sql_and_what_it_reaches(releases: Releases) -> None:
    file = sorted(Path("transform/models/staging").glob("*.sql"))[0]
    file.write_text(f"-- Looked at again.\n{file.read_text(encoding='utf-8')}", encoding="utf-8")
    commit_all(releases.folder, "A comment")
    repro(releases.folder)
    found = report("HEAD~1", Store())
    assert list(found.sql) == [str(file)]
    assert f"| `{file}` |" in found.as_markdown()


def test_a_failed_gate_comes_first(releases: Releases) -> None:
    gates = Path("reports/gates.json")
    gates.write_text(gates.read_text(encoding="utf-8").replace("true", "false", 1), encoding="utf-8")
    assert " gates fail: " in report(FIRST, Store()).as_markdown().splitlines()[2]


def test_what_nobody_has_any_more_is_said(releases: Releases) -> None:
    for place in (".dvc/cache", ".dvc-remote"):
        shutil.rmtree(place)
    found = report(FIRST, Store())
    assert found.metrics == []
    assert any("reports/metrics.json" in note for note in found.notes)
    assert found.params


def test_the_command_prints_markdown_and_refuses_no_commit(releases: Releases) -> None:
    printed = cli("report", "--base", FIRST)
    assert printed.returncode == 0, printed.stderr
    assert printed.stdout.startswith("## What changes since ")
    with pytest.raises(UserError, match="nonsense is not a commit here"):
        report("nonsense", Store())


def test_before_anything_was_built(releases: Releases) -> None:
    found = report("HEAD~3", Store())
    assert yaml.safe_load(Path("dvc.lock").read_text(encoding="utf-8"))
    assert found.notes == ["The base had built nothing."]
    assert all(each.old is None for each in found.outputs)
