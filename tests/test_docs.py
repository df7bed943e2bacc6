"""The docs build strictly, name only what exists, and print what the commands print.

`python tests/test_docs.py` writes docs/reference.md anew; `python tests/test_docs.py PROJECT` also
what the commands of the README and the tutorial print, in a project that `make demo` has made.
"""

import ast
import json
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import tomllib
import yaml

from baking import TEMPLATE, bake, files_of
from running import run

DOCS = TEMPLATE / "docs"
MACHINERY = "vendor/lifecycle"
PAGES = sorted(DOCS.glob("*.md"))
# Pages with commands and what they print after `make demo`.
TOLD = [TEMPLATE / "README.md", DOCS / "tutorial.md"]
# Stands above a block of commands that no test executes, and says why.
MARK = re.compile(r"<!-- not executed: [^>]+ -->\n\Z")
LONGEST = 32  # lines of output that the tutorial shows
# What differs from one time to the next.
VOLATILE = [
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d)?(\.\d+)?(Z|\+00:00)", "TIME"),
    (r"\br-[0-9a-f]{4,12}\b", "RELEASE"),
    (r"\b[0-9a-f]{8,64}\b", "DIGEST"),
    (r"\b\d+\.\d s\b", "SECONDS"),
    (r"\b[\d,]+ predictions|predictions [\d,]+", "PREDICTIONS"),
    (r"\bversion \d+", "VERSION"),
    (r"monitor: .*", "monitor: WHY"),
    (r" +", " "),
]


def masked(text):
    for pattern, name in VOLATILE:
        text = re.sub(pattern, name, text, flags=re.MULTILINE)
    return [line.strip() for line in text.splitlines() if line.strip()]


def cell(text):
    return " ".join(str(text).split()).replace("|", "\\|")


def questions():
    """The questions, as cookiecutter asks them."""
    asked = json.loads((TEMPLATE / "cookiecutter.json").read_text())
    prompts = asked["__prompts__"]
    yield "| question | default | asks |"
    yield "|---|---|---|"
    for key, default in asked.items():
        if key.startswith("_"):
            continue
        prompt = prompts[key]
        if isinstance(default, list):
            meanings = "; ".join(
                prompt[answer].replace(" (", ", ").rstrip(")") for answer in default
            )
            yield f"| `{key}` | `{default[0]}` | {cell(prompt['__prompt__'])}: {cell(meanings)} |"
        else:
            shown = "derived" if "<" + "<" in default else default
            yield f"| `{key}` | {cell(shown)} | {cell(prompt)} |"


def commands(project):
    """Every command with what it says of itself."""
    program = """
import inspect, json
from lifecycle.commands import everything
for each in everything():
    print(json.dumps([each.name, inspect.getdoc(each.function), each.example]))
"""
    found = run(project / MACHINERY, sys.executable, "-c", program)
    yield "| command | does | example |"
    yield "|---|---|---|"
    for name, says, example in map(json.loads, found.splitlines()):
        yield f"| `{name}` | {cell(says)} | `{cell(f'flight-delays {example}')}` |"


def parameters(project):
    """params.yaml, which says of itself what everything is."""
    text = (project / "params.yaml").read_text()
    assert yaml.safe_load(text)
    yield "```yaml"
    yield from text.rstrip().splitlines()
    yield "```"


def said(path):
    """The first line of what a file says of itself."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return (ast.get_docstring(ast.parse(text)) or "").split("\n")[0]
    if path.suffix == ".md":
        return text.split("\n")[0].removeprefix("# ")
    if path.suffix in (".yml", ".yaml", ".toml", "") or path.name.startswith("."):
        first = text.split("\n")[0]
        return first.removeprefix("# ") if first.startswith("# ") else ""
    return ""


def short(text):
    """The first sentence, or as many of its words as a line has room for."""
    sentence = text.split(". ")[0].rstrip(".")
    words = sentence[:100].rsplit(" ", 1)[0] if len(sentence) > 100 else sentence
    return words if words == sentence else f"{words.rstrip(',:')} ..."


def tree(project):
    """The files of a default bake, each with what it is; of the machinery's rooms, the rooms."""
    yield "```text"
    before = ()
    for name in files_of(project):
        path = Path(name)
        room = len(path.parts) > 4 and path.parts[0] == "vendor"
        if path.parts[0] == "tests" or (path.name == "__init__.py" and not room):
            continue
        for depth, folder in enumerate(path.parts[:-1]):
            if before[: depth + 1] != path.parts[: depth + 1]:
                inside = project.joinpath(*path.parts[: depth + 1], "__init__.py")
                about = said(inside) if inside.exists() else ""
                yield f"{'  ' * depth}{folder}/".ljust(34) + short(about)
        before = path.parts[:-1]
        if not room:
            line = f"{'  ' * len(before)}{path.name}".ljust(34) + short(said(project / name))
            yield line.rstrip()
    yield "```"


