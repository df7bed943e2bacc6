"""A baked project, for real: its environment, its pipeline on the real data, tests and linters.

One project serves all of these, in order, in one worker; the first test pays for setting it up.
"""

import json
import os
import re
from pathlib import Path

import pytest

from baking import TEMPLATE, bake
from running import contents, make, run

pytestmark = pytest.mark.xdist_group("run")


def test_the_pipeline_runs_on_real_data(ready):
    project, printed = ready
    assert "flight-delays version 1, alias challenger" in printed
    assert "Traceback" not in printed
    for stage in ("ingest", "transform", "train", "evaluate"):
        assert f"  {stage:<10} ran" in printed
    assert len(list((project / "data/raw/flights").glob("2013-*.parquet"))) == 10
    metrics = json.loads((project / "reports/metrics.json").read_text())
    assert metrics["rows"] == 28_618  # flights of October 2013 that landed where they should
    assert metrics["roc_auc"] > 0.70
    assert metrics["log_loss"] < metrics["baselines"]["carrier_hour"]["log_loss"]
    assert all(gate["pass"] for gate in json.loads((project / "reports/gates.json").read_text()))


def test_running_again_does_nothing(ready):
    project, _ = ready
    before = contents(project)
    assert "Nothing has changed." in make(project, "run")
    assert contents(project) == before
    status = json.loads(run(project, ".venv/bin/flight-delays", "status", "--json"))
    assert all(stage["fresh"] for stage in status["stages"])
    assert status["last_run"]["version"] == 1


def test_a_second_bake_gives_the_same_bytes_by_hand_and_on_one_core(
    ready, ready_contents, tmp_path
):
    project, _ = ready
    second = bake(tmp_path / "out")
    one_core = {min(os.sched_getaffinity(0))} if hasattr(os, "sched_getaffinity") else None
    python = project / ".venv/bin"
    path = f"{python}{os.pathsep}{os.environ['PATH']}"
    run(
        second,
        *("env", f"PATH={path}", "dvc", "repro"),
        preexec_fn=one_core and (lambda: os.sched_setaffinity(0, one_core)),
    )
    assert contents(second) == ready_contents


def test_the_watermark_goes_back_and_forth_without_recomputing(ready):
    project, _ = ready
    cli = str(project / ".venv/bin/flight-delays")
    before = contents(project)
    lower = run(project, cli, "run", "--through", "2013-05")
    assert "train      ran" in lower
    assert len(list((project / "data/raw/flights").iterdir())) == 5
    higher = run(project, cli, "run", "--through", "2013-10")
    assert " ran " not in "".join(
        line for line in higher.splitlines() if not line.startswith("  track")
    )
    assert contents(project) == before


def test_linters_and_types_are_clean(ready):
    project, _ = ready
    make(project, "lint")


def test_pre_commit_hooks_pass(ready, tmp_path):
    project, _ = ready
    run(project, "git", "add", "--all")
    hooks = run(
        project,
        *("env", f"PRE_COMMIT_HOME={tmp_path}"),
        *(".venv/bin/pre-commit", "run", "--all-files"),
    )
    assert hooks.count("Passed") == 5


def test_dvc_shows_metrics_and_plots(ready, tmp_path):
    project, _ = ready
    assert "roc_auc" in run(project, ".venv/bin/dvc", "metrics", "diff", "--all")
    run(project, ".venv/bin/dvc", "plots", "show", "--out", str(tmp_path / "plots"))
    page = (tmp_path / "plots/index.html").read_text()
    for plot in ("ROC curve", "Calibration", "Learning curve", "Importance"):
        assert plot in page


def test_dbt_documents_every_model(ready):
    project, _ = ready
    assert "static_index.html" in make(project, "docs")
    page = (project / "transform/target/static_index.html").read_text()
    assert "carrier_late_rate_7d" in page


def test_setup_again_is_a_no_op(ready):
    project, _ = ready
    assert "Nothing to be done" in make(project, "setup")


def test_its_own_tests_pass(ready):
    project, _ = ready
    printed = make(project, "test")
    assert " passed" in printed


def test_help_is_an_index(ready):
    project, _ = ready
    printed = make(project, "help")
    for target in ("setup", "run", "status", "test", "lint", "ui", "docs", "clean"):
        assert f"make {target} " in printed


def test_nothing_of_a_run_is_left_to_git(ready):
    """What a run makes is DVC's or ignored; the files it writes under git say what was built."""
    project, _ = ready
    changed = run(project, "git", "status", "--porcelain")
    names = {line[3:] for line in changed.splitlines()}
    assert names <= {"dvc.lock", "params.yaml", "data/source.json", ".gitignore"}
    assert not Path(project, "mlruns").exists()


def test_the_life_of_a_release(lived):
    project, told = lived
    for step in (
        "generation 1",
        "a bad delivery of December is refused",
        "flights.csv did not pass the gate",
        "generation 3",
        "in quarantine",
        "reproduce production: L0 for all 10 outputs",
        "again, by itself: ",
        "requests, 0 failed",
        "restore production: the work tree is that of",
        "verify --all: 4 releases and the ledger are whole",
    ):
        assert step in told
    assert run(project, "git", "status", "--porcelain") == ""


def test_the_demo_ends_with_the_production_release_in_a_clean_work_tree(lived):
    project, told = lived
    cli = str(project / ".venv/bin/flight-delays")
    status = json.loads(run(project, cli, "status", "--json"))
    assert all(stage["fresh"] for stage in status["stages"])
    channels = status["channels"]
    good = channels["production"]["release"]
    assert channels["staging"]["release"] == good
    assert run(project, "git", "diff", "--stat", f"release/{good}") == ""
    baked = run(project, "git", "rev-list", "--max-parents=0", "HEAD").strip()
    assert run(project, "git", "diff", "--stat", baked, "--", "src") == ""
    assert not any((project / "data/quarantine").glob("*"))
    assert not (project / "delivery").exists()
    # What it ends with is there to be typed and opened.
    _, shown = told.split("Look around:")
    for command in ("status", "history production"):
        assert f"flight-delays {command} " in shown
        run(project, cli, *command.split())
    for page in re.findall(r"[.\w/]+/\w+\.html", shown):
        assert (project / page).exists(), page


def test_openlineage_events_are_what_the_published_schemas_ask_for(lived, tmp_path):
    """All that the project has written by now: its run, and the story above."""
    project, _ = lived
    events = project / ".lifecycle/openlineage.jsonl"
    check = [project / ".venv/bin/python", TEMPLATE / "tests/openlineage_check.py"]
    lines = set(run(project, *check, events).splitlines())
    jobs = ("ingest", "features.flights", "train", "evaluate", "release", "promote", "rollback")
    assert {f"event {job} COMPLETE" for job in jobs} <= lines
    facets = "Schema ColumnLineage Datasource DatasetVersion SQL SourceCodeLocation JobType"
    facets += " NominalTime Parent OutputStatistics DataQualityAssertions"
    seen = " ".join(lines)
    assert [name for name in facets.split() if f"facet {name}" not in seen] == []
    for good, bad in (('"runId": "', '"runId": "x'), ('"query"', '"ask"')):
        broken = tmp_path / "broken.jsonl"
        broken.write_text(events.read_text().replace(good, bad))
        with pytest.raises(AssertionError):
            run(project, *check, broken)
