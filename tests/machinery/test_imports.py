"""Which room may use which: stages know nothing of the lifecycle, and the command line is quick to answer."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lifecycle

PACKAGE = lifecycle.__name__
SOURCE = Path(lifecycle.__file__).parent
# Room -> rooms and modules it must not import. What is not listed may be imported by everybody.
FORBIDDEN = {
    "stages": {"cli", "commands", "drill", "flows", "lineage", "monitoring", "predictions", "releases", "serving"},
    "releases": {"cli", "commands", "drill", "flows", "lineage", "monitoring", "predictions", "serving", "stages"},
    "predictions": {"cli", "commands", "drill", "flows", "lineage", "monitoring", "releases", "serving", "stages"},
    "lineage": {"cli", "commands", "drill", "flows", "monitoring", "serving", "stages"},
    "monitoring": {"cli", "commands", "drill", "flows", "lineage", "serving", "stages"},
    "serving": {"cli", "commands", "drill", "flows", "lineage", "monitoring", "stages"},
    "drill": {"cli", "commands", "flows", "lineage", "monitoring", "serving", "stages"},
    "flows": {"cli", "commands", "drill"},
    "team": {"cli", "commands", "drill", "lineage", "monitoring", "predictions", "serving", "stages"},
    "commands": {"cli"},
    "testing": {"cli", "commands", "drill", "flows", "lineage", "monitoring", "predictions", "serving"},
    "params": {"cli", "commands", "drill", "flows", "lineage", "releases", "serving", "stages"},
}
SLOW = {
    *("dbt", "duckdb", "dvc", "fastapi", "fsspec", "jinja2", "lightgbm", "matplotlib", "mlflow", "networkx", "numpy"),
    *("openlineage", "orjson", "pandas", "pandera", "prefect", "pyarrow", "sklearn", "sqlglot", "uvicorn"),
}


def imported_rooms(file: Path) -> Iterator[str]:
    """The rooms and modules of this package that a file imports, at its top or inside a function."""
    package = (PACKAGE, *file.relative_to(SOURCE).with_suffix("").parts[:-1])
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            base += node.module.split(".") if node.module else []
            names = [[*base, alias.name] for alias in node.names]
        else:
            continue
        yield from (name[1] for name in names if name[0] == PACKAGE and len(name) > 1)


def files_of(room: str) -> list[Path]:
    return sorted((SOURCE / room).rglob("*.py")) or [SOURCE / f"{room}.py"]


@pytest.mark.parametrize("room", FORBIDDEN)
def test_the_direction_of_imports(room: str) -> None:
    for file in files_of(room):
        wrong = FORBIDDEN[room] & set(imported_rooms(file))
        assert not wrong, f"{file.relative_to(SOURCE)} imports {', '.join(sorted(wrong))}"


def test_imports_are_seen_however_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("test_imports.SOURCE", tmp_path)
    file = tmp_path / "stages/x.py"
    file.parent.mkdir()
    file.write_text(
        f"import lifecycle.cli\nfrom lifecycle.flows.server import y\nfrom {PACKAGE} import commands\n"
        "def f():\n    from ..lifecycle import git\n    from .. import serving\n    from . import gate\n    import os\n"
    )
    assert sorted(imported_rooms(file)) == ["cli", "commands", "flows", "lifecycle", "serving", "stages"]


def test_every_room_is_in_the_list() -> None:
    rooms = {path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists()}
    assert rooms <= FORBIDDEN.keys()


def test_importing_the_command_line_imports_nothing_slow(tmp_path: Path) -> None:
    program = "import sys, lifecycle.cli\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert slow_among(done.stdout.split()) == set()


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["status", "-h"], ["rollback", "-h"], ["trace", "-h"]]
)
def test_help_imports_nothing_slow(arguments: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "lifecycle.cli", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "Usage: " in done.stdout
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    assert slow_among([line.rsplit("|", 1)[-1].strip() for line in lines]) == set()


def slow_among(modules: list[str]) -> set[str]:
    assert "typer" in modules
    return SLOW & {name.split(".")[0] for name in modules}