def reference(project):
    """docs/reference.md, from a default bake."""
    parts = [
        *("# Reference", "", "Written by `python tests/test_docs.py`, from a default bake.", ""),
        *("## Questions", "", *questions(), ""),
        *("## Commands", "", "`flight-delays COMMAND --help` has the options.", ""),
        *(*commands(project), ""),
        *("## Parameters", "", *parameters(project), ""),
        *(
            "## Files",
            "",
            "Tests are left out; of the machinery, so are the files of its rooms.",
            "",
        ),
        *tree(project),
    ]
    return "\n".join(line.rstrip() for line in parts) + "\n"


def with_output(page, project):
    """A page with what its commands print, in a project."""

    def block(found):
        arguments = shlex.split(found[1])
        first = first_release(project)
        arguments = [first if re.fullmatch(r"r-\w+", each) else each for each in arguments]
        printed = run(project, f".venv/bin/{arguments[0]}", *arguments[1:], check=False)
        lines = [line[:110] for line in printed.rstrip().splitlines()]
        more = [f"... {len(lines) - LONGEST} more lines"] if len(lines) > LONGEST else []
        return "\n".join(
            ["```console", f"$ {shlex.join(arguments)}", *lines[:LONGEST], *more, "```"]
        )

    return re.sub(r"```console\n\$ (.*)\n(?:.*\n)*?```", block, page)


def blocks(text):
    """The blocks of shell commands on a page that are not marked as never executed."""
    return [
        found[1]
        for found in re.finditer(r"(?ms)^```sh\n(.*?)^```", text)
        if not MARK.search(text[: found.start()])
    ]


def first_release(project):
    entries = json.loads(
        run(project, ".venv/bin/flight-delays", "history", "--limit", "99", "--json")
    )
    entries = entries["entries"] if isinstance(entries, dict) else entries
    return [each["release"] for each in entries if each["kind"] == "release"][-1]


def test_the_reference_is_what_a_bake_has(project):
    expected = (DOCS / "reference.md").read_text(encoding="utf-8")
    assert reference(project) == expected, "run: python tests/test_docs.py"


def test_the_site_builds_strictly(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir"]
    done = subprocess.run(
        [*command, str(tmp_path / "site")], cwd=TEMPLATE, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    for page in PAGES:
        assert (tmp_path / "site" / page.stem).exists() or page.stem == "index"


def test_every_block_of_commands_is_executed_or_marked(project):
    """Those left over are executed by tests/test_tutorial.py and tests/test_own_data.py."""
    pages = [*PAGES, TEMPLATE / "README.md", *project.glob("*.md"), *project.glob("*/*.md")]
    found = {
        page.name: (len(blocks(text)), text.count("```console"))
        for page in pages
        if blocks(text := page.read_text(encoding="utf-8")) or "```console" in text
    }
    assert found == {
        "README.md": (0, 1),
        "own-data.md": (3, 0),
        "quickstart.md": (1, 0),
        "tutorial.md": (0, 8),
    }
    for page in pages:
        info = re.findall(r"(?m)^ *```(\S*)$", page.read_text(encoding="utf-8"))[::2]
        assert set(info) <= {"console", "json", "python", "sh", "sql", "text", "yaml"}, page


@pytest.mark.parametrize("page", [*PAGES, TEMPLATE / "README.md"], ids=lambda page: page.name)
def test_what_a_page_names_exists(page, project):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), target
    for path in re.findall(r"`(tests/[\w/]+\.py)`", text):
        assert (project / path).exists() or (TEMPLATE / path).exists(), path
    for path in re.findall(r"`(benchmarks/[\w/]+\.py)`", text):
        assert (TEMPLATE / path).exists(), path
    source = (project / MACHINERY).glob("lifecycle/commands/*.py")
    declared = [re.findall(r"(?m)^@command\(.*\ndef (\w+)\(", file.read_text()) for file in source]
    known = {name for names in declared for name in names}
    for command in re.findall(r"(?:`|\$ |bin/)flight-delays ([a-z]+)", text):
        assert command in known, command
    targets = {
        target
        for folder in (project, TEMPLATE)
        for target in re.findall(r"(?m)^([a-z-]+):", (folder / "Makefile").read_text())
    }
    for target in re.findall(r"(?:`|(?m:^) *)make ([a-z-]+)", text):
        assert target in targets, target


def test_the_changelog_has_each_release_with_what_to_do_by_hand():
    text = (TEMPLATE / "CHANGELOG.md").read_text(encoding="utf-8")
    version = tomllib.loads((TEMPLATE / "pyproject.toml").read_text())["project"]["version"]
    releases = re.split(r"(?m)^## (?=\[\d)", text)[1:]
    headed = [re.match(r"\[(\d+\.\d+\.\d+)\] - 20\d\d-\d\d-\d\d\n", each) for each in releases]
    assert all(headed)
    assert headed[0][1] == version
    ordered = [tuple(map(int, each[1].split("."))) for each in headed]
    assert ordered == sorted(set(ordered), reverse=True)
    assert all("\n### Migration\n" in each for each in releases)


def main():
    with tempfile.TemporaryDirectory() as folder:
        baked = bake(Path(folder) / "out")
        (DOCS / "reference.md").write_text(reference(baked), encoding="utf-8")
    if sys.argv[1:]:
        for path in TOLD:
            page = with_output(path.read_text(encoding="utf-8"), Path(sys.argv[1]).resolve())
            path.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
