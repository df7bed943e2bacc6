"""The project that this machinery works for: its name, package, model and tables, from its pyproject.toml.

[tool.lifecycle]
model = "flight_delays.model"
tables = "flight_delays.tables:TABLES"
contracts = "flight_delays.contracts:CONTRACTS"
without = ["serving"]  # optional: parts that are switched off, see parts.py
"""

import importlib
import importlib.util
import os
import sys
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from .errors import UserError, one_line

if TYPE_CHECKING:
    from .contract import ModelModule, Table

FILE = Path("pyproject.toml")
# The folders of a project's own code, and of this package.
CODE = ("src", "vendor/lifecycle")
# A separate table in pyproject.toml, so that it is clear which keys belong to this package.
KEYS = ("model", "tables", "contracts")


@dataclass(frozen=True)
class Project:
    """`name` is also the command's. `model`: a module. `tables`, `contracts`: module and name, joined by a colon."""

    name: str
    model: str
    tables: str
    contracts: str
    without: tuple[str, ...]

    @property
    def package(self) -> str:
        """The project's own package, below src/."""
        return self.model.partition(".")[0]


def here() -> Project:
    """Return the project in the current folder.

    Raises:
        UserError: pyproject.toml is missing, damaged, or has no complete [tool.lifecycle].
    """
    return _read(Path.cwd())


@cache
def _read(folder: Path) -> Project:
    try:
        found = tomllib.loads((folder / FILE).read_text(encoding="utf-8"))
    except OSError:
        raise UserError(f"there is no {FILE} here: change to the project's folder") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{FILE} is not valid TOML: {one_line(error)}") from None
    settings: dict[str, Any] = found.get("tool", {}).get("lifecycle", {}) or _before_0_2(folder)
    if missing := [key for key in KEYS if not isinstance(settings.get(key), str)]:
        raise UserError(f"{FILE} has no {missing[0]} under [tool.lifecycle]: see vendor/lifecycle/docs/contract.md")
    without = settings.get("without", [])
    if not isinstance(without, list) or not all(isinstance(each, str) for each in without):
        raise UserError(f'{FILE}: without under [tool.lifecycle] must be a list of names, like ["serving"]')
    name = found.get("project", {}).get("name", folder.name)
    return Project(name, settings["model"], settings["tables"], settings["contracts"], tuple(without))


def _before_0_2(folder: Path) -> dict[str, str]:
    """Return the settings of an old release's project, which had the machinery in its own package."""
    packages = [file.parents[1].name for file in folder.glob("src/*/lifecycle/ledger.py")]
    return {
        key: value
        for name in packages
        for key, value in zip(
            KEYS, (f"{name}.model", f"{name}.stages.tables:TABLES", f"{name}.stages.contracts:CONTRACTS"), strict=True
        )
    }


def command() -> str:
    """Return the name of the command line: the project's or, outside of a project, the name it was called by."""
    try:
        return here().name
    except UserError:
        return Path(sys.argv[0]).name


def model() -> "ModelModule":
    """Return the project's model module from the working tree."""
    return cast("ModelModule", _module(here().model))


def tables() -> dict[str, "Table"]:
    """Return the raw tables, by name."""
    return cast("dict[str, Table]", _named(here().tables))


def contracts() -> dict[str, Any]:
    """Return the Pandera model of each raw table, by the table's name."""
    return cast("dict[str, Any]", _named(here().contracts))


def _named(where: str) -> Any:
    module, _, name = where.partition(":")
    try:
        return getattr(_module(module), name)
    except AttributeError:
        raise UserError(f"{module} has no {name}, which [tool.lifecycle] in {FILE} asks for") from None


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not name.startswith(error.name):
            raise
        raise UserError(f"there is no module {name}, which [tool.lifecycle] in {FILE} names") from None


def file_of(where: str) -> Path:
    """Return the file of a module, given alone or as `module:NAME`, without importing it.

    Raises:
        UserError: there is no such module.
    """
    name = where.partition(":")[0]
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise UserError(f"there is no module {name}, which [tool.lifecycle] in {FILE} names")
    return Path(spec.origin)


def path_of(where: str) -> str:
    """Return the file of a module for messages: relative to the project's folder."""
    return os.path.relpath(file_of(where))


def python_path(folder: Path) -> str:
    """Return PYTHONPATH for processes that run a project's code in `folder`. Early releases have no vendor/."""
    return os.pathsep.join(str(folder / name) for name in CODE)
