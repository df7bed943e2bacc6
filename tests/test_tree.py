"""What a bake writes: exactly these files, tidy, with no mark of the template left."""

import json
import re

import pytest

from baking import BLANK, HOSTILE, LONG, PROJECT, SHORT, TEMPLATE, Refusal, bake, files_of

# The files of a default bake, one a line. After adding a file to the template, add it.
EXPECTED = """
.devcontainer/devcontainer.json
.dvc/.gitignore
.dvc/config
.dvcignore
.gitattributes
.github/CODEOWNERS
.github/ISSUE_TEMPLATE/incident.yml
.github/dependabot.yml
.github/workflows/ci.yml
.github/workflows/drill.yml
.github/workflows/promote.yml
.github/workflows/scheduled.yml
.gitignore
.pre-commit-config.yaml
.template.json
LICENSE
Makefile
README.md
data/source.json
docs/ci.md
docs/data.md
docs/intended_use.md
docs/lineage.md
docs/monitoring.md
docs/openlineage.md
docs/own-data.md
docs/pipeline.md
docs/releases.md
docs/rollout.md
docs/serving.md
dvc.yaml
params.yaml
prefect.yaml
pyproject.toml
requirements.lock
src/flight_delays/__init__.py
src/flight_delays/cli.py
src/flight_delays/commands/__init__.py
src/flight_delays/commands/channels.py
src/flight_delays/commands/drill.py
src/flight_delays/commands/lineage.py
src/flight_delays/commands/monitor.py
src/flight_delays/commands/refresh.py
src/flight_delays/commands/release.py
src/flight_delays/commands/rollout.py
src/flight_delays/commands/run.py
src/flight_delays/commands/score.py
src/flight_delays/commands/serve.py
src/flight_delays/commands/shown.py
src/flight_delays/commands/status.py
src/flight_delays/commands/ui.py
src/flight_delays/commands/upkeep.py
src/flight_delays/drill/__init__.py
src/flight_delays/drill/batches.py
src/flight_delays/drill/defects.py
src/flight_delays/drill/drill.py
src/flight_delays/drill/faults.py
src/flight_delays/drill/load.py
src/flight_delays/drill/models.py
src/flight_delays/drill/scene.py
src/flight_delays/drill/stand.py
src/flight_delays/drill/state.py
src/flight_delays/errors.py
src/flight_delays/files.py
src/flight_delays/flows/__init__.py
src/flight_delays/flows/monitor.py
src/flight_delays/flows/pipeline.py
src/flight_delays/flows/refresh.py
src/flight_delays/flows/release.py
src/flight_delays/flows/rollout.py
src/flight_delays/flows/score.py
src/flight_delays/flows/server.py
src/flight_delays/lifecycle/__init__.py
src/flight_delays/lifecycle/approvals.py
src/flight_delays/lifecycle/channels.py
src/flight_delays/lifecycle/compare.py
src/flight_delays/lifecycle/databases.py
src/flight_delays/lifecycle/entries.py
src/flight_delays/lifecycle/features.py
src/flight_delays/lifecycle/gc.py
src/flight_delays/lifecycle/git.py
src/flight_delays/lifecycle/heal.py
src/flight_delays/lifecycle/history.py
src/flight_delays/lifecycle/ledger.py
src/flight_delays/lifecycle/loading.py
src/flight_delays/lifecycle/online.py
src/flight_delays/lifecycle/operations.py
src/flight_delays/lifecycle/pipeline.py
src/flight_delays/lifecycle/pointers.py
src/flight_delays/lifecycle/policy.py
src/flight_delays/lifecycle/reconcile.py
src/flight_delays/lifecycle/record.py
src/flight_delays/lifecycle/registry.py
src/flight_delays/lifecycle/release.py
src/flight_delays/lifecycle/replay.py
src/flight_delays/lifecycle/reproduce.py
src/flight_delays/lifecycle/restore.py
src/flight_delays/lifecycle/scoring.py
src/flight_delays/lifecycle/store.py
src/flight_delays/lifecycle/tracking.py
src/flight_delays/lifecycle/verify.py
src/flight_delays/lifecycle/window.py
src/flight_delays/lifecycle/worktree.py
src/flight_delays/lineage/__init__.py
src/flight_delays/lineage/attach.py
src/flight_delays/lineage/card.py
src/flight_delays/lineage/columns.py
src/flight_delays/lineage/events.py
src/flight_delays/lineage/graph.py
src/flight_delays/lineage/impact.py
src/flight_delays/lineage/openlineage.py
src/flight_delays/lineage/page.css
src/flight_delays/lineage/page.html.j2
src/flight_delays/lineage/page.js
src/flight_delays/lineage/page.py
src/flight_delays/lineage/project.py
src/flight_delays/lineage/reader.py
src/flight_delays/lineage/report.py
src/flight_delays/lineage/structure.py
src/flight_delays/lineage/trace.py
src/flight_delays/lineage/tree.py
src/flight_delays/model.py
src/flight_delays/monitoring/__init__.py
src/flight_delays/monitoring/alerts.py
src/flight_delays/monitoring/canary.py
src/flight_delays/monitoring/drift.py
src/flight_delays/monitoring/gauges.py
src/flight_delays/monitoring/history.py
src/flight_delays/monitoring/incidents.py
src/flight_delays/monitoring/measure.py
src/flight_delays/monitoring/monitor.py
src/flight_delays/monitoring/operation.py
src/flight_delays/monitoring/page.html.j2
src/flight_delays/monitoring/page.py
src/flight_delays/monitoring/profile.py
src/flight_delays/monitoring/quality.py
src/flight_delays/monitoring/retention.py
src/flight_delays/monitoring/rollout.py
src/flight_delays/monitoring/sequential.py
src/flight_delays/monitoring/shadow.py
src/flight_delays/monitoring/summary.py
src/flight_delays/monitoring/triggers.py
src/flight_delays/monitoring/verdicts.py
src/flight_delays/monitoring/window.py
src/flight_delays/params.py
src/flight_delays/progress.py
src/flight_delays/serving/__init__.py
src/flight_delays/serving/api.py
src/flight_delays/serving/app.py
src/flight_delays/serving/guard.py
src/flight_delays/serving/ids.py
src/flight_delays/serving/loader.py
src/flight_delays/serving/log.py
src/flight_delays/serving/metrics.py
src/flight_delays/serving/online.py
src/flight_delays/serving/predictions.py
src/flight_delays/serving/pyfunc.py
src/flight_delays/serving/routing.py
src/flight_delays/serving/schema.py
src/flight_delays/stages/__init__.py
src/flight_delays/stages/contracts.py
src/flight_delays/stages/declared.py
src/flight_delays/stages/evaluate.py
src/flight_delays/stages/gate.py
src/flight_delays/stages/history.py
src/flight_delays/stages/ingest.py
src/flight_delays/stages/report.html.j2
src/flight_delays/stages/report.py
src/flight_delays/stages/source.py
src/flight_delays/stages/tables.py
src/flight_delays/stages/train.py
src/flight_delays/stages/transform.py
tests/browser.py
tests/clients.py
tests/commands/test_monitor_command.py
tests/commands/test_run.py
tests/commands/test_status.py
tests/commands/test_ui.py
tests/conftest.py
tests/drill/test_drill.py
tests/flows/conftest.py
tests/flows/test_monitor_flow.py
tests/flows/test_pipeline.py
tests/flows/test_refresh.py
tests/flows/test_release.py
tests/flows/test_rollout_flow.py
tests/flows/test_score.py
tests/flows/test_server.py
tests/graphs.py
tests/killing.py
tests/ledgers.py
tests/lifecycle/test_approvals.py
tests/lifecycle/test_channels.py
tests/lifecycle/test_databases.py
tests/lifecycle/test_faults.py
tests/lifecycle/test_git.py
tests/lifecycle/test_heal.py
tests/lifecycle/test_kills.py
tests/lifecycle/test_ledger.py
tests/lifecycle/test_network.py
tests/lifecycle/test_policy.py
tests/lifecycle/test_put_back.py
tests/lifecycle/test_races.py
tests/lifecycle/test_record.py
tests/lifecycle/test_scoring.py
tests/lifecycle/test_stage_errors.py
tests/lifecycle/test_tracking.py
tests/lifecycle/test_verify.py
tests/lineage/test_attach.py
tests/lineage/test_card.py
tests/lineage/test_columns.py
tests/lineage/test_graph.py
tests/lineage/test_impact.py
tests/lineage/test_openlineage.py
tests/lineage/test_page.py
tests/lineage/test_report.py
tests/lineage/test_structure.py
tests/lineage/test_trace.py
tests/monitoring/test_alerts.py
tests/monitoring/test_canary.py
tests/monitoring/test_drift.py
tests/monitoring/test_evidence.py
tests/monitoring/test_incidents.py
tests/monitoring/test_monitor.py
tests/monitoring/test_quality.py
tests/monitoring/test_retention.py
tests/monitoring/test_rollout.py
tests/monitoring/test_sequential.py
tests/monitoring/test_triggers.py
tests/monitoring/test_verdicts.py
tests/needs.py
tests/predictions.py
tests/rows.py
tests/servers.py
tests/serving/conftest.py
tests/serving/test_app.py
tests/serving/test_ids.py
tests/serving/test_log.py
tests/serving/test_online.py
tests/serving/test_routing.py
tests/serving/test_schema.py
tests/serving/test_serve.py
tests/stages/test_evaluate.py
tests/stages/conftest.py
tests/stages/test_formats.py
tests/stages/test_gate.py
tests/stages/test_history.py
tests/stages/test_ingest.py
tests/stages/test_source.py
tests/stages/test_train.py
tests/support.py
tests/synthetic.py
tests/test_cli.py
tests/test_errors.py
tests/test_files.py
tests/test_imports.py
tests/test_interrupts.py
tests/test_params.py
tests/test_secrets.py
tests/transform/test_point_in_time.py
tests/transform/test_sql.py
tests/workers.py
tools/setup.py
tools/template.py
transform/dbt_project.yml
transform/macros/age_at_watermark.sql
transform/macros/generate_schema_name.sql
transform/macros/generic_tests.sql
transform/macros/late_history.sql
transform/macros/next_reading_of_clock.sql
transform/macros/rate.sql
transform/macros/sources_as_views.sql
transform/models/features/features.yml
transform/models/features/flights.sql
transform/models/features/late_history.sql
transform/models/features/unit_tests.yml
transform/models/sources.yml
transform/models/staging/staging.yml
transform/models/staging/stg_airlines.sql
transform/models/staging/stg_airports.sql
transform/models/staging/stg_flights.sql
transform/models/staging/stg_planes.sql
transform/models/staging/stg_weather.sql
transform/models/staging/unit_tests.yml
transform/profiles.yml
transform/seeds/airports_not_in_source.csv
transform/seeds/seeds.yml
transform/tests/clocks_agree.sql
transform/tests/features_cover_every_flight.sql
transform/tests/landings_leave_time_to_fly.sql
transform/tests/outcomes_come_after_the_question.sql
""".split()

