"""The parts that a project can switch off, with `without` under [tool.lifecycle] in its pyproject.toml.

The commands of such a part are not listed and refuse, its flows do nothing, and its room may be deleted.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from . import project

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Part:
    """`room`: its folder, where it has one of its own. `needs`: the parts without which it cannot be."""

    commands: tuple[str, ...]
    room: str = ""
    needs: tuple[str, ...] = ()

    @property
    def is_here(self) -> bool:
        """Whether its room has not been deleted."""
        return (HERE / self.room).exists()


PARTS = {
    "serving": Part(("refresh", "serve"), "serving"),
    "scoring": Part(("score",)),
    "monitoring": Part(("incidents", "monitor", "rollout"), "monitoring"),
    "drills": Part(("drill",), "drill", needs=("monitoring", "serving")),
}
OF_COMMAND = {command: name for name, part in PARTS.items() for command in part.commands}


def why_off(name: str) -> str | None:
    """Why the project does not have the part, and how to have it, in one sentence; None if it has it."""
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
    """The same for the part that a command belongs to."""
    return why_off(OF_COMMAND[command]) if command in OF_COMMAND else None
