"""What a bake writes: exactly these files, tidy, with no mark of the template left."""

import ast
import json
import re
import subprocess

import pytest

from baking import BLANK, HOSTILE, LONG, PROJECT, SHORT, TEMPLATE, Refusal, bake, files_of

# The files of a default bake but for vendor/, one a line. After adding one to the template, add it.
EXPECTED = """
.devcontainer/devcontainer.json
.dockerignore
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
Dockerfile
LICENSE
Makefile
README.md
data/source.json
deploy/kubernetes/job-template.json
deploy/kubernetes/prefect-worker.yaml
deploy/kubernetes/prefect.yaml
deploy/kubernetes/serving.yaml
docs/ci.md
docs/data.md
docs/how-do-i.md
docs/intended_use.md
docs/own-data.md
dvc.yaml
params.yaml
prefect.yaml
pyproject.toml
requirements.lock
src/flight_delays/__init__.py
src/flight_delays/contracts.py
src/flight_delays/evaluate.py
src/flight_delays/metrics.py
src/flight_delays/model.py
src/flight_delays/report.html.j2
src/flight_delays/report.py
src/flight_delays/tables.py
src/flight_delays/train.py
tests/conftest.py
tests/stages/test_evaluate.py
tests/stages/test_metrics.py
tests/stages/test_report.py
tests/stages/test_train.py
tests/synthetic.py
tests/test_contract.py
tests/test_leaks.py
tests/test_story.py
tests/test_tables.py
tests/transform/test_point_in_time.py
tests/transform/test_sql.py
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
""".split()
    + [f"example/events/2013-{month:02}.csv" for month in range(1, 13)]
)
# Exactly where a team's own thing goes.
TO_DO = """
docs/data.md
docs/intended_use.md
params.yaml
src/things_that_end/contracts.py
src/things_that_end/tables.py
tests/synthetic.py
tests/transform/test_point_in_time.py
transform/models/features/events.sql
transform/models/sources.yml
transform/models/staging/stg_events.sql
""".split()

# Of each example: the most lines of Python that its src/ may have.
MOST_LINES = {"flights": 1_000, "blank": 600}
EXAMPLES = PROJECT / ".examples"

OPENING = "<" + "<"
LEFTOVER = re.compile(r"<<|<%|%>|<#|#>|cookiecutter[._]")
BINARY = {".png", ".gz"}
CACHES = re.compile(r"__pycache__|\.(mypy|pytest|ruff)_cache")


def texts_of(folder):
    """Yield the relative path and the text of each text file."""
    for name in files_of(folder):
        if not CACHES.search(name) and (folder / name).suffix not in BINARY:
            yield name, (folder / name).read_bytes().decode("utf-8")


def own_files_of(folder):
    """The files of a project without the machinery."""
    return [name for name in files_of(folder) if not name.startswith("vendor/")]


def test_exact_file_list(project):
    found = own_files_of(project)
    missing, unknown = sorted({*EXPECTED} - {*found}), sorted({*found} - {*EXPECTED})
    assert unknown == [], "\n".join(["add to EXPECTED:", *unknown])
    assert missing == [], "\n".join(["remove from EXPECTED:", *missing])


def test_exact_file_list_of_a_blank_start(tmp_path, no_git):
    expected = {*EXPECTED} - {*OF_FLIGHTS} | {*OF_BLANK}
    baked = bake(tmp_path / "out", BLANK)
    assert {*own_files_of(baked)} == {
        name.replace("flight_delays", "things_that_end") for name in expected
    }


@pytest.mark.parametrize("answers", [{}, BLANK, HOSTILE], ids=["default", "blank", "hostile"])
def test_the_machinery_is_copied_byte_for_byte(answers, tmp_path, no_git):
    listed = subprocess.run(
        ["git", "ls-files", "-z", "vendor"], cwd=PROJECT, capture_output=True, encoding="utf-8"
    ).stdout.split("\0")
    baked = bake(tmp_path / "out", answers)
    found = {name for name in files_of(baked) if name.startswith("vendor/")}
    assert found == {*filter(None, listed)}
    for name in found:
        assert (baked / name).read_bytes() == (PROJECT / name).read_bytes(), name


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


def test_the_examples_have_the_same_shape():
    """Whoever knows one knows where things are in the other; only the SQL has files of its own."""

    def shape(name):
        files = files_of(EXAMPLES / name)
        kept = {file for file in files if not file.startswith(("transform/", "example/"))}
        return kept | {file.split("/")[0] for file in files} - {"example"}

    assert {path.name for path in EXAMPLES.iterdir()} == {*MOST_LINES}
    assert shape("flights") == shape("blank")


def test_what_the_examples_have_stands_nowhere_else():
    for example in EXAMPLES.iterdir():
        assert [name for name in files_of(example) if (PROJECT / name).exists()] == []


def test_code_has_no_mark_of_the_template():
    package = f"src/{OPENING}cookiecutter.__package_name>>"
    files = [
        file for start in (PROJECT, *EXAMPLES.iterdir()) for file in (start / package).iterdir()
    ]
    assert len(files) > 10
    found = [file for file in files if file.is_file() and re.search("<<|<%", file.read_text())]
    assert found == []


@pytest.mark.parametrize("example", MOST_LINES)
def test_the_code_of_an_example_is_short_and_keeps_to_the_contract(example, tmp_path, no_git):
    files = [*(bake(tmp_path / "out", {"example": example}) / "src").rglob("*.py")]
    lines = sum(len(file.read_text().splitlines()) for file in files)
    assert lines <= MOST_LINES[example]
    imports = {
        f"{getattr(node, 'module', '')} {alias.name}"
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, (ast.Import, ast.ImportFrom)) and not getattr(node, "level", 0)
        for alias in node.names
    }
    machinery = {each for each in imports if re.match(r"\s*lifecycle\b", each)}
    assert machinery
    assert [each for each in machinery if not each.startswith("lifecycle.contract ")] == []


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