# What `example: blank` has not, and has instead.
OF_FLIGHTS = """
transform/macros/late_history.sql
transform/macros/next_reading_of_clock.sql
transform/models/features/flights.sql
transform/models/features/late_history.sql
transform/models/staging/stg_airlines.sql
transform/models/staging/stg_airports.sql
transform/models/staging/stg_flights.sql
transform/models/staging/stg_planes.sql
transform/models/staging/stg_weather.sql
transform/models/staging/unit_tests.yml
transform/seeds/airports_not_in_source.csv
transform/seeds/seeds.yml
transform/tests/clocks_agree.sql
transform/tests/features_cover_every_flight.sql
transform/tests/landings_leave_time_to_fly.sql
""".split()
OF_BLANK = (
    """
transform/models/features/events.sql
transform/models/staging/stg_events.sql
transform/tests/features_cover_every_event.sql
tests/test_leaks.py
""".split()
    + [f"example/events/2013-{month:02}.csv" for month in range(1, 13)]
)
# Exactly where a team's own thing goes.
TO_DO = """
docs/data.md
docs/intended_use.md
params.yaml
src/things_that_end/stages/contracts.py
src/things_that_end/stages/tables.py
tests/synthetic.py
tests/transform/test_point_in_time.py
transform/models/features/events.sql
transform/models/sources.yml
transform/models/staging/stg_events.sql
""".split()

