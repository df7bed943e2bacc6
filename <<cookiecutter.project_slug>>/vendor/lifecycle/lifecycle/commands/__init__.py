"""The commands of the command line, a module for each topic."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .command import Command

# In the order of `--help`.
MODULES = (
    *("run", "sweep", "status", "release", "channels", "rollout", "score", "maintenance", "lineage", "monitor"),
    *("drill", "refresh", "serve", "ui", "check", "docs", "steps"),
)


def everything() -> "list[Command]":
    """Return all commands."""
    for name in MODULES:
        import_module(f".{name}", __name__)
    from .command import COMMANDS

    return list(COMMANDS.values())
