"""The parts that a project can switch off, with `without` under [tool.lifecycle] in its pyproject.toml.

Such a part's commands are hidden and refuse to run, its flows do nothing, and its package may be deleted.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from . import project

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Part:
    """`room`: the part's folder, if it has its own. `needs`: the parts that it requires."""

    commands: tuple[str, ...]
    room: str = ""
    needs: tuple[str, ...] = ()

    @property
    def is_here(self) -> bool:
        """Whether its folder exists."""
        return (HERE / self.room).exists()


PARTS = {
    "serving": Part(("refresh", "serve"), "serving"),
    "scoring": Part(("score",)),
    "monitoring": Part(("incidents", "monitor", "rollout"), "monitoring"),
    "drills": Part(("drill",), "drill", needs=("monitoring", "serving")),
}
OF_COMMAND = {command: name for name, part in PARTS.items() for command in part.commands}


def why_off(name: str) -> str | None:
    """Return one sentence on why the project lacks the part and how to enable it, or None if it has the part."""
    for each in (name, *PARTS[name].needs):
        what = f"the part {name}" + (f" needs {each}, which" if each != name else "")
        where = f"`without` under [tool.lifecycle] in {project.FILE}"
        if each in project.here().without:
            return f"{what} is switched off: to switch it on, take {each} out of {where}"
        if not PARTS[each].is_here:
            folder = os.path.relpath(HERE / PARTS[each].room)
            return f"{what} has lost its folder {folder}: bring that back, or put {each} into {where}"
    return None


def why_no_command(command: str) -> str | None:
    """Return the same for the part that a command belongs to."""
    return why_off(OF_COMMAND[command]) if command in OF_COMMAND else None