OPENING = "<" + "<"
LEFTOVER = re.compile(r"<<|<%|%>|<#|#>|cookiecutter[._]")
BINARY = {".png", ".gz"}


def texts_of(folder):
    """Yield the relative path and the text of each text file."""
    for name in files_of(folder):
        if "__pycache__" not in name and (folder / name).suffix not in BINARY:
            yield name, (folder / name).read_bytes().decode("utf-8")


def test_exact_file_list(project):
    found = files_of(project)
    missing, unknown = sorted({*EXPECTED} - {*found}), sorted({*found} - {*EXPECTED})
    assert unknown == [], "\n".join(["add to EXPECTED:", *unknown])
    assert missing == [], "\n".join(["remove from EXPECTED:", *missing])


def test_exact_file_list_of_a_blank_start(tmp_path, no_git):
    expected = {*EXPECTED} - {*OF_FLIGHTS} | {*OF_BLANK}
    baked = bake(tmp_path / "out", BLANK)
    assert {*files_of(baked)} == {
        name.replace("flight_delays", "things_that_end") for name in expected
    }


def test_todo_stands_where_a_teams_own_thing_goes_and_nowhere_else(tmp_path, no_git, project):
    def found(folder):
        guide = "docs/own-data.md"  # it tells how they are done
        return [name for name, text in texts_of(folder) if "TODO" in text and name != guide]

    assert found(bake(tmp_path / "out", BLANK)) == TO_DO
    assert found(project) == []


@pytest.mark.parametrize(
    "answers",
    [{}, SHORT, LONG, HOSTILE, BLANK],
    ids=["default", "short", "long", "hostile", "blank"],
)
def test_no_mark_is_left(answers, tmp_path, no_git):
    baked = bake(tmp_path / "out", answers)
    assert not isinstance(baked, Refusal), baked
    assert [name for name in files_of(baked) if LEFTOVER.search(name)] == []
    found = [
        f"{name}:{number}: {line}"
        for name, text in texts_of(baked)
        for number, line in enumerate(text.splitlines(), 1)
        # The tool for updates is about cookiecutter.
        if LEFTOVER.search(
            line.replace("cookiecutter", "") if name == "tools/template.py" else line
        )
    ]
    assert found == []


def test_no_literal_opening_in_the_template():
    """`<<` starts an expression: a heredoc, a merge key or a bit shift would not survive."""
    found = [
        f"{name}:{number}: {line}"
        for name, text in texts_of(PROJECT)
        for number, line in enumerate(text.splitlines(), 1)
        if OPENING in line.replace(f"{OPENING} cookiecutter.", "")
    ]
    assert found == []


@pytest.mark.parametrize("example", ["flights", "blank"])
@pytest.mark.parametrize("license", ["MIT", "Apache-2.0", "BSD-3-Clause", "proprietary"])
def test_tidy(license, example, tmp_path, no_git):
    baked = bake(tmp_path / "out", {"license": license, "example": example})
    untidy = []
    for name, text in texts_of(baked):
        if text == "":
            continue
        if not text.endswith("\n") or text.endswith("\n\n"):
            untidy.append(f"{name}: must end with exactly one newline")
        if text.startswith("\n") or "\r" in text:
            untidy.append(f"{name}: starts with an empty line or holds a carriage return")
        holds_python = name.endswith(".py") or name == "docs/own-data.md"
        if "\n\n\n\n" in text or ("\n\n\n" in text and not holds_python):
            untidy.append(f"{name}: holds a hole of empty lines")
        for number, line in enumerate(text.splitlines(), 1):
            if line != line.rstrip():
                untidy.append(f"{name}:{number}: trailing whitespace")
    assert untidy == []


def test_each_question_has_a_label():
    questions = json.loads((TEMPLATE / "cookiecutter.json").read_text())
    asked = {key for key in questions if not key.startswith("_")}
    assert asked == questions["__prompts__"].keys()
    labels = questions["__prompts__"]["license"]
    assert labels.keys() == {"__prompt__", *questions["license"]}
